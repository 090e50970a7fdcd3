"""In-context tuning: the weights stay as they are, a prompt is learned for one set of pictures.

What is learned are the numbers of one or more examples, each a prompt image and a painted prompt mask. They begin as
the training pictures that do best as single examples, and descend the network's own loss on all others. They stay
what a service takes, whole numbers from 0 to 255: each step rounds them, and the gradient goes through the rounding
as if it were not there. So what was tuned is, pixel for pixel, what is served.

Source: SegGPT, arXiv:2304.03284, section 3.3, "In-context tuning".
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.colours import IMAGE_MEAN, IMAGE_STD, MAX_VALUE, levels, normalise
from model.encoder import MaskStream
from model.seggpt import SegGptForImageSegmentation
from model.tuning_data import Pictures, augmented

_KIND = "instance"
_MOST_CANDIDATES = 16
_AVERAGED_STEPS = 0.95
_LAST_RATE = 0.05  # of the first
_MOMENTA = (0.9, 0.99)
_THRESHOLD = 127
_PICTURES_AT_ONCE = 8


@dataclass(frozen=True)
class TuningSettings:
    """How to tune.

    Args:
        prompts: K, how many examples are learned; together they are one feature ensemble.
        steps: of the optimiser.
        minutes: end earlier, when so many have passed; None does not look at the clock.
        batch: training pictures of one step.
        learning_rate: of Adam, in levels of 0 to 255 per step.
        held_out: share of the pictures that is never trained on and says which step was best.
        check_every: steps between two looks at the held-out pictures.
        seed: of everything that is drawn.
    """

    prompts: int = 1
    steps: int = 200
    minutes: float | None = None
    batch: int = 4
    learning_rate: float = 4.0
    held_out: float = 0.25
    check_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("prompts", "steps", "batch", "check_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must lie between 0 and 1")


@dataclass(frozen=True)
class Check:
    """One look at the held-out pictures.

    Args:
        step: how many there were.
        seconds: since the tuning began.
        loss: mean of the training pictures since the last look; nan before the first step.
        iou: of the learned prompt as it is now, on the held-out pictures.
        best_iou: of the best until now, which is the one whose answers are surest where they should be.
    """

    step: int
    seconds: float
    loss: float
    iou: float
    best_iou: float


class Tuning:
    """One tuning. `run` may be left at any time: `images` and `masks` are the best until then.

    Args:
        model: loaded, on its device, in float32; its weights get no gradients and do not change.
        pictures: those of the set.
        settings: how.

    Raises:
        ValueError: there are fewer pictures to begin with than prompts, or none of them shows the thing.
    """

    def __init__(self, model: SegGptForImageSegmentation, pictures: Pictures, settings: TuningSettings) -> None:
        self._model = model.requires_grad_(False).eval()
        self._settings = settings
        self._dice = torch.Generator().manual_seed(settings.seed)
        order = torch.randperm(len(pictures), generator=self._dice)
        held_out = min(len(pictures) - 1, max(1, round(settings.held_out * len(pictures))))
        self.held_out, self._training = pictures[order[:held_out]], pictures[order[held_out:]]
        self._candidates = self._training.areas.flatten(1).any(dim=1).nonzero().flatten()[:_MOST_CANDIDATES]
        if len(self._candidates) < settings.prompts:
            raise ValueError(
                f"{len(self._candidates)} of the {len(self._training)} training pictures show the thing; "
                f"{settings.prompts} learned prompts need as many to begin with"
            )
        #: (K, H, W, 3) uint8, the best until now: learned images and their painted masks. Set by `run`.
        self.images = self.masks = torch.empty(0, dtype=torch.uint8)
        #: Mean IoU on the held-out pictures, of the best single example and of `images` and `masks`. Set by `run`.
        self.iou_before = self.iou_after = math.nan
        self._best_soft = -math.inf

    def run(self) -> Iterator[Check]:
        """Tune, and tell of each look at the held-out pictures; the first is before the first step."""
        settings, start = self._settings, time.monotonic()
        learned = self._beginning()
        mean = learned.clone()
        learned.requires_grad_(True)
        optimiser = torch.optim.Adam([learned], settings.learning_rate, betas=_MOMENTA)
        losses: list[float] = []
        for step in range(settings.steps + 1):
            seconds = time.monotonic() - start
            share = max(step / settings.steps, seconds / (60 * settings.minutes) if settings.minutes else 0.0)
            if step % settings.check_every == 0 or share >= 1:
                yield self._check(step, seconds, losses, mean)
                losses.clear()
            if share >= 1:
                return
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _rate(share)
            optimiser.zero_grad()
            loss = self._loss(learned)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            with torch.no_grad():
                learned.clamp_(0, MAX_VALUE)
                mean.lerp_(learned, 1 - min(_AVERAGED_STEPS, (1 + step) / (10 + step)))

    def score(self, images: Tensor, masks: Tensor, pictures: Pictures) -> float:
        """Mean IoU of a prompt on pictures, decoded as a service decodes one class.

        Args:
            images, masks: (K, H, W, 3) uint8; an ensemble if K > 1.
            pictures: with their true masks.
        """
        found = self.grey(images, masks, pictures.images) > _THRESHOLD
        return float(intersection_over_union(found, pictures.areas).mean())

    @torch.inference_mode()
    def grey(self, images: Tensor, masks: Tensor, pictures: Tensor) -> Tensor:
        """(N, H, W) uint8, above 127 where a prompt of (K, H, W, 3) uint8 finds the thing in (N, H, W, 3) pictures."""
        prompt = normalise(torch.cat((images, masks)).to(self._model.device))
        answers = [self._painted(prompt, part) for part in pictures.split(_PICTURES_AT_ONCE)]
        return levels(torch.cat(answers))[1][..., 3].cpu()

    def _beginning(self) -> Tensor:
        """The best single examples: (2K, H, W, 3) float32 on the device, the images and then the masks."""
        scores = []
        for place in self._candidates.tolist():
            others = torch.tensor([one for one in range(len(self._training)) if one != place][:_MOST_CANDIDATES])
            one = self._training[slice(place, place + 1)]
            scores.append(self.score(one.images, one.masks, self._training[others]) if len(others) else 0.0)
        order = torch.tensor(scores).argsort(descending=True, stable=True)
        best = self._training[self._candidates[order[: self._settings.prompts]]]
        self.images, self.masks = best.images.contiguous(), best.masks.contiguous()
        self.iou_before = self.score(best.images[:1], best.masks[:1], self.held_out)
        return torch.cat((best.images, best.masks)).to(self._model.device, torch.float32)

    def _check(self, step: int, seconds: float, losses: list[float], mean: Tensor) -> Check:
        images, masks = mean.round().to(torch.uint8).cpu().chunk(2)
        pictures = Pictures(*(torch.cat((part, part.flip(2))) for part in (self.held_out.images, self.held_out.masks)))
        grey = self.grey(images, masks, pictures.images)
        iou = float(intersection_over_union(grey > _THRESHOLD, pictures.areas)[: len(self.held_out)].mean())
        # Few pictures are held out, and their plain IoU jumps; the soft one, of mirrored ones too, does so less.
        soft = float(soft_intersection_over_union(grey, pictures.areas).mean())
        if soft > self._best_soft:
            self._best_soft, self.images, self.masks, self.iou_after = soft, images, masks, iou
        return Check(step, seconds, sum(losses) / len(losses) if losses else math.nan, iou, self.iou_after)

    def _loss(self, learned: Tensor) -> Tensor:
        """The network's own loss on some of the training pictures, of what `learned` is when rounded."""
        chosen = torch.randperm(len(self._training), generator=self._dice)[: self._settings.batch]
        pictures = augmented(self._training[chosen], self._dice)
        whole = learned + (learned.round() - learned).detach()
        painted = self._painted(_normalised(whole), pictures.images)
        wanted = normalise(pictures.masks.to(painted.device))
        return F.smooth_l1_loss(painted, wanted, beta=self._model.config.beta)

    def _painted(self, prompt: Tensor, pictures: Tensor) -> Tensor:
        """Answers to pictures, all with the same prompt.

        Args:
            prompt: (2K, 3, H, W) normalised: images, then masks.
            pictures: (N, H, W, 3) uint8.

        Returns:
            (N, 3, H, W) normalised RGB.
        """
        images, masks = prompt.chunk(2)
        count, examples = len(pictures), len(images)
        # It never sees the pictures, so once is enough for all of them.
        stream = self._model.model.mask_stream(masks, _KIND, [examples])
        output = self._model(
            normalise(pictures.to(prompt.device)),
            images.repeat(count, 1, 1, 1),
            embedding_type=_KIND,
            group_sizes=[examples] * count,
            answer_only=True,
            mask_stream=MaskStream.joined([stream] * count),
        )
        painted: Tensor = output.pred_masks
        return painted


def intersection_over_union(found: Tensor, areas: Tensor) -> Tensor:
    """Two (N, H, W) bool -> (N,) float32; 1 where both are empty."""
    both = (found & areas).sum(dim=(1, 2)).float()
    either = (found | areas).sum(dim=(1, 2)).float()
    return torch.where(either == 0, 1.0, both / either.clamp(min=1))


def soft_intersection_over_union(grey: Tensor, areas: Tensor) -> Tensor:
    """The same of (N, H, W) uint8 shares of 255 and (N, H, W) bool: sums of the smaller over sums of the larger."""
    found, wanted = grey.float() / MAX_VALUE, areas.float()
    both, either = torch.minimum(found, wanted).sum(dim=(1, 2)), torch.maximum(found, wanted).sum(dim=(1, 2))
    return torch.where(either == 0, 1.0, both / either.clamp(min=1 / MAX_VALUE))


def _normalised(pixels: Tensor) -> Tensor:
    """`model.colours.normalise` of float pixels, with a gradient: (B, H, W, 3) -> (B, 3, H, W)."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (IMAGE_MEAN, IMAGE_STD))
    return ((pixels / MAX_VALUE - mean) / std).movedim(-1, -3)


def _rate(share: float) -> float:
    """What the learning rate is multiplied with: half a cosine from 1 to `_LAST_RATE`."""
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * share))
