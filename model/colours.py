"""Colours: the palette, ImageNet's normalisation, and back from painted colours to classes or grey.

Sizes are (height, width). Source: transformers, `SegGptImageProcessor`; Painter, arXiv:2212.02499, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
MAX_VALUE = 255.0


def build_palette(num_labels: int) -> list[tuple[int, int, int]]:
    """Colours of a background and `num_labels` classes, spread over the RGB cube; row 0 is the black background.

    The cube root is taken in floating point on purpose: published masks were coloured so (64 labels: base 4).

    Raises:
        ValueError: num_labels is below 1.
    """
    if num_labels < 1:
        raise ValueError(f"num_labels is {num_labels}; a palette needs at least 1 class beside the background")
    base = int(num_labels ** (1 / 3)) + 1
    margin = 256 // base
    colours = [
        (255 - label // base**2 * margin, 255 - label % base**2 // base * margin, 255 - label % base * margin)
        for label in range(num_labels)
    ]
    return [(0, 0, 0), *colours]


def normalise(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(..., H, W, 3) uint8 RGB -> (..., 3, H, W) in ImageNet's normalised units, on the pixels' device."""
    mean = torch.tensor(IMAGE_MEAN, device=pixels.device)
    std = torch.tensor(IMAGE_STD, device=pixels.device)
    return ((pixels.to(torch.float32) / MAX_VALUE - mean) / std).movedim(-1, -3).to(dtype)


def colours(
    pred_masks: Tensor, image_mean: Sequence[float] = IMAGE_MEAN, image_std: Sequence[float] = IMAGE_STD
) -> Tensor:
    """(B, 3, H, W) normalised -> (B, 3, H, W) float32 RGB in [0, 255]."""
    mean = torch.tensor(image_mean, device=pred_masks.device).view(3, 1, 1)
    std = torch.tensor(image_std, device=pred_masks.device).view(3, 1, 1)
    return ((pred_masks.to(torch.float32) * std + mean) * MAX_VALUE).clip(0, MAX_VALUE)


def grey(pred_masks: Tensor) -> Tensor:
    """(B, 3, H, W) normalised answers -> (B, H, W) float32 mean of the channels in [0, 255]."""
    return colours(pred_masks).mean(dim=1)


def levels(pred_masks: Tensor, mean: Tensor | None = None, std: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Answers as a service gives them.

    Args:
        pred_masks: (B, 3, H, W) normalised.
        mean, std: (3, 1, 1) ImageNet's, where they are on the device already.

    Returns:
        (B,) bool, which answers are finite, and (B, H, W, 4) uint8: the painted RGB and its mean, in [0, 255]. Half
        rounds down: "mean > 127.5", the reference's rule for one class, is then exactly "uint8 > 127".
    """
    if mean is None or std is None:
        mean, std = (torch.tensor(values, device=pred_masks.device).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    finite = torch.isfinite(pred_masks).flatten(1).all(dim=1)
    painted = torch.nan_to_num(((pred_masks.to(torch.float32) * std + mean) * MAX_VALUE).clip(0, MAX_VALUE))
    values = torch.cat((painted, painted.mean(dim=1, keepdim=True)), dim=1)
    # Contiguous here, on the device: whoever reads it copies it pixel by pixel.
    return finite, torch.ceil(values - 0.5).clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()


def decode_colours(painted: Tensor, palette: Tensor) -> tuple[Tensor, Tensor]:
    """Name each painted pixel after its nearest palette colour.

    Args:
        painted: (3, H, W) float RGB in [0, 255].
        palette: (C, 3) float RGB in [0, 255]; row 0 is the background.

    Returns:
        (H, W) int64 in [0, C), and (C, H, W) minus the squared distance to each colour.

    Raises:
        ValueError: the palette is not (C, 3) with C >= 2.

    Source:
        Painter, arXiv:2212.02499, section 3.1.
    """
    if palette.ndim != 2 or palette.shape[0] < 2 or palette.shape[1] != 3:
        raise ValueError(f"the palette has shape {tuple(palette.shape)}; it must be (classes, 3), classes >= 2")
    distances = torch.stack([((painted - colour[:, None, None]) ** 2).sum(dim=0) for colour in palette])
    return distances.argmin(dim=0), -distances


def enlarge(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., h, w) of any dtype -> (..., H, W), by torch's nearest rule: source index floor(i * float32(in) / out).

    Source: torch.nn.functional.interpolate(mode="nearest"); in float64 some indices differ.
    """
    rows, columns = (
        (torch.arange(out, dtype=torch.float32) * torch.tensor(now / out, dtype=torch.float32))
        .floor()
        .long()
        .clamp(max=now - 1)
        .to(planes.device)
        for now, out in zip(planes.shape[-2:], size, strict=True)
    )
    return planes[..., rows, :][..., columns]
