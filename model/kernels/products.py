"""Products of matrices on a CPU: oneDNN's where it has them in their precision and is ahead, else torch's float32."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Final

import torch
from torch import Tensor

CLEARLY: Final = 0.8
"""What stands in torch's own place must be ahead by this much: timings waver, and a service should start the same way
every day."""
# Rows, columns and inner width of the products that are timed: milliseconds each.
_TRIED = 512


@cache
def is_native(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in this precision here, tried on a small product: bfloat16 needs AVX512."""
    weight, rows = torch.arange(12.0).view(4, 3), torch.arange(6.0).view(2, 3)
    try:
        product = _onednn(rows.to(dtype), weight.to(dtype))
    except (RuntimeError, AttributeError):
        return False
    return torch.equal(product.float(), rows @ weight.T)


@cache
def is_onednn_ahead(dtype: torch.dtype) -> bool:
    """Whether products in this precision are to be oneDNN's; else torch's own, in float32.

    In float32 that is tried: it is twice as fast on some processors with AVX512, and a seventh slower on some without.
    """
    if dtype != torch.float32 or not is_native(dtype):
        return is_native(dtype)
    left, right = torch.rand(2, _TRIED, _TRIED)
    return fastest_seconds(lambda: _onednn(left, right)) < CLEARLY * fastest_seconds(lambda: left @ right.T)


def fastest_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Of some calls after one that warms up: what else runs on a machine can only make a call longer."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def product(left: Tensor, right: Tensor) -> Tensor:
    """(M, K) x (N, K) -> (M, N) of the same precision, by the faster library."""
    if is_onednn_ahead(left.dtype):
        return _onednn(left, right)
    return (left.float() @ right.float().T).to(left.dtype)


def is_batched(dtype: torch.dtype) -> bool:
    """Whether one call for several products costs less than several: torch's own for float32 is another library's."""
    return dtype != torch.float32 and is_native(dtype)


def products(left: Tensor, right: Tensor) -> Tensor:
    """(B, M, K) x (B, N, K) -> (B, M, N): `product` of each; several at once only where that `is_batched`."""
    if len(left) == 1:
        return product(left[0], right[0])[None]
    assert is_batched(left.dtype)
    return torch.bmm(left, right.mT)


def _onednn(left: Tensor, right: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return result
