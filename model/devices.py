"""Which devices this machine computes on."""

from __future__ import annotations

import torch


def devices_there() -> tuple[str, ...]:
    """Torch's names of them: every CUDA device, then the CPU."""
    return (*(f"cuda:{index}" for index in range(torch.cuda.device_count())), "cpu")


def check_device(name: str) -> None:
    """Refuse a device that is not there; "cuda" is the first one.

    Raises:
        ValueError: it is not; the message names those that are.
    """
    there = devices_there()
    if name not in there and not (name == "cuda" and len(there) > 1):
        raise ValueError(f"got {name!r}; this machine has {', '.join(there)}")
