"""Surfaces drawn from random numbers: noise in random colours, outdoor scenes, closed shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.draw import Dice, constant

# Means of what photos show: earth, grass and walls below; sky, mist and foliage above. RGB in [0, 255].
GROUNDS = (
    (96, 120, 60), (70, 100, 45), (130, 140, 80), (150, 125, 90), (110, 90, 70), (190, 170, 130), (120, 120, 115),
    (165, 165, 160), (80, 80, 85), (225, 225, 225), (60, 90, 110), (140, 100, 70),
)  # fmt: skip
SKIES = (
    (140, 180, 225), (90, 140, 200), (200, 215, 230), (235, 235, 235), (175, 180, 185), (60, 80, 50), (40, 60, 35),
    (110, 130, 95), (230, 200, 170), (150, 140, 130),
)  # fmt: skip


def smooth_noise(dice: Dice, count: int, channels: int, cells: tuple[int, int], size: int) -> Tensor:
    """Normal noise on a coarse grid, enlarged: (count, channels, size, size)."""
    return _enlarged(dice.normal(1.0, count, channels, *cells), size)


def _enlarged(noise: Tensor, size: int) -> Tensor:
    return functional.interpolate(noise, (size, size), mode="bilinear")


def textures(dice: Dice, count: int, size: int) -> Tensor:
    """Smooth noise in random colours, from plain to busy: (count, 3, size, size) float in [0, 255]."""
    out = dice.uniform(0, 255, count, 3, 1, 1).expand(-1, -1, size, size)
    for cells in (2, 4, 8, 16):
        strength = dice.uniform(-60, 90, count, 1, 1, 1).clamp(min=0)
        out = out + strength * smooth_noise(dice, count, 3, (cells, cells), size)
    return out.clamp(0, 255)


def surfaces(dice: Dice, count: int, size: int, means: tuple[tuple[int, int, int], ...]) -> Tensor:
    """Noise of all scales around natural colours, like grass, gravel or clouds: (count, 3, size, size), unclipped."""
    table = constant(means, dice.device)
    base = table[dice.choice(len(table), count)] + dice.normal(18, count, 3)
    roughness = dice.uniform(0.45, 1.1, count, 1, 1, 1)  # of each finer scale, as a share of the one before
    contrast = torch.exp(dice.uniform(0.5, 3.6, count, 1, 1, 1))
    stretch = (1, 2, 3)[int(dice.choice(3, 1))]  # grass and water have a direction
    upright, noises = [], []
    for cells in (2, 4, 8, 16, 32):
        upright.append(dice.chance(0.5, 1))
        grid = (cells, max(2, cells // stretch))
        noises.append([dice.normal(1.0, count, channels, *grid) for channels in (1, 3)])
    out = base[:, :, None, None].expand(-1, -1, size, size)
    # Which way the noise lies is asked for once all is drawn: on a GPU each question waits.
    for step, (is_upright, noise) in enumerate(zip(torch.cat(upright).tolist(), noises, strict=True)):
        grey, coloured = noise if is_upright else [part.view(*part.shape[:2], *part.shape[:1:-1]) for part in noise]
        out = out + contrast * roughness**step * (_enlarged(grey, size) + 0.3 * _enlarged(coloured, size))
    return out


def landscapes(dice: Dice, count: int, size: int) -> Tensor:
    """Ground below, something else above a rough horizon, or ground alone: (count, 3, size, size) in [0, 255]."""
    ground, sky = surfaces(dice, count, size, GROUNDS), surfaces(dice, count, size, SKIES)
    axis = torch.linspace(-1, 1, size, device=dice.device)
    sky = sky + dice.normal(25, count, 1, 1, 1) * axis[:, None]
    horizon = dice.uniform(-1.6, 0.9, count, 1, 1)  # below -1 there is none
    roughness = dice.uniform(0, 0.25, count, 1, 1)
    edge = horizon + roughness * smooth_noise(dice, count, 1, (2, 12), size)[:, 0, :1]
    below = ((axis[:, None] - edge) * size / 4 + 0.5).clamp(0, 1)[:, None]
    return (below * ground + (1 - below) * sky).clamp(0, 255)


def blobs(dice: Dice, count: int, size: int) -> Tensor:
    """Random closed shapes, rounded or spiky, some with a hole: (count, 1, size, size) float in [0, 1]."""
    axis = torch.linspace(-1, 1, size, device=dice.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle, radius = torch.atan2(y, x), torch.hypot(x, y)
    edge = torch.full((count, size, size), 0.68, device=dice.device)
    for wave in range(1, 7):
        phase = dice.uniform(0, 2 * math.pi, count, 1, 1)
        edge = edge + dice.normal(0.22 / wave, count, 1, 1) * torch.cos(wave * angle + phase)
    edge = edge.clamp(0.2, 0.97)
    hole = dice.uniform(-0.6, 0.7, count, 1, 1) * edge
    inside = torch.minimum(edge - radius, radius - hole) * size / 2
    return inside.clamp(0, 1)[:, None]
