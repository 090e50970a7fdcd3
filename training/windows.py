"""Pairs of photos, or of two windows of one photo, in which a region is the thing."""

from __future__ import annotations

import torch
from torch import Tensor

from training.draw import Dice, view, window
from training.photos import CLASSES, MAX_REGION, MIN_REGION, PEOPLE, Photos
from training.scenes import Halves, neighbouring, same_input


class SamePhoto:
    """Two windows of one photo; any of its regions is the thing, annotated or of like colour."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def halves(self, dice: Dice, count: int, size: int, examples: int = 1) -> Halves:
        """See `training.scenes.Source`."""
        rows = dice.choice(len(self.photos.photo), count)
        return _scenes(self.photos, dice, [rows] * examples, rows, size)


class TwoPhotos:
    """Two photos that show a thing of the same class, sometimes one photo twice.

    In a share of the pairs the second window is laid around a thing of any class: mostly it does not show what the
    prompt marks.
    """

    def __init__(self, photos: Photos, layer: int, elsewhere: float = 0.0) -> None:
        """Take the photos, the layer of Photos.labels whose classes are asked for, and that share in [0, 1]."""
        self.photos, self.elsewhere = photos, elsewhere
        self.rows = torch.nonzero((photos.layer == layer) & (photos.count > 1))[:, 0]
        # A class is drawn first, more often the more regions it has, but less than in proportion.
        self.weights = photos.count[self.rows].double().pow(-0.5)

    def halves(self, dice: Dice, count: int, size: int, examples: int = 1) -> Halves:
        """See `training.scenes.Source`."""
        rows = self.rows[dice.weighted(self.weights, count)]
        others, *more = (self.photos.first[rows] + dice.below(self.photos.count[rows]) for _ in range(examples))
        if self.elsewhere:  # else no number is drawn: the held-out sets of a seed stay what they were
            anywhere = self.rows[dice.choice(len(self.rows), count)]
            others = torch.where(dice.chance(self.elsewhere, count), anywhere, others)
        return _scenes(self.photos, dice, [rows, *more], others, size)


class HeldOutInput:
    """Held-out photos as input images, asked for a thing by photos of the same class that are learnt from."""

    def __init__(self, learnt: Photos, held_out: Photos) -> None:
        """Take both.

        Raises:
            ValueError: they have no class in common.
        """
        self.learnt, self.held_out = learnt, held_out
        self.prompts = torch.nonzero(learnt.layer == CLASSES)[:, 0]  # sorted by class, as all regions are
        self.classes = learnt.value[self.prompts]
        asked = (held_out.layer == CLASSES) & torch.isin(held_out.value, self.classes)
        self.rows = torch.nonzero(asked)[:, 0]
        if not len(self.rows):
            shares = f"{MIN_REGION:.0%} to {MAX_REGION:.0%}"
            raise ValueError(f"no held-out picture shows on {shares} of it a thing that others show as large")

    def halves(self, dice: Dice, count: int, size: int, examples: int = 1) -> Halves:
        """See `training.scenes.Source`."""
        rows = self.rows[dice.choice(len(self.rows), count)]
        values = self.held_out.value[rows]
        first, end = (torch.searchsorted(self.classes, values, right=right) for right in (False, True))
        prompts = [self.prompts[first + dice.below(end - first)] for _ in range(examples)]
        return _scenes(self.learnt, dice, prompts, rows, size, self.held_out)


def _scenes(
    photos: Photos, dice: Dice, prompts: list[Tensor], others: Tensor, size: int, inputs: Photos | None = None
) -> Halves:
    """Windows around regions of the same classes as prompts, and around any regions (of `inputs`) as input images."""
    values, examples = photos.value[prompts[0]], len(prompts)
    prompt_images, prompt_areas = zip(*(_window(photos, dice, rows, values, size) for rows in prompts), strict=True)
    image, area = _window(inputs or photos, dice, others, values, size)
    return Halves(
        neighbouring(prompt_images),
        neighbouring(prompt_areas).to(torch.uint8),
        same_input(image, examples),
        same_input(area, examples).to(torch.uint8),
    )


def _window(photos: Photos, dice: Dice, rows: Tensor, values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A random window of a photo that shows (most of) a region: the image, and where its layer has these values."""
    count, box = len(rows), photos.box[rows]
    extent = box[:, 2:].amax(1, keepdim=True)
    zoom = torch.exp(dice.uniform(-0.2, 0.9, count, 1))
    # People fill their photos; a closer look makes them large objects.
    zoom = torch.where((photos.layer[rows] == PEOPLE)[:, None], dice.uniform(0.35, 1.3, count, 1), zoom)
    side = (extent * zoom).clamp(0.22, 1.0)
    half = side * torch.exp(dice.normal(0.15, count, 2))
    slack = (half - box[:, 2:] * 0.5).abs() + 0.12 * half
    centre = box[:, :2] * 2 - 1 + dice.uniform(-1, 1, count, 2) * slack
    theta = window(centre, half, dice.normal(0.15, count), dice.chance(0.5, count))
    index = photos.photo[rows]
    hit = (photos.labels[index, photos.layer[rows]] == values[:, None, None]).to(torch.uint8) * 255
    seen = view(torch.cat([photos.pixels[index], hit[:, None]], 1), theta, size, outside="reflection")
    return seen[:, :3], seen[:, 3] > 127.5
