"""Train a small SegGPT to paint in context.

One step: compose a batch of scenes, paint the input halves, weigh object and background alike, step. The forward runs
in bfloat16 on a copy of the float32 weights. The learning rate rises, stays, and falls to zero over the last part of
the given time, so a run ends when the clock says so whatever else the machine does; a run may also be ended at any
moment: the snapshot's moving average is usable.
"""

from __future__ import annotations

import copy
import csv
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from model.colours import normalise
from model.config import SegGptConfig
from model.seggpt import SegGptForImageSegmentation
from training.draw import Dice
from training.initialise import new_network, resized
from training.loss import balanced_loss, overlap
from training.samples import save_samples
from training.scenes import Mixture, SceneMaker, Scenes
from training.snapshot import Snapshot, follow
from training.sources import cut_outs, load_clothing, load_emoji

JUDGED_SCENES = 96  # at every report, the same each time
SEMANTIC_SHARE = 0.2  # of batches that carry the semantic type token, so that both tokens are trained
LOG_COLUMNS = ("pairs", "seconds", "loss", "learning_rate", "held_out_iou")


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a run. Sizes in pixels of one half."""

    size: int = 64
    batch: int = 32
    minutes: float = 60.0
    pairs: int = 10**12
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up_steps: int = 300
    fall: float = 0.25  # share of the time over which the learning rate falls to zero; 0 keeps it up
    balance: float = 1.0
    seed: int = 0
    report_every: int = 500
    optimiser: str = "muon"
    precision: torch.dtype = torch.bfloat16
    mixture: Mixture = field(default_factory=Mixture)


def small_config(size: int) -> SegGptConfig:
    """The bundled checkpoint's shape, at halves of size x size pixels."""
    return SegGptConfig(
        hidden_size=192,
        num_hidden_layers=8,
        num_attention_heads=4,
        image_size=(2 * size, size),
        patch_size=8,
        pretrain_image_size=128,
        decoder_hidden_size=16,
        merge_index=1,
        intermediate_hidden_state_indices=(1, 3, 5, 7),
        drop_path_rate=0.0,
        beta=0.5,
    )


def scene_makers(data: Path, recipe: Recipe, steps: int, device: torch.device) -> tuple[SceneMaker, SceneMaker]:
    """Makers of training and of held-out scenes. The seed moves with `steps`, so a resumed run sees new scenes."""
    photos = load_clothing(data / "clothing", held_out=False)
    emoji, pieces = load_emoji(data / "emoji", held_out=False), cut_outs(photos)
    dice = Dice(recipe.seed * 1_000_003 + steps, device)
    training = SceneMaker(emoji.to(device), pieces.to(device), photos.to(device), dice, recipe.mixture)
    return training, held_out_maker(data, device)


def held_out_maker(data: Path, device: torch.device, seed: int = 20) -> SceneMaker:
    """Unseen emoji on unseen photos, white on black, the same object or a variant of it in both halves."""
    mixture = Mixture(pasted=1.0, same_photo=0.0, random_colours=0.0, emoji=1.0, procedural=0.0, relative=0.0)
    emoji = load_emoji(data / "emoji", held_out=True).to(device)
    return SceneMaker(
        emoji, None, load_clothing(data / "clothing", held_out=True).to(device), Dice(seed, device), mixture
    )


def normalised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 3, H, W) in [0, 255] -> the network's units."""
    return normalise(pixels.movedim(1, -1), dtype).contiguous()


def answer(network: SegGptForImageSegmentation, scenes: Scenes, kind: str = "instance") -> Tensor:
    """Paint the input halves: (B, 3, S, S) normalised."""
    dtype = network.dtype
    output = network(
        normalised(scenes.image, dtype),
        normalised(scenes.prompt_image, dtype),
        normalised(scenes.prompt_mask, dtype),
        embedding_type=kind,
        answer_only=True,
    )
    painted: Tensor = output.pred_masks
    return painted


def found_area(painted: Tensor, colours: Tensor) -> Tensor:
    """Which pixels lie nearer to the object's colour than to the background's: (B, S, S) bool."""
    ends = normalised(colours.mT[..., None], torch.float32)[..., 0].mT  # (B, 2, 3)
    distance = (painted.float()[:, None] - ends[..., None, None]).square().sum(2)  # (B, 2, S, S)
    return distance[:, 1] < distance[:, 0]


def make_optimisers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest; or AdamW for all."""
    named = [(name, p) for name, p in network.named_parameters()]
    in_blocks = {name for name, p in named if ".layers." in name and p.ndim == 2 and "rel_pos" not in name}
    hidden = [p for name, p in named if name in in_blocks] if recipe.optimiser == "muon" else []
    chosen = {id(p) for p in hidden}
    decayed = [p for _, p in named if id(p) not in chosen and p.ndim > 1]
    plain = [p for _, p in named if id(p) not in chosen and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    if not hidden:
        return [adam]
    muon = torch.optim.Muon(
        hidden, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adam, muon]


class Run:
    """One training run: the float32 weights, the fast copy that computes, and the books.

    Several processes may share a run (torch.distributed is then set up): each composes its own scenes, gradients are
    averaged, so all hold the same weights; the first keeps the books.
    """

    def __init__(self, recipe: Recipe, data: Path, out: Path, resume: Path | None, device: torch.device) -> None:
        self.recipe, self.out, self.device = recipe, out, device
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.processes = distributed.get_world_size() if distributed.is_initialized() else 1
        out.mkdir(parents=True, exist_ok=True)
        config = small_config(recipe.size)
        start = Snapshot.load(resume) if resume else None
        if start is None:
            self.network = new_network(config, recipe.seed)
            self.pairs, self.steps, self.seconds = 0, 0, 0.0
            average = self.network.state_dict()
        else:
            old = SegGptForImageSegmentation(start.config)
            old.load_state_dict(start.weights)
            self.network = resized(old, config)
            old.load_state_dict(start.average)
            average = resized(old, config).state_dict()
            self.pairs, self.steps, self.seconds = start.pairs, start.steps, start.seconds
        self.network.to(device)
        self.average = {name: tensor.to(device).clone() for name, tensor in average.items()}
        self.fast = copy.deepcopy(self.network).to(recipe.precision).train()
        self.optimisers = make_optimisers(self.network, recipe)
        if start is not None and start.config.image_size == config.image_size:
            for optimiser, state in zip(self.optimisers, start.optimisers, strict=True):
                optimiser.load_state_dict(state)
        self.makers = scene_makers(data, recipe, self.steps + 1009 * self.rank, device)
        self.started_steps = self.steps

    def learning_rate(self, progress: float) -> float:
        """Of the step at `progress` in [0, 1] of the run."""
        rise = min(1.0, (self.steps - self.started_steps + 1) / self.recipe.warm_up_steps)
        fall = min(1.0, (1 - progress) / self.recipe.fall) if self.recipe.fall else 1.0
        return self.recipe.learning_rate * rise * max(fall, 0.0)

    def gradients(self, scenes: Scenes, kind: str, progress: float) -> tuple[float, float]:
        """Set the float32 weights' gradients from one batch per process: (first process's progress, loss)."""
        painted = answer(self.fast, scenes, kind)
        wanted = normalised(scenes.mask, torch.float32)
        loss = balanced_loss(painted, wanted, scenes.area, balance=self.recipe.balance)
        self.fast.zero_grad(set_to_none=True)
        loss.backward()
        slow = list(self.network.parameters())
        rough = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.fast.parameters()]
        # What all must agree on travels at the end: the first process's clock and the loss.
        clock = progress * self.processes if self.rank == 0 else 0.0
        books = torch.tensor([clock, loss.item()], device=self.device)
        flat = torch.cat([*(gradient.float().flatten() for gradient in rough), books])
        if self.processes > 1:
            distributed.all_reduce(flat)
            flat /= self.processes
        for exact, part in zip(slow, flat[:-2].split([p.numel() for p in slow]), strict=True):
            exact.grad = part.view_as(exact)
        return float(flat[-2]), float(flat[-1])

    def step(self, learning_rate: float) -> None:
        """Apply the gradients, and bring the fast copy and the average up to date."""
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            optimiser.step()
        with torch.no_grad():
            for exact, rough in zip(self.network.parameters(), self.fast.parameters(), strict=True):
                rough.copy_(exact)
        self.steps += 1
        self.pairs += self.recipe.batch * self.processes
        follow(self.average, self.network.state_dict(), self.steps)

    def batches(self) -> Iterator[tuple[Scenes, str]]:
        """Scenes without end, each batch with its embedding type."""
        maker = self.makers[0]
        while True:
            kind = "semantic" if bool(maker.dice.chance(SEMANTIC_SHARE, 1)) else "instance"
            yield maker.batch(self.recipe.batch, self.recipe.size), kind

    def train(self) -> None:
        """Run until the time or the pairs are used up; report, sample and keep a snapshot on the way."""
        recipe, begun, seen_before, seconds_before = self.recipe, time.monotonic(), self.pairs, self.seconds
        losses: list[float] = []
        for scenes, kind in self.batches():
            spent = time.monotonic() - begun
            progress = max(spent / 60 / recipe.minutes, (self.pairs - seen_before) / recipe.pairs)
            progress, loss = self.gradients(scenes, kind, progress)
            if progress >= 1:
                break
            rate = self.learning_rate(progress)
            self.step(rate)
            losses.append(loss)
            self.seconds = seconds_before + spent
            if self.rank > 0:
                continue
            self._progress(losses, spent, self.pairs - seen_before)
            if self.steps % recipe.report_every == 0:
                self.report(sum(losses) / len(losses), rate)
                losses.clear()
        if self.rank == 0:
            self.report(sum(losses) / max(len(losses), 1), 0.0)

    def _progress(self, losses: list[float], spent: float, pairs: int) -> None:
        if sys.stderr.isatty() or self.steps % 50 == 0:
            end = "\r" if sys.stderr.isatty() else "\n"
            recent = losses[-50:]
            line = f"{self.pairs:>9,} pairs  {pairs / max(spent, 1e-9):6.1f}/s  loss {sum(recent) / len(recent):.4f}"
            print(line, end=end, file=sys.stderr, flush=True)

    def snapshot(self) -> Snapshot:
        states = [optimiser.state_dict() for optimiser in self.optimisers]
        return Snapshot(
            self.network.config, self.network.state_dict(), self.average, states, self.pairs, self.steps, self.seconds
        )

    @torch.inference_mode()
    def report(self, loss: float, rate: float) -> None:
        """Judge the averaged weights on held-out scenes; write snapshot, log line and sample picture."""
        snapshot = self.snapshot()
        snapshot.save(self.out / "snapshot.pt")
        maker = self.makers[1]
        maker.dice = Dice(20, self.device)
        scenes = maker.batch(JUDGED_SCENES, self.recipe.size)
        judged = snapshot.network().to(self.device, self.recipe.precision)
        found = found_area(answer(judged, scenes), scenes.colours)
        score = overlap(found, scenes.area).mean().item()
        save_samples(self.out / f"samples_{self.pairs:09d}.png", scenes[:16], found[:16])
        path = self.out / "log.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(LOG_COLUMNS)
            writer.writerow([self.pairs, f"{self.seconds:.0f}", f"{loss:.4f}", f"{rate:.6f}", f"{score:.4f}"])
        print(f"{self.pairs:>9,} pairs  loss {loss:.4f}  held-out IoU {score:.3f}", file=sys.stderr, flush=True)
