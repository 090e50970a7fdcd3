"""How wrong a painted answer is: every class of equal say, or every pixel worth what it is to the overlap."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BETA = 0.5
_LABELS = 3
_LEAST_WORTH = 0.25  # of a false pixel beside a missed one's, where the overlap itself is less
_ABSENT_WORTH = 0.5  # likewise, where nothing should be marked
_LEAST_AREA = 0.02  # of the picture, of a union
_LEAST_FALSE = 0.1  # likewise, of what is marked where nothing should be: else empty answers would outweigh all others


def painting_loss(
    painted: Tensor,
    wanted: Tensor,
    labels: Tensor,
    found: Tensor,
    *,
    balance: float = 1.0,
    counted: Tensor | None = None,
) -> Tensor:
    """Smooth-L1 (beta .5), each pixel weighted by its label.

    Masks are small: with equal pixels the network rests for thousands of steps at an answer without any thing. So with
    `balance` 1 the labels that a pair shows weigh the same in sum. A network that was trained so marks all that might
    be the thing, since a false pixel costs a tenth of a missed one where the thing is a tenth of the picture. With
    `balance` 0 a pixel weighs what intersection over union loses by it at the present answer: 1 / union for a missed
    one, overlap / union for a false one. Where nothing should be marked, the union is what is.

    Args:
        painted: (B, 3, H, W) float, ImageNet-normalised answer.
        wanted: (B, 3, H, W) float, the true mask in the same colours and scale.
        labels: (B, H, W) uint8 or bool, 0 outside, 1 or 2 inside a thing.
        found: (B, H, W) of the same, what the answer shows.
        balance: in [0, 1].
        counted: (B, H, W) bool, the pixels that count; all by default.

    Returns:
        Scalar, the mean over pairs.
    """
    error = functional.smooth_l1_loss(painted.float(), wanted.float(), beta=BETA, reduction="none").mean(1)
    counts = torch.ones_like(error) if counted is None else counted.float()
    counts = counts / counts.sum((1, 2), keepdim=True).clamp(min=1)
    weight = torch.zeros_like(error)
    if balance > 0:
        weight = weight + balance * _equal_labels(labels, counts)
    if balance < 1:
        weight = weight + (1 - balance) * _overlap_worth(labels, found, counts)
    return (error * weight).sum((1, 2)).mean()


def _equal_labels(labels: Tensor, counts: Tensor) -> Tensor:
    """(B, H, W) weights by which each label of a pair has the same sum; `counts` has the sum 1."""
    weight, present = torch.zeros_like(counts), torch.zeros_like(counts[:, :1, :1])
    for label in range(_LABELS):
        own = (labels == label) * counts
        share = own.sum((1, 2), keepdim=True)
        weight = weight + own / share.clamp(min=1e-3)
        present = present + (share > 0)
    return weight / present.clamp(min=1)


def _overlap_worth(labels: Tensor, found: Tensor, counts: Tensor) -> Tensor:
    """(B, H, W) weights: what the mean overlap of a pair's things loses by each pixel; `counts` has the sum 1."""
    things = range(1, _LABELS)
    outside = (labels == 0) * counts
    areas = [((labels == thing) * counts).sum((1, 2), keepdim=True) for thing in things]
    present = sum(((area > 0).float() for area in areas), torch.zeros_like(areas[0])).clamp(min=1)
    false = ((found > 0) * outside).sum((1, 2), keepdim=True) / present
    weight, cost = torch.zeros_like(counts), torch.zeros_like(false)
    for thing, area in zip(things, areas, strict=True):
        union = (area + false).clamp(min=_LEAST_AREA)
        both = (((labels == thing) & (found == thing)) * counts).sum((1, 2), keepdim=True)
        weight = weight + (labels == thing) * counts / union
        cost = cost + (area > 0) * (both / union).clamp(min=_LEAST_WORTH) / union
    cost = torch.where(cost == 0, _ABSENT_WORTH / false.clamp(min=_LEAST_FALSE), cost)
    return (weight + outside * cost / present) / present


def overlap(found: Tensor, area: Tensor) -> Tensor:
    """Intersection over union of each pair: two (B, H, W) bool -> (B,) float; 1 where both are empty."""
    both = (found & area).sum((1, 2)).float()
    either = (found | area).sum((1, 2)).float()
    return both.add(either == 0) / either.clamp(min=1)
