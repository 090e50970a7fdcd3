"""What this machine can do at most, measured: the rate of large products in each precision, and the memory's.

These are the roofs of the roofline. A rate depends on the size, so several are tried: the network's own, and larger.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.report import cores
from model.kernels.products import is_native, is_onednn_ahead, product

SHAPES = ((1568, 1024, 4096), (1568, 4096, 1024), (2048, 4096, 4096))
"""(rows, inner, columns) of the products."""
_COPIED_BYTES = 256 * 2**20


def peaks(modes: tuple[str, ...] = ("float32", "bfloat16", "int8"), seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s per mode and "memory" in GB/s (read and written together): the fastest of the runs in `seconds` each."""
    torch.set_num_threads(cores())
    with torch.inference_mode():
        rates = {mode: max(_rate(mode, shape, seconds / len(SHAPES)) for shape in SHAPES) for mode in modes}
        source = torch.ones(_COPIED_BYTES // 4)
        target = torch.empty_like(source)
        rates["memory"] = 2 * _COPIED_BYTES / 1e9 / fastest(lambda: target.copy_(source), seconds)
    return rates


def fastest(work: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of several runs; two at least, because the first one warms up."""
    begin = time.perf_counter()
    best = float("inf")
    runs = 0
    while runs < 2 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best


def _rate(mode: str, shape: tuple[int, int, int], seconds: float) -> float:
    """GFLOP/s of one product with a packed weight.

    Raises:
        ValueError: the mode is none of float32, bfloat16, int8.
    """
    rows, inner, columns = shape
    if mode == "int8":
        work = _int8_product(*shape)
    elif mode in ("float32", "bfloat16"):
        dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
        inputs, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        if is_onednn_ahead(dtype):
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            work = partial(torch.ops.mkldnn._linear_pointwise, inputs, packed, None, "none", [], "")
        else:
            work = partial(product, inputs, weight)
    else:
        raise ValueError(f"mode is {mode!r}; it must be float32, bfloat16 or int8")
    return 2 * rows * inner * columns / 1e9 / fastest(work, seconds)


def _int8_product(rows: int, inner: int, columns: int) -> Callable[[], Tensor]:
    onednn = torch.ops.onednn
    inputs = torch.randint(0, 255, (rows, inner), dtype=torch.uint8)
    weight = torch.randint(-127, 127, (columns, inner), dtype=torch.int8)
    packed = onednn.qlinear_prepack(weight, list(inputs.shape))
    scales, zeros = torch.ones(columns), torch.zeros(columns, dtype=torch.int32)
    factors = (inputs, 1.0, 128, packed, scales, zeros, None)
    written = torch.bfloat16 if is_native(torch.bfloat16) else torch.float32  # as `QuantisedLinear` does
    return partial(onednn.qlinear_pointwise, *factors, 1.0, 0, written, "none", [], "")
