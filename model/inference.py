"""Preparing a loaded network for answering only: the same answers from packed weights and fused passes.

`optimise` changes the network in place. What it puts in stands where modules of `model.encoder` and `model.decoder`
stood, behind the same calls: `SegGptForImageSegmentation.forward` remains the only way through.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import torch

from model.seggpt import SegGptForImageSegmentation

Precision = Literal["float32", "bfloat16", "float16", "int8"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


@dataclass(frozen=True)
class Mode:
    """How a prepared network computes.

    Args:
        precision: of products: "float32", "bfloat16", "float16" or "int8".
        attention: the attention kernel.
        linear: what multiplies with the weights.
    """

    precision: str
    attention: str
    linear: str


def native_precision(device: torch.device) -> Precision:
    """The fastest precision that the device has instructions for and that keeps masks as they are."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    cpu_info = Path("/proc/cpuinfo")
    flags = cpu_info.read_text().split() if cpu_info.is_file() else []
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def optimise(model: SegGptForImageSegmentation, precision: Precision) -> Mode:
    """Prepare a network for answering, in place; it cannot be trained, saved or moved to another device afterwards.

    Args:
        model: loaded, on its device.
        precision: of products. The residual stream, norms and softmax stay float32.

    Returns:
        What was chosen.

    Raises:
        ValueError: there is no such precision, this device does not compute in it, or the network is prepared already.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    if model.prepared_for:
        raise ValueError(f"the network is prepared for answering in {model.prepared_for} already; load it again")
    model.requires_grad_(False).eval()
    if model.device.type == "cuda":
        from model.cuda import prepare  # noqa: PLC0415  # Triton is only where a GPU is

        mode = Mode(precision, prepare(model, precision).attention, "cublas")
    else:
        from model.cpu import prepare as prepare_on_cpu  # noqa: PLC0415  # numba takes half a second to import

        mode = Mode(precision, *prepare_on_cpu(model, precision))
    model.prepared_for = precision
    return mode
