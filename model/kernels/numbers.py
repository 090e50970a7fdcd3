"""Arithmetic inside compiled passes: how they are compiled, and the few functions that vectorise nowhere else.

Compiled by numba, which needs no compiler on the machine; the interpreter lock is free meanwhile. numba has no
bfloat16: such numbers come and go as their 16 bits in uint16. Every step of integer arithmetic is cast, because numba
widens integers to 64 bits, which halves the vectors.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions have no annotations: numba infers types, for each kind of array anew.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

LOG2E: Final = 1.4426950408889634

# NaN and infinity keep their meaning: damaged weights must not give answers that look finite.
_FAST_MATH: Final = {"contract", "reassoc", "nsz", "arcp"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code on the first call, kept on disk where there is a place for it; the interpreter lock is free.

    Dividing by zero gives infinity, as in numpy: numba's other way, an exception, keeps loops from becoming vectors.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": _FAST_MATH, "error_model": "numpy"}
    try:
        result: Callable[..., Any] = njit(cache=True, **options)(function)
    except RuntimeError:  # neither the source's folder nor the user's cache can be written to
        result = njit(**options)(function)
    return result


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Part of the compiled function that calls it."""
    result: Callable[..., Any] = njit(inline="always", error_model="numpy")(function)
    return result


def array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The tensor's own memory; bfloat16 as its bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


@inlined
def exp2(x):
    """2**x for x <= 0 within 1e-7 of it: a polynomial for the fraction, the exponent's bits for the rest."""
    x = max(x, np.float32(-126.0))
    whole = np.floor(x + np.float32(0.5))
    part = x - whole
    power = np.float32(1.5353362e-4)
    power = power * part + np.float32(1.3399859e-3)
    power = power * part + np.float32(9.6184373e-3)
    power = power * part + np.float32(5.5503324e-2)
    power = power * part + np.float32(2.4022648e-1)
    power = power * part + np.float32(6.9314720e-1)
    power = power * part + np.float32(1.0)
    exponent = np.int32(np.int32(whole) << np.int32(23))
    return np.int32(np.float32(power).view(np.int32) + exponent).view(np.float32)


@inlined
def gelu(value):
    """x * (1 + erf(x / sqrt(2))) / 2 within 3e-7; erf after Abramowitz and Stegun, 7.1.26."""
    size = abs(value) * np.float32(0.70710678)
    part = np.float32(1.0) / (np.float32(1.0) + np.float32(0.3275911) * size)
    series = np.float32(1.061405429)
    series = series * part + np.float32(-1.453152027)
    series = series * part + np.float32(1.421413741)
    series = series * part + np.float32(-0.284496736)
    series = series * part + np.float32(0.254829592)
    tail = series * part * exp2(-size * size * np.float32(LOG2E))  # 1 - erf(size)
    half = np.float32(0.5) * value
    return half + abs(half) * (np.float32(1.0) - tail)


@inlined
def _from_bfloat16(bits):
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@inlined
def _to_bfloat16(value):
    """Rounded to the nearest, ties to even."""
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16(np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16))


def widened(number):
    """A float32 as it is; 16 bits as the bfloat16 that they are, in float32. Compiled code only."""
    raise NotImplementedError


def fitted(value, row):
    """A float32 as an entry of `row`, which holds float32 or the bits of bfloat16. Compiled code only."""
    raise NotImplementedError


# They work on numbers, not on places: numba knows an index for not negative only where its loop is.
@overload(widened, inline="always")
def _widened(number):
    if number == types.uint16:
        return lambda number: _from_bfloat16(number)  # noqa: PLW0108  # numba wants a function of this signature
    return lambda number: number


@overload(fitted, inline="always")
def _fitted(value, row):
    if row.dtype == types.uint16:
        return lambda value, row: _to_bfloat16(value)
    return lambda value, row: value
