"""What lies between the matrix products: in Triton where that runs, in plain torch elsewhere. Same signatures."""

from __future__ import annotations

import logging
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)


@lru_cache
def _triton_on(device: torch.device) -> ModuleType | None:
    """The fused steps, if they compile on this device and are right there. Triton needs a C compiler beside it."""
    if device.type != "cuda":
        return None
    try:
        from model.kernels import triton_pointwise as fused  # noqa: PLC0415  # Triton is not on every platform

        stream, weight, bias = (torch.randn(size, device=device) for size in ((4, 48), (48,), (48,)))
        got = fused.add_norm(stream, stream, (weight, bias), 1e-6, torch.float32)
        torch.testing.assert_close(got, _add_norm(stream, stream, (weight, bias), 1e-6, torch.float32, None))
        features, head = torch.randn(1, 3, 5, 48, device=device), (torch.randn(3, 48, device=device), bias[:3])
        painted = fused.paint(features, (weight, bias), 1e-6, head)
        torch.testing.assert_close(painted, _paint(features, (weight, bias), 1e-6, head), rtol=1e-3, atol=1e-3)
    except Exception as failure:  # whatever it is, plain torch will do
        logger.warning("fused steps do not run here, plain ones do: %s", failure)
        return None
    return fused


def add_norm(
    stream: Tensor,
    branch: Tensor | None,
    norm: tuple[Tensor, Tensor],
    eps: float,
    dtype: torch.dtype,
    merged: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add a branch to the stream between blocks, and normalise the sum.

    Args:
        stream: (T, C) float32.
        branch: (T, C) what to add, any precision; None adds nothing.
        norm: (C,) weight and bias, float32.
        eps: added to the variance.
        dtype: of the normalised result.
        merged: (T, C) float32 another stream: the sum becomes the mean of both.

    Returns:
        The sum, (T, C) float32, and it normalised, (T, C) in `dtype`.
    """
    fused = _triton_on(stream.device)
    if fused is None:
        return _add_norm(stream, branch, norm, eps, dtype, merged)
    result: tuple[Tensor, Tensor] = fused.add_norm(stream, branch, norm, eps, dtype, merged)
    return result


def paint(features: Tensor, norm: tuple[Tensor, Tensor], eps: float, head: tuple[Tensor, Tensor]) -> Tensor:
    """The decoder after its convolution: layernorm over channels, gelu, 1x1 convolution.

    Args:
        features: (G, 1 + H, W, C) contiguous; the first pixel row is left out.
        norm: (C,) weight and bias, float32.
        eps: added to the variance.
        head: (colours, C) weight and (colours,) bias, float32.

    Returns:
        (G, colours, H, W) float32.
    """
    fused = _triton_on(features.device)
    if fused is None:
        return _paint(features, norm, eps, head)
    painted: Tensor = fused.paint(features, norm, eps, head)
    return painted


def _add_norm(
    stream: Tensor,
    branch: Tensor | None,
    norm: tuple[Tensor, Tensor],
    eps: float,
    dtype: torch.dtype,
    merged: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if branch is not None:
        stream = stream + branch
    if merged is not None:
        stream = (stream + merged) * 0.5
    return stream, F.layer_norm(stream, stream.shape[-1:], *norm, eps).to(dtype)


def _paint(features: Tensor, norm: tuple[Tensor, Tensor], eps: float, head: tuple[Tensor, Tensor]) -> Tensor:
    normed = F.layer_norm(features[:, 1:].float(), features.shape[-1:], *norm, eps)
    return F.linear(F.gelu(normed), *head).permute(0, 3, 1, 2)
