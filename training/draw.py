"""Seeded random numbers, and batched warps of pictures: the two tools that scenes are made with."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional


class Dice:
    """Random tensors from one seeded generator, on one device."""

    def __init__(self, seed: int, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def normal(self, deviation: float, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device) * deviation

    def chance(self, probability: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device) < probability

    def below(self, bounds: Tensor) -> Tensor:
        """Integers in [0, bound), one for each bound."""
        draw = torch.rand(bounds.shape, generator=self.generator, device=self.device, dtype=torch.float64)
        return torch.minimum((draw * bounds).long(), bounds - 1)

    def weighted(self, weights: Tensor, count: int) -> Tensor:
        """(count,) indices, each drawn in proportion to its weight."""
        bounds = weights.to(self.device, torch.float64).cumsum(0)
        draw = torch.rand(count, generator=self.generator, device=self.device, dtype=torch.float64) * bounds[-1]
        return torch.searchsorted(bounds, draw).clamp(max=len(weights) - 1)

    def choice(self, count: int, *shape: int) -> Tensor:
        return torch.randint(count, shape, generator=self.generator, device=self.device)


@cache
def constant(values: tuple[object, ...], device: torch.device) -> Tensor:
    """Numbers as a float tensor, brought to the device once; never to be written to."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def rows_of(labels: Tensor, count: int) -> tuple[Tensor, ...]:
    """For each label in [0, count) the rows that have it, in order. Waits for the device once, not once for each."""
    order = torch.argsort(labels, stable=True)
    numbers = (labels == torch.arange(count, device=labels.device)[:, None]).sum(1)
    rows: tuple[Tensor, ...] = order.split(numbers.tolist())
    return rows


def window(centre: Tensor, half: Tensor, angle: Tensor, flip: Tensor) -> Tensor:
    """The affine map from a view's coordinates to a picture's, both in [-1, 1].

    Args:
        centre: (B, 2) x, y of the view's centre in the picture.
        half: (B, 2) half width and half height of the view in the picture.
        angle: (B,) radians.
        flip: (B,) bool, mirror left and right.

    Returns:
        (B, 2, 3) float.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    sign = 1.0 - 2.0 * flip.float()
    x_row = torch.stack([cos * half[:, 0] * sign, -sin * half[:, 1]], 1)
    y_row = torch.stack([sin * half[:, 0] * sign, cos * half[:, 1]], 1)
    return torch.cat([torch.stack([x_row, y_row], 1), centre[:, :, None]], 2)


def placement(position: Tensor, half: Tensor, angle: Tensor, flip: Tensor) -> Tensor:
    """The affine map from a view's coordinates to those of a cut-out that is placed in it.

    Args: as `window`, but `position` and `half` (B, 2) say where the cut-out lies in the view.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    sign = 1.0 - 2.0 * flip.float()
    x_row = torch.stack([cos * sign, sin * sign], 1) / half[:, :1]
    y_row = torch.stack([-sin, cos], 1) / half[:, 1:]
    linear = torch.stack([x_row, y_row], 1)
    return torch.cat([linear, -linear @ position[:, :, None]], 2)


def view(pictures: Tensor, theta: Tensor, size: int, *, outside: str) -> Tensor:
    """Sample pictures through affine maps, averaged down first where they shrink.

    Args:
        pictures: (B, C, H, H) uint8 or float.
        theta: (B, 2, 3) from `window` or `placement`.
        size: side of the views in pixels.
        outside: "zeros" or "reflection".

    Returns:
        (B, C, size, size) float, on the pictures' scale.
    """
    shrink = theta[:, :, :2].det().abs().sqrt() * pictures.shape[-1] / size
    level = torch.log2(shrink.clamp(min=1.0)).add(0.4).floor().clamp(max=2).long()
    out = torch.empty(len(pictures), pictures.shape[1], size, size, device=pictures.device)
    for step, rows in enumerate(rows_of(level, 3)):
        if len(rows) == 0:
            continue
        source = pictures[rows].float()
        if step:
            source = functional.avg_pool2d(source, 2**step)
        grid = functional.affine_grid(theta[rows], [len(rows), 1, size, size], align_corners=False)
        out[rows] = functional.grid_sample(source, grid, padding_mode=outside, align_corners=False)
    return out


def blurred(pixels: Tensor) -> Tensor:
    """(B, C, H, W) -> the same, each pixel with its eight neighbours (binomial weights)."""
    channels = pixels.shape[1]
    row = constant((0.25, 0.5, 0.25), pixels.device)
    kernel = (row[:, None] * row).expand(channels, 1, 3, 3)
    return functional.conv2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)


def recolour(pixels: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Mix the channels: (B, 3, H, W) in [0, 255] with (B, 3, 3) and (B, 3) -> the same, clipped."""
    mixed = torch.einsum("bij,bjhw->bihw", matrix, pixels) + offset[:, :, None, None]
    return mixed.clamp(0, 255)


def colour_change(dice: Dice, count: int, strength: float) -> tuple[Tensor, Tensor]:
    """Random hue, saturation, contrast and brightness as ((count, 3, 3) matrices, (count, 3) offsets).

    A strength of 1 can turn a red thing green; .15 is another lamp.
    """
    turn = dice.normal(1.2 * strength, count)
    grey = torch.full((3, 3), 1 / 3, device=dice.device)
    # A rotation about the grey axis (Rodrigues' formula) is a turn of the hue.
    cross = constant(((0, -1, 1), (1, 0, -1), (-1, 1, 0)), dice.device) / math.sqrt(3)
    eye = torch.eye(3, device=dice.device)
    cos, sin = torch.cos(turn)[:, None, None], torch.sin(turn)[:, None, None]
    hue = cos * eye + sin * cross + (1 - cos) * grey
    saturation = torch.exp(dice.normal(0.6 * strength, count, 1, 1))
    gain = torch.exp(dice.normal(0.5 * strength, count, 1, 1) + dice.normal(0.2 * strength, count, 3, 1))
    matrix = gain * (saturation * (eye - grey) + grey) @ hue
    offset = dice.normal(40 * strength, count, 1) + dice.normal(10 * strength, count, 3)
    return matrix, offset + 127.5 * (1 - matrix.sum(2)) * dice.uniform(0, 1, count, 1)
