"""What reading pictures of any kind takes: many at once, as tensors, and runs of equal neighbours in a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_Given = TypeVar("_Given")
_Read = TypeVar("_Read")


def each(read: Callable[[_Given], _Read], given: Iterable[_Given]) -> list[_Read]:
    """Read pictures in as many threads as there are cores, in order: decoders leave the interpreter free."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(read, given))


def planes(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """(H, W, C) uint8 each -> (N, C, H, W)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def runs(keys: list[str]) -> tuple[Tensor, Tensor]:
    """Runs of equal neighbours: (first index, length) of each, both (K,) int64."""
    first = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    ends = [*first[1:], len(keys)]
    return torch.tensor(first), torch.tensor([end - start for start, end in zip(first, ends, strict=True)])
