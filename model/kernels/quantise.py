"""Rows of activations to 8 bits and back: each row has its own step, so that a large token costs no other precision."""

# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions have no annotations: numba infers types, for each kind of array anew.

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from model.kernels.numbers import array, compiled, fitted, gelu, widened
from model.kernels.threads import run_all

ZERO_POINT: Final = 128
LARGEST: Final = 127
_ROWS = 64


def quantise_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to 255 steps of its own.

    Args:
        values: (T, K) float32 or bfloat16.

    Returns:
        (T, K) uint8 around ZERO_POINT and (T,) float32 steps: a value is its step * (byte - ZERO_POINT).
    """
    quantised = torch.empty(values.shape, dtype=torch.uint8)
    steps = torch.empty(len(values), dtype=torch.float32)
    source, target, scale = array(values), quantised.numpy(), steps.numpy()

    def piece(index: int) -> None:
        rows = slice(index * _ROWS, (index + 1) * _ROWS)
        _to_bytes(source[rows], target[rows], scale[rows])

    run_all(piece, -(-len(values) // _ROWS))
    return quantised, steps


def rescale_rows(products: Tensor, steps: Tensor, bias: Tensor, *, with_gelu: bool) -> None:
    """Turn products of quantised rows into a linear layer's outputs, in place.

    Args:
        products: (T, N) float32 or bfloat16; changed.
        steps: (T,) float32, of the rows.
        bias: (N,) float32.
        with_gelu: whether the exact gelu follows.
    """
    target, scale, added = array(products), steps.numpy(), bias.numpy()
    rescale = _rescale_with_gelu if with_gelu else _rescale

    def piece(index: int) -> None:
        rows = slice(index * _ROWS, (index + 1) * _ROWS)
        rescale(target[rows], scale[rows], added)

    run_all(piece, -(-len(products) // _ROWS))


@compiled
def _to_bytes(values, quantised, steps):
    for row in range(len(values)):
        source, target = values[row], quantised[row]
        # Positive numbers are in the order of their bits, and the maximum of integers becomes vectors.
        bits = np.uint32(1)
        for column in range(len(source)):
            bits = max(bits, np.uint32(np.float32(widened(source[column])).view(np.uint32) & np.uint32(0x7FFFFFFF)))
        largest = max(np.uint32(bits).view(np.float32), np.float32(1e-30))
        steps[row] = largest / np.float32(LARGEST)
        factor = np.float32(LARGEST) / largest
        for column in range(len(source)):
            # Adding a half and cutting rounds to nearest: what is cut is positive.
            target[column] = np.uint8(np.int32(widened(source[column]) * factor + np.float32(ZERO_POINT + 0.5)))


@compiled
def _rescale(products, steps, bias):
    for row in range(len(products)):
        target, step = products[row], steps[row]
        for column in range(len(target)):
            target[column] = fitted(widened(target[column]) * step + bias[column], target)


@compiled
def _rescale_with_gelu(products, steps, bias):
    for row in range(len(products)):
        target, step = products[row], steps[row]
        for column in range(len(target)):
            target[column] = fitted(gelu(widened(target[column]) * step + bias[column]), target)
