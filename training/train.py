"""Train a SegGPT to paint in context.

One step: compose a batch of scenes, paint the input halves (or randomly hidden patches), weigh thing and background
alike, step. The forward runs in bfloat16 on a copy of the float32 weights where the hardware has it. The size of the
pictures grows from stage to stage; the learning rate rises and falls to zero over the whole run, whose end is a number
of pairs or of minutes. A run may also be ended at any moment: the snapshot's moving average is usable.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from model.config import SegGptConfig
from model.inference import native_precision
from model.seggpt import SegGptForImageSegmentation
from training.batches import AHEAD, Ahead, Batch, Composer
from training.draw import Dice
from training.inherit import inherited
from training.initialise import new_network, resized
from training.loss import overlap
from training.muon import Muon
from training.painting import answer, encode, found_area, loss_of_answers, loss_of_hidden
from training.recipe import Recipe, Stage
from training.run_folder import RunFolder
from training.samples import save_samples
from training.scenes import SceneMaker, Scenes
from training.snapshot import Snapshot, follow
from training.stop import Stop
from training.teacher import SOURCE, Lesson, listening

JUDGED_SCENES = 96  # at every report, the same each time
JUDGE_SEED = 20
SHOWN_SCENES, SHOWN_SEED = 128, 21  # from which it is measured what a teacher always sees, and guesses are fitted


def make_optimisers(network: nn.Module, recipe: Recipe, beside: nn.Module | None = None) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest and what is learnt beside the network; or AdamW for all."""
    named = [(name, p) for part in (network, beside) if part is not None for name, p in part.named_parameters()]
    in_blocks = {name for name, p in named if ".layers." in name and p.ndim == 2 and "rel_pos" not in name}
    hidden = [p for name, p in named if name in in_blocks] if recipe.optimiser == "muon" else []
    chosen = {id(p) for p in hidden}
    decayed = [p for _, p in named if id(p) not in chosen and p.ndim > 1]
    plain = [p for _, p in named if id(p) not in chosen and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    if not hidden:
        return [adam]
    return [adam, Muon(hidden, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)]


def _fast_precision(device: torch.device) -> torch.dtype:
    """Float16 is no choice: its gradients vanish."""
    return torch.bfloat16 if native_precision(device) == "bfloat16" else torch.float32


def _mean(losses: list[Tensor]) -> float:
    """Of scalars that are numbers, with one wait for all of them; NaN if none is."""
    return torch.stack(losses).nanmean().item()


class Run:
    """One training run; with torch.distributed set up, one process of it."""

    def __init__(
        self,
        recipe: Recipe,
        make_scenes: Callable[[Dice], SceneMaker],
        judge: SceneMaker,
        folder: RunFolder,
        *,
        start: SegGptForImageSegmentation | SegGptConfig,
        teacher: str | Path = SOURCE,
        device: torch.device | None = None,
        stop: Stop | None = None,
    ) -> None:
        """Set up.

        Args:
            recipe: what to do.
            make_scenes: a maker of training scenes from its random numbers.
            judge: of held-out scenes.
            folder: where snapshot, log and samples go, and whether it goes on with the run of this recipe there.
            start: a network to go on from, or the shape of a new one; of a run that goes on its shape alone.
            teacher: hub id or folder, if the recipe has one; a new network as wide begins with its blocks.
            device: where it runs; the CPU by default.
            stop: when this is asked, `train` ends after the step.
        """
        self.recipe, self.judge, self.folder, self.device = recipe, judge, folder, device or torch.device("cpu")
        self.stop, self.is_stopping = stop or Stop(), False  # all processes agree on the latter
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.processes = distributed.get_world_size() if distributed.is_initialized() else 1
        self.precision = recipe.precision or _fast_precision(self.device)
        self.pairs, self.steps, self.seconds = 0, 0, 0.0
        last = folder.resumed()
        self.makers = make_scenes(Dice(0, self.device))
        self.lesson: Lesson | None = None
        self.unlike: Tensor | None = None  # the lesson's loss of this process's last batch that had one
        shown: Tensor | None = None
        if recipe.taught:
            config = start if isinstance(start, SegGptConfig) else start.config
            self.lesson = Lesson(config.hidden_size, recipe.seed, teacher).to(self.device)
            shown = self._shown(recipe.stages[-1].size).image
            self.lesson.teacher.measure(shown, (shown.shape[2] // config.patch_size,) * 2)
        if last is not None:
            network = SegGptForImageSegmentation(last.config)
            network.load_state_dict(last.weights)
            self.average = last.average
            self.pairs, self.steps, self.seconds = last.pairs, last.steps, last.seconds
            if self.lesson is not None:
                self.lesson.guess.load_state_dict(last.lesson)
        else:
            network = self._begun(start, shown) if isinstance(start, SegGptConfig) else start
            self.average = network.state_dict()
        self.kept_at = self.seconds
        self.clock = self.seconds  # the first process's seconds, which all agree on
        self.stage = recipe.stage(self.progress)
        self._take(network)
        if last is not None and self.network.config == last.config:  # else the run goes on with a stage of another size
            for optimiser, state in zip(self.optimisers, last.optimisers, strict=True):
                optimiser.load_state_dict(state)
        if self.lesson is not None and isinstance(start, SegGptForImageSegmentation) and last is None:
            self.lesson.fit(self.network, self._shown(self.stage.size))
        self.makers.dice = Dice(recipe.seed * 1_000_003 + self.steps + 1009 * self.rank, self.device)
        composer = Composer(self.makers, recipe, network.config.patch_size)
        self.batches = Ahead(composer, self.device, AHEAD if self.device.type == "cuda" else 0)

    def _take(self, network: SegGptForImageSegmentation) -> None:
        """Go on with these weights at the stage's size; optimisers start anew."""
        half = (2 * self.stage.size, self.stage.size)
        if network.config.image_size != half:
            config = replace(network.config, image_size=half)
            other = SegGptForImageSegmentation(network.config)
            other.load_state_dict(self.average)
            network, self.average = resized(network, config), resized(other, config).state_dict()
        self.network = network.to(self.device, torch.float32).train()
        self.average = {name: tensor.to(self.device).clone() for name, tensor in self.average.items()}
        self.fast = self.network
        if self.precision != torch.float32:
            self.fast = copy.deepcopy(self.network).to(self.precision)
        self.optimisers = make_optimisers(self.network, self.recipe, self.lesson and self.lesson.guess)
        self.fresh_steps = 0

    def _shown(self, size: int) -> Scenes:
        """Scenes as the run will show them: the same in every process and in every resumption."""
        self.makers.dice = Dice(SHOWN_SEED, self.device)
        return self.makers.batch(SHOWN_SCENES, size)

    def _begun(self, config: SegGptConfig, shown: Tensor | None) -> SegGptForImageSegmentation:
        """A new network; as wide as the teacher, it begins with the teacher's blocks."""
        if self.lesson is not None and shown is not None and config.hidden_size == self.lesson.teacher.width:
            return inherited(config, self.lesson.teacher, shown, self.recipe.seed)
        return new_network(config, self.recipe.seed)

    def _learning(self, network: nn.Module) -> list[nn.Parameter]:
        """All that is learnt: the network, or its fast copy, and what stands beside it."""
        return [*network.parameters(), *(self.lesson.guess.parameters() if self.lesson is not None else ())]

    def _judged(self) -> Scenes:
        """The held-out scenes, in the stage's size: the same in every process and at every report."""
        self.judge.dice = Dice(JUDGE_SEED, self.device)
        return self.judge.batch(JUDGED_SCENES, self.stage.size)

    @property
    def progress(self) -> float:
        """How much of the run is done, by its pairs or by its time: from 0, and 1 or more at its end."""
        return max(self.clock / 60 / self.recipe.minutes, self.pairs / self.recipe.pairs)

    def learning_rate(self) -> float:
        """Of the coming step."""
        rise = min(1.0, (self.fresh_steps + 1) / self.recipe.warm_up_steps)
        return self.recipe.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(self.progress, 1.0)))

    def gradients(self) -> Tensor:
        """Set the float32 weights' gradients from one batch per process; gives the painting's loss, NaN without one.

        The loss is not waited for: a GPU is busy with it long after its launches.
        """
        batch = self.batches.next(self.stage)
        with listening(self.fast) as heard:
            loss = self._painted(batch)
        whole, every = loss, self.recipe.taught_every if self.stage.painted else 1
        if self.lesson is not None and self.steps % every == 0:
            unlike = self.lesson(batch.scenes, batch.examples, heard[0])
            whole = every * self.recipe.taught * unlike + (loss if self.stage.painted else 0)
            self.unlike = unlike.detach()
        rough, exact = self._learning(self.fast), self._learning(self.network)
        for parameter in rough:
            parameter.grad = None
        whole.backward()
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in rough]
        if self.processes > 1:
            gradients, loss = self._agreed(gradients, loss)
        else:
            self.clock, self.is_stopping = self.seconds, self.stop.is_asked
        for parameter, gradient in zip(exact, gradients, strict=True):
            parameter.grad = gradient.float()
        return loss.detach()

    def _painted(self, batch: Batch) -> Tensor:
        """The painting's loss; of stages that do not paint NaN, and they only look."""
        if not self.stage.painted:
            encode(self.fast, batch.scenes, batch.kind, batch.examples, batch.hidden)
            return torch.full((), math.nan, device=self.device)
        if batch.hidden is not None:
            return loss_of_hidden(self.fast, batch.scenes, batch.kind, self.stage.balance, batch.hidden)
        return loss_of_answers(self.fast, batch.scenes, batch.kind, self.stage.balance, batch.examples)

    def _agreed(self, gradients: list[Tensor], loss: Tensor) -> tuple[list[Tensor], Tensor]:
        """The means over all processes; sets the clock to the first one's, and whether any of them is to stop."""
        clock = self.seconds * self.processes if self.rank == 0 else 0.0
        shared = torch.tensor([clock, loss.item(), self.stop.is_asked], device=self.device)
        flat = torch.cat([*(gradient.float().flatten() for gradient in gradients), shared])
        distributed.all_reduce(flat)
        flat /= self.processes
        *parts, clocks, losses, stops = flat.split([*(gradient.numel() for gradient in gradients), 1, 1, 1])
        self.clock, self.is_stopping = clocks.item(), stops.item() > 0
        return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)], losses[0].clone()

    def step(self) -> float:
        """Apply the gradients, and bring the fast copy and the average up to date; gives the learning rate."""
        nn.utils.clip_grad_norm_(self._learning(self.network), 1.0)
        rate = self.learning_rate()
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        if self.fast is not self.network:
            with torch.no_grad():
                torch._foreach_copy_(list(self.fast.parameters()), list(self.network.parameters()))
        self.steps += 1
        self.fresh_steps += 1
        self.pairs += self.stage.batch * self.processes
        follow(self.average, self.network.state_dict(), self.steps)
        return rate

    def train(self) -> None:
        """Run until the time or the pairs are used up, or stop before; report on the way and at the end.

        What was learnt is kept at every report, every few minutes, and when the run stops.
        """
        begun, before, pairs_before = time.monotonic(), self.seconds, self.pairs
        self.is_stopping = self._is_stop_asked()
        losses: list[Tensor] = []
        while self.progress < 1 and not self.is_stopping:
            self._enter(self.recipe.stage(self.progress))
            loss = self.gradients()
            rate = self.step()
            self.seconds = before + time.monotonic() - begun
            if self.rank > 0:
                continue
            losses.append(loss)
            self._show(losses, (self.pairs - pairs_before) / (self.seconds - before))
            if self.progress >= 1 or (self.steps % self.recipe.report_every == 0 and not self.is_stopping):
                self.report(_mean(losses), rate)
                losses.clear()
            elif self.is_stopping or self.seconds - self.kept_at >= 60 * self.recipe.snapshot_minutes:
                self.keep()
        if self.progress >= 1:
            self.stop.forget()

    def _is_stop_asked(self) -> bool:
        """Whether any process is to stop."""
        asked = torch.tensor(float(self.stop.is_asked), device=self.device)
        if self.processes > 1:
            distributed.all_reduce(asked)
        return asked.item() > 0

    def _enter(self, stage: Stage) -> None:
        if stage is not self.stage:
            self.stage = stage
            self._take(self.network)

    def _show(self, losses: list[Tensor], speed: float) -> None:
        if sys.stderr.isatty() or self.steps % 50 == 0:
            end = "\r" if sys.stderr.isatty() else "\n"
            line = f"{self.progress:6.1%}  {self.pairs:>9,} pairs of {self.stage.size} px  {speed:6.1f}/s"
            if self.stage.painted:
                line += f"  loss {_mean(losses[-50:]):.4f}"
            if self.unlike is not None:
                line += f"  teacher {self.unlike.item():.4f}"
            print(line, end=end, file=sys.stderr, flush=True)

    def snapshot(self) -> Snapshot:
        """The run as it stands."""
        states = [optimiser.state_dict() for optimiser in self.optimisers]
        return Snapshot(
            self.network.config,
            self.network.state_dict(),
            self.average,
            states,
            self.pairs,
            self.steps,
            self.seconds,
            {} if self.lesson is None else self.lesson.guess.state_dict(),
        )

    def keep(self) -> Snapshot:
        """Write a snapshot."""
        snapshot = self.snapshot()
        self.folder.keep(snapshot)
        self.kept_at = self.seconds
        return snapshot

    @torch.inference_mode()
    def report(self, loss: float, rate: float) -> None:
        """Judge the averaged weights on held-out scenes; write snapshot, log line and sample picture.

        Args:
            loss: of the painting; NaN where only the teacher was learnt from.
            rate: the learning rate.
        """
        scenes = self._judged()
        judged = self.keep().network().to(self.device, self.precision)
        found = found_area(answer(judged, scenes), scenes.colours)
        score = overlap(found, scenes.area).mean().item()
        save_samples(self.folder.samples(self.pairs), scenes[:16], found[:16])
        self.folder.log(self.pairs, self.seconds, self.stage.size, loss, rate, score)
        learnt = "" if math.isnan(loss) else f"  loss {loss:.4f}"
        print(f"{self.pairs:>9,} pairs{learnt}  held-out IoU {score:.3f}", file=sys.stderr, flush=True)
