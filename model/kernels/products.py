"""Products of matrices on a CPU: oneDNN's where it multiplies in their precision, else float32's."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def is_native(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in this precision here, tried on a small product: bfloat16 needs AVX512."""
    weight, rows = torch.arange(12.0).view(4, 3), torch.arange(6.0).view(2, 3)
    try:
        product = torch.ops.mkldnn._linear_pointwise(rows.to(dtype), weight.to(dtype), None, "none", [], "")
    except (RuntimeError, AttributeError):
        return False
    return torch.equal(product.float(), rows @ weight.T)


def product(left: Tensor, right: Tensor) -> Tensor:
    """(M, K) x (N, K) -> (M, N) of the same precision; oneDNN's float32 beats other libraries' on some processors."""
    if not is_native(left.dtype):
        return (left.float() @ right.float().T).to(left.dtype)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return result


def is_batched(dtype: torch.dtype) -> bool:
    """Whether one call for several products costs less than several: torch's own for float32 is another library's."""
    return dtype != torch.float32 and is_native(dtype)


def products(left: Tensor, right: Tensor) -> Tensor:
    """(B, M, K) x (B, N, K) -> (B, M, N): `product` of each; several at once only where that `is_batched`."""
    if len(left) == 1:
        return product(left[0], right[0])[None]
    assert is_batched(left.dtype)
    return torch.bmm(left, right.mT)
