"""Passes over rows of channels that torch would do in several: residual sum and layernorm, gelu in place, the decoder's
last steps.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions have no annotations: numba infers types, for each kind of array anew.

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from model.kernels.numbers import array, compiled, fitted, gelu, widened
from model.kernels.threads import run_all

_TOKENS: Final = 128
_PIXELS: Final = 8192


def add_norm(
    stream: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """Add a branch to the residual stream, in place, and give the layernorm of the sum.

    Args:
        stream: (T, C) float32; changed.
        branch: (T, C) float32 or bfloat16, or None for the layernorm alone.
        weight: (C,) float32.
        bias: (C,) float32.
        eps: added to variances.
        dtype: float32 or bfloat16, of the result.

    Returns:
        (T, C) in `dtype`.
    """
    normed = torch.empty(stream.shape, dtype=dtype)
    tokens, target, scale, shift = array(stream), array(normed), array(weight), array(bias)
    added = None if branch is None else array(branch)

    def piece(index: int) -> None:
        rows = slice(index * _TOKENS, (index + 1) * _TOKENS)
        if added is not None:
            _add(tokens[rows], added[rows])
        _norm(tokens[rows], scale, shift, np.float32(eps), target[rows])

    run_all(piece, -(-len(stream) // _TOKENS))
    return normed


def paint(features: Tensor, weight: Tensor, bias: Tensor, eps: float, head: Tensor, head_bias: Tensor) -> Tensor:
    """Layernorm over channels, gelu, and the product with the colour weights, pixel by pixel.

    Args:
        features: (B, C, H, W) float32 or bfloat16, channels last in memory.
        weight: (C,) float32 of the layernorm.
        bias: (C,) float32 of the layernorm.
        eps: added to variances.
        head: (3, C) float32.
        head_bias: (3,) float32.

    Returns:
        (B, 3, H, W) float32.
    """
    batch, channels, height, width = features.shape
    pixels = array(features.permute(0, 2, 3, 1).contiguous()).reshape(batch, height * width, channels)
    colours = torch.empty(batch, len(head), height, width)
    target = colours.numpy().reshape(batch, len(head), height * width)
    constants = (array(weight), array(bias), np.float32(eps), array(head), array(head_bias))
    pieces = -(-height * width // _PIXELS)

    def piece(index: int) -> None:
        picture, number = divmod(index, pieces)
        part = slice(number * _PIXELS, (number + 1) * _PIXELS)
        _paint(pixels[picture, part], *constants, target[picture, :, part])

    run_all(piece, batch * pieces)
    return colours


def gelu_rows(values: Tensor) -> None:
    """The exact gelu of each number, in place.

    Args:
        values: (T, C) float32; changed.
    """
    target = array(values)

    def piece(index: int) -> None:
        _gelu(target[index * _TOKENS : (index + 1) * _TOKENS])

    run_all(piece, -(-len(values) // _TOKENS))


@compiled
def _gelu(values):
    for row in range(len(values)):
        target = values[row]
        for channel in range(len(target)):
            target[channel] = gelu(target[channel])


@compiled
def _add(stream, branch):
    for row in range(len(stream)):
        target, source = stream[row], branch[row]
        for channel in range(len(target)):
            target[channel] += widened(source[channel])


@compiled
def _norm(stream, weight, bias, eps, normed):
    channels = np.float32(stream.shape[1])
    for row in range(len(stream)):
        source, target = stream[row], normed[row]
        mean = np.float32(0.0)
        for channel in range(len(source)):
            mean += source[channel]
        mean /= channels
        variance = np.float32(0.0)
        for channel in range(len(source)):
            variance += (source[channel] - mean) * (source[channel] - mean)
        factor = np.float32(1.0) / np.sqrt(variance / channels + eps)
        for channel in range(len(source)):
            value = (source[channel] - mean) * factor * weight[channel] + bias[channel]
            target[channel] = fitted(value, target)


@compiled
def _paint(pixels, weight, bias, eps, head, head_bias, colours):
    values = np.empty(pixels.shape[1], np.float32)
    channels = np.float32(len(values))
    for pixel in range(len(pixels)):
        source = pixels[pixel]
        mean = np.float32(0.0)
        for channel in range(len(values)):
            values[channel] = widened(source[channel])
            mean += values[channel]
        mean /= channels
        variance = np.float32(0.0)
        for channel in range(len(values)):
            variance += (values[channel] - mean) * (values[channel] - mean)
        factor = np.float32(1.0) / np.sqrt(variance / channels + eps)
        for channel in range(len(values)):
            values[channel] = gelu((values[channel] - mean) * factor * weight[channel] + bias[channel])
        for colour in range(len(head)):
            row = head[colour]
            summed = head_bias[colour]
            for channel in range(len(values)):
                summed += values[channel] * row[channel]
            colours[colour, pixel] = summed
