"""Pairs of photos, or of two windows of one photo, in which a region is the thing."""

from __future__ import annotations

import torch
from torch import Tensor

from training.draw import Dice, view, window
from training.scenes import Halves
from training.sources import PEOPLE, Photos


class SamePhoto:
    """Two windows of one photo; any of its regions is the thing, annotated or of like colour."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def halves(self, dice: Dice, count: int, size: int) -> Halves:
        """See `training.scenes.Source`."""
        rows = dice.choice(len(self.photos.photo), count)
        return _pair(self.photos, dice, rows, rows, size)


class TwoPhotos:
    """Two photos that show a thing of the same class, sometimes one photo twice."""

    def __init__(self, photos: Photos, layer: int) -> None:
        """Take the photos, and the layer of Photos.labels whose classes are asked for."""
        self.photos = photos
        self.rows = torch.nonzero((photos.layer == layer) & (photos.count > 1))[:, 0]
        # A class is drawn first, more often the more regions it has, but less than in proportion.
        self.weights = photos.count[self.rows].double().pow(-0.5)

    def halves(self, dice: Dice, count: int, size: int) -> Halves:
        """See `training.scenes.Source`."""
        rows = self.rows[dice.weighted(self.weights, count)]
        others = self.photos.first[rows] + dice.below(self.photos.count[rows])
        return _pair(self.photos, dice, rows, others, size)


def _pair(photos: Photos, dice: Dice, rows: Tensor, others: Tensor, size: int) -> Halves:
    prompt_image, prompt_area = _window(photos, dice, rows, size)
    image, area = _window(photos, dice, others, size)
    return Halves(prompt_image, prompt_area.to(torch.uint8), image, area.to(torch.uint8))


def _window(photos: Photos, dice: Dice, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A random window of a photo that shows (most of) a region: (image, area)."""
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
    hit = (photos.labels[index, photos.layer[rows]] == photos.value[rows][:, None, None]).to(torch.uint8) * 255
    seen = view(torch.cat([photos.pixels[index], hit[:, None]], 1), theta, size, outside="reflection")
    return seen[:, :3], seen[:, 3] > 127.5
