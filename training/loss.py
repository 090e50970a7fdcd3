"""How wrong a painted answer is, with every class of equal say."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BETA = 0.5
_LABELS = 3


def balanced_loss(
    painted: Tensor, wanted: Tensor, labels: Tensor, *, balance: float = 1.0, counted: Tensor | None = None
) -> Tensor:
    """Smooth-L1 (beta .5), each pixel weighted by how rare its label is.

    Masks are small: with equal pixels the network rests for thousands of steps at an answer without any thing. With
    `balance` 1 the labels that a pair shows weigh the same in sum; with 0 all pixels do.

    Args:
        painted: (B, 3, H, W) float, ImageNet-normalised answer.
        wanted: (B, 3, H, W) float, the true mask in the same colours and scale.
        labels: (B, H, W) uint8 or bool, 0 outside, 1 or 2 inside a thing.
        balance: in [0, 1].
        counted: (B, H, W) bool, the pixels that count; all by default.

    Returns:
        Scalar, the mean over pairs.
    """
    error = functional.smooth_l1_loss(painted.float(), wanted.float(), beta=BETA, reduction="none").mean(1)
    counts = torch.ones_like(error) if counted is None else counted.float()
    total = counts.sum((1, 2), keepdim=True).clamp(min=1)
    weight, present = torch.zeros_like(error), torch.zeros_like(total)
    for label in range(_LABELS):
        own = (labels == label).float() * counts
        share = own.sum((1, 2), keepdim=True) / total
        weight = weight + own / share.clamp(min=1e-3)
        present = present + (share > 0).float()
    weight = balance * weight / present.clamp(min=1) + (1 - balance) * counts
    return ((error * weight).sum((1, 2), keepdim=True) / total).mean()


def overlap(found: Tensor, area: Tensor) -> Tensor:
    """Intersection over union of each pair: two (B, H, W) bool -> (B,) float; 1 where both are empty."""
    both = (found & area).sum((1, 2)).float()
    either = (found | area).sum((1, 2)).float()
    return both.add(either == 0) / either.clamp(min=1)
