"""What lies between the matrix products, as Triton programs: each reads its numbers once and writes them once.

Layernorms and sums are in float32 and only results are rounded. GELU is the exact one, by erf. Annotations are
Triton's: the compiler reads them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIXELS = 64  # of one program


def add_norm(
    stream: Tensor,
    branch: Tensor | None,
    norm: tuple[Tensor, Tensor],
    eps: float,
    dtype: torch.dtype,
    merged: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `model.kernels.pointwise.add_norm`."""
    stream = stream.contiguous()
    tokens, channels = stream.shape
    normed = torch.empty_like(stream, dtype=dtype)
    total = stream if branch is None and merged is None else torch.empty_like(stream)
    _add_norm[(tokens,)](
        stream,
        stream if branch is None else branch.contiguous(),
        stream if merged is None else merged.contiguous(),
        *norm,
        total,
        normed,
        eps,
        channels=channels,
        width=triton.next_power_of_2(channels),
        has_branch=branch is not None,
        is_merged=merged is not None,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return total, normed


def paint(features: Tensor, norm: tuple[Tensor, Tensor], eps: float, head: tuple[Tensor, Tensor]) -> Tensor:
    """As `model.kernels.pointwise.paint`."""
    groups, rows, columns, channels = features.shape
    pixels = (rows - 1) * columns
    colours = len(head[0])
    painted = features.new_empty(groups, colours, rows - 1, columns, dtype=torch.float32)
    _paint[(triton.cdiv(pixels, _PIXELS), groups)](
        features.contiguous(),
        *norm,
        *head,
        painted,
        eps,
        pixels,
        columns,
        channels=channels,
        width=triton.next_power_of_2(channels),
        colours=colours,
        block=_PIXELS,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return painted


@triton.jit
def _add_norm(
    stream: tl.tensor,
    branch: tl.tensor,
    merged: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    total: tl.tensor,
    normed: tl.tensor,
    eps: tl.tensor,
    channels: tl.constexpr,
    width: tl.constexpr,
    has_branch: tl.constexpr,
    is_merged: tl.constexpr,
) -> None:
    """One token."""
    start = tl.program_id(0).to(tl.int64) * channels
    channel = tl.arange(0, width)
    inside = channel < channels
    value = tl.load(stream + start + channel, mask=inside, other=0.0)
    if has_branch:
        value += tl.load(branch + start + channel, mask=inside, other=0.0).to(tl.float32)
    if is_merged:
        value = (value + tl.load(merged + start + channel, mask=inside, other=0.0)) * 0.5
    if has_branch or is_merged:
        tl.store(total + start + channel, value, mask=inside)
    centred = tl.where(inside, value - tl.sum(value, 0) / channels, 0.0)
    spread = tl.rsqrt(tl.sum(centred * centred, 0) / channels + eps)
    scale = tl.load(weight + channel, mask=inside, other=0.0)
    shift = tl.load(bias + channel, mask=inside, other=0.0)
    result = centred * spread * scale + shift
    tl.store(normed + start + channel, result.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _paint(
    features: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    head_weight: tl.tensor,
    head_bias: tl.tensor,
    painted: tl.tensor,
    eps: tl.tensor,
    pixels: tl.tensor,
    columns: tl.tensor,
    channels: tl.constexpr,
    width: tl.constexpr,
    colours: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One group's pixels from `block` times the program's number on."""
    group = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    channel = tl.arange(0, width)
    inside = channel < channels
    start = features + (group * (pixels + columns) + columns) * channels
    value = tl.load(
        start + pixel[:, None] * channels + channel[None, :],
        mask=(pixel < pixels)[:, None] & inside[None, :],
        other=0.0,
    ).to(tl.float32)
    mean = tl.sum(value, 1) / channels
    centred = tl.where(inside[None, :], value - mean[:, None], 0.0)
    spread = tl.rsqrt(tl.sum(centred * centred, 1) / channels + eps)
    scale = tl.load(norm_weight + channel, mask=inside, other=0.0)
    shift = tl.load(norm_bias + channel, mask=inside, other=0.0)
    value = centred * spread[:, None] * scale[None, :] + shift[None, :]
    value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    for colour in tl.static_range(colours):
        row = tl.load(head_weight + colour * channels + channel, mask=inside, other=0.0)
        result = tl.sum(value * row[None, :], 1) + tl.load(head_bias + colour)
        tl.store(painted + (group * colours + colour) * pixels + pixel, result, mask=pixel < pixels)
