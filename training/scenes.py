"""Pairs to learn from: prompt image, prompt mask, input image and its mask, composed in whole batches.

A source composes one kind of pair (`training.pasted`, `training.windows`); a SceneMaker mixes sources, paints the masks
and changes the light. Where a thing lies is drawn anew for each half, so copying the prompt mask never pays. Most
masks are white on black, as the service uses them; the others have random colours, one for each class that is named,
so black is not always a safe answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.draw import Dice, blurred, colour_change, constant, recolour, rows_of

MIN_AREA, MAX_AREA = 0.01, 0.85
SPARE = 1.25  # compose this many times the batch, then drop scenes with too little or too much to see
MIN_DISTANCE = 130  # between two colours of one mask
THING, OTHER = 1, 2  # labels; 0 is everything else


@dataclass(frozen=True)
class Halves:
    """A batch of pairs before light and colours. Images (B, 3, S, S) float in [0, 255]; labels (B, S, S) uint8."""

    prompt_image: Tensor
    prompt_labels: Tensor
    image: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class Source(Protocol):
    """Composes pairs of one kind."""

    def halves(self, dice: Dice, count: int, size: int, examples: int = 1) -> Halves:
        """`count` scenes with halves of size x size pixels; some may show too little of their thing.

        Each is `examples` neighbouring pairs: other prompts of the same thing, and the same input half in all of them.
        """


@dataclass(frozen=True)
class Scenes(Halves):
    """A batch of pairs.

    Args:
        prompt_image, image: (B, 3, S, S) float in [0, 255].
        prompt_labels, labels: (B, S, S) uint8: 1 the thing, 2 in some pairs another one, 0 the rest.
        colours: (B, 3, 3) in [0, 255], RGB of each label.
    """

    colours: Tensor

    @property
    def prompt_area(self) -> Tensor:
        """(B, S, S) bool: the thing in the prompt image."""
        return self.prompt_labels == THING

    @property
    def area(self) -> Tensor:
        """(B, S, S) bool: the thing in the input image."""
        return self.labels == THING

    @property
    def prompt_mask(self) -> Tensor:
        """(B, 3, S, S) float in [0, 255]."""
        return paint(self.prompt_labels, self.colours)

    @property
    def mask(self) -> Tensor:
        """(B, 3, S, S) float in [0, 255]."""
        return paint(self.labels, self.colours)

    def __getitem__(self, rows: Tensor | slice) -> Scenes:
        return Scenes(**{name: tensor[rows] for name, tensor in vars(self).items()})


def same_input(scenes: Tensor, examples: int) -> Tensor:
    """Of (B, ...) scenes, (B * examples, ...): each as often as it has examples."""
    return scenes.repeat_interleave(examples, 0)


def neighbouring(prompts: Sequence[Tensor]) -> Tensor:
    """Of (B, ...) first examples, second ones and so on, (B * examples, ...): those of one scene beside each other."""
    return torch.stack(list(prompts), 1).flatten(0, 1)


def paint(labels: Tensor, colours: Tensor) -> Tensor:
    """(B, S, S) labels in (B, L, 3) colours -> (B, 3, S, S)."""
    rows = torch.arange(len(labels), device=labels.device)[:, None, None]
    return colours[rows, labels.long()].movedim(-1, 1)


class SceneMaker:
    """Composes batches from a mixture of sources; the same seed gives the same scenes."""

    def __init__(
        self,
        mixture: Sequence[tuple[float, Source]],
        dice: Dice,
        random_colours: float = 0.3,
        strangers: float = 0.0,
        strange: Sequence[tuple[Source, Source]] = (),
    ) -> None:
        """Take the sources.

        Args:
            mixture: (share, source), shares of any sum.
            dice: where every random number comes from.
            random_colours: share of the masks that are not white on black, in [0, 1].
            strangers: share in [0, 1] of the scenes that get the input image of another one, drawn at random, with
                nothing to mark, if `strange` has their sources.
            strange: (first, second) of the mixture: the second's input images do not show what the first asks for.
        """
        self.sources = [source for _, source in mixture]
        shares = torch.tensor([share for share, _ in mixture])
        self.bounds = (shares.cumsum(0) / shares.sum())[:-1].to(dice.device)
        self.dice, self.random_colours, self.strangers = dice, random_colours, strangers
        number = {id(source): place for place, source in enumerate(self.sources)}
        self.is_strange = torch.zeros(len(number), len(number), dtype=torch.bool)
        for first, second in strange:
            self.is_strange[number[id(first)], number[id(second)]] = True
        self.is_strange = self.is_strange.to(dice.device)

    def batch(self, count: int, size: int, examples: int = 1) -> Scenes:
        """Compose `count` scenes with halves of size x size pixels; see Source.halves."""
        total = max(int(count * SPARE), count + 2)
        drawn = torch.bucketize(self.dice.uniform(0, 1, total), self.bounds)
        parts = [
            source.halves(self.dice, len(rows), size, examples)
            for source, rows in zip(self.sources, rows_of(drawn, len(self.sources)), strict=True)
            if len(rows)
        ]
        whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])}
        if self.strangers:  # else no number is drawn: the held-out sets of a seed stay what they were
            self._swap(whole, drawn.sort()[0], examples)
        # A random order, the fair ones first.
        fair = _fair(whole["prompt_labels"], whole["labels"]).view(total, examples).all(1)
        order = torch.argsort(self.dice.uniform(0, 1, total) - fair.float())[:count]
        rows = (order[:, None] * examples + torch.arange(examples, device=order.device)).flatten()
        chosen = {name: tensor[rows] for name, tensor in whole.items()}
        lit = self._lit(chosen["image"][::examples])
        chosen["image"], chosen["prompt_image"] = same_input(lit, examples), self._lit(chosen["prompt_image"])
        colours = self._colours((chosen["prompt_labels"] == OTHER).view(count, -1).any(1))
        return Scenes(**chosen, colours=same_input(colours, examples))

    def _swap(self, whole: dict[str, Tensor], sources: Tensor, examples: int) -> None:
        """Give some scenes the input image of a stranger, in place; `sources` are (scenes,) their numbers."""
        partner = torch.argsort(self.dice.uniform(0, 1, len(sources)))
        swapped = self.is_strange[sources, sources[partner]] & self.dice.chance(self.strangers, len(sources))
        chosen = same_input(swapped, examples)[:, None, None]
        others = same_input(whole["image"][::examples][partner], examples)
        whole["image"] = torch.where(chosen[:, None], others, whole["image"])
        whole["labels"] = torch.where(chosen, 0, whole["labels"])

    def _lit(self, image: Tensor) -> Tensor:
        """Other light, less focus now and then, and some noise."""
        dice, count = self.dice, len(image)
        soft = dice.chance(0.3, count, 1, 1, 1)
        image = torch.where(soft, blurred(image), image)
        lit = recolour(image, *colour_change(dice, count, 0.22))
        noise = dice.uniform(-8, 8, count, 1, 1, 1).clamp(min=0)
        return (lit + noise * dice.normal(1.0, *image.shape)).clamp(0, 255)

    def _colours(self, several: Tensor) -> Tensor:
        """(B, 3, 3): black and white where one thing is named, or random colours that are told apart with ease.

        `several` are (B,) bool, whether two things are.
        """
        dice, count = self.dice, len(several)
        tries = dice.uniform(0, 255, count, 16, 3, 3)
        apart = torch.stack([(tries[:, :, i] - tries[:, :, j]).norm(dim=2) for i, j in ((0, 1), (0, 2), (1, 2))]).amin(
            0
        )
        colours = tries[torch.arange(count, device=tries.device), (apart > MIN_DISTANCE).int().argmax(1)]
        # Black is the background of every palette.
        black = dice.chance(0.7, count, 1) & (colours[:, 1:].norm(dim=2) > MIN_DISTANCE).all(1, keepdim=True)
        colours[:, 0] = torch.where(black, 0.0, colours[:, 0])
        plain = constant(((0,) * 3, (255,) * 3, (0,) * 3), tries.device)
        coloured = dice.chance(self.random_colours, count) | several
        return torch.where(coloured[:, None, None], colours, plain)


def _fair(prompt_labels: Tensor, labels: Tensor) -> Tensor:
    """Which of (B, S, S) pairs show their thing well; one whose thing is absent from the input image does."""
    prompt, found = ((part == THING).float().mean((1, 2)) for part in (prompt_labels, labels))
    asked = (prompt > MIN_AREA) & (prompt < MAX_AREA)
    return asked & ((found == 0) | ((found > MIN_AREA) & (found < MAX_AREA)))
