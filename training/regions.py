"""Regions of like colour in photos: masks that no annotator had to draw."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

REGIONS = 5
POSITION_WEIGHT = 0.7  # of the distance across the photo, in standard deviations of colour
COARSE = 48


def colour_regions(pixels: Tensor, iterations: int = 8) -> Tensor:
    """Cluster each photo by colour and position (k-means on a 48-pixel copy).

    Args:
        pixels: (M, 3, H, W) uint8.

    Returns:
        (M, H, W) uint8 in [1, 5].
    """
    size = pixels.shape[-2:]
    parts = [_cluster(part, iterations) for part in pixels.split(64)]
    coarse = torch.cat(parts).to(torch.uint8)
    return functional.interpolate(coarse[:, None].float(), size, mode="nearest")[:, 0].to(torch.uint8)


def _cluster(pixels: Tensor, iterations: int) -> Tensor:
    """(M, 3, H, W) uint8 -> (M, 48, 48) int64 in [1, 5]."""
    colours = functional.adaptive_avg_pool2d(pixels.float(), COARSE)
    colours = functional.avg_pool2d(colours, 3, stride=1, padding=1, count_include_pad=False)
    colours = (colours - colours.mean((2, 3), keepdim=True)) / (colours.std((1, 2, 3), keepdim=True) + 1.0)
    axis = torch.linspace(-2, 2, COARSE, device=pixels.device) * POSITION_WEIGHT
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
    points = torch.cat([colours, grid.expand(len(pixels), -1, -1, -1)], 1).flatten(2).mT  # (M, 2304, 5)
    # Seeds on a fixed spread of pixels: no random number, so the regions are the same in every run.
    seeds = torch.linspace(0, points.shape[1] - 1, REGIONS + 2, device=pixels.device).long()[1:-1]
    centres = points[:, seeds + COARSE // 3]
    nearest = torch.cdist(points, centres).argmin(2)
    for _ in range(iterations):
        member = functional.one_hot(nearest, REGIONS).float()  # (M, 2304, 5)
        centres = member.mT @ points / member.sum(1).clamp(min=1)[..., None]
        nearest = torch.cdist(points, centres).argmin(2)
    return nearest.view(-1, COARSE, COARSE) + 1
