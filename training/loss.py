"""How wrong a painted answer is, with object and background of equal say."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

BETA = 0.5


def balanced_loss(painted: Tensor, wanted: Tensor, area: Tensor, *, balance: float = 1.0) -> Tensor:
    """Smooth-L1 (beta .5), each pixel weighted by how rare its side of the mask is.

    Masks are small: with equal pixels the network rests for thousands of steps at an answer without any object. With
    `balance` 1 the object and the background of each pair weigh the same in sum; with 0 all pixels do.

    Args:
        painted: (B, 3, H, W) float, ImageNet-normalised answer.
        wanted: (B, 3, H, W) float, the true mask in the same colours and scale.
        area: (B, H, W) bool, True inside the object.
        balance: in [0, 1].

    Returns:
        Scalar, the mean over pairs.
    """
    error = functional.smooth_l1_loss(painted.float(), wanted.float(), beta=BETA, reduction="none").mean(1)
    inside = area.float()
    share = inside.mean((1, 2), keepdim=True).clamp(1e-3, 1 - 1e-3)
    weight = inside / share + (1 - inside) / (1 - share)  # sums to 2 pixels' worth over the picture
    weight = balance * weight / 2 + (1 - balance)
    return (error * weight).mean()


def overlap(found: Tensor, area: Tensor) -> Tensor:
    """Intersection over union of each pair: two (B, H, W) bool -> (B,) float; 1 where both are empty."""
    both = (found & area).sum((1, 2)).float()
    either = (found | area).sum((1, 2)).float()
    return both.add(either == 0) / either.clamp(min=1)
