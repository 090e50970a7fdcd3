"""Memory that need not be this process's: pages of files that were read, and blocks that the C library keeps.

Linux tells which pages are whose; on other systems nothing is given back, which costs memory only.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

_MAPPINGS = Path("/proc/self/maps")
_PAGES = Path("/proc/self/pagemap")


class _Mapping(NamedTuple):
    """One line of /proc/self/maps: [first, end) addresses, permissions such as "r-xp", path or nothing."""

    first: int
    end: int
    permissions: str
    is_file: bool
    path: str


def release_pages(tensor: Tensor) -> None:
    """Let the system take back the memory of a tensor that is mapped from a file, as `map_tensors` gives them.

    For whoever has made something else of a weight and drops it: the pages of a file stay this process's while any
    tensor of that file lives. Reading the tensor again reads the file again. A tensor that was changed, that is not
    mapped from a file, or of another system than Linux, stays as it is.
    """
    if tensor.is_contiguous() and is_mapped_from_a_file(tensor):
        give_back(tensor)


def release_unused() -> None:
    """Let the system take back what only starting needed: blocks that were freed, and pages of program libraries.

    Of a library's pages those that are run again come back when they are, from the system's cache of the file; most
    never are. torch, and the compiler behind numba, leave some 150 MB of them.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    for mapping in _mappings():
        if ".so" in Path(mapping.path).suffixes and mapping.is_file and "w" not in mapping.permissions:
            _give_back(mapping.first, mapping.end)


def is_mapped_from_a_file(tensor: Tensor) -> bool:
    """Whether all of it lies in one private mapping of a file."""
    if tensor.device.type != "cpu" or tensor.nbytes < mmap.PAGESIZE:
        return False
    start = tensor.data_ptr()
    for mapping in _mappings():
        if mapping.first <= start < mapping.end:
            is_private = mapping.permissions.endswith("p")
            return start + tensor.nbytes <= mapping.end and is_private and mapping.is_file
    return False


def give_back(tensor: Tensor) -> None:
    """Only for tensors of which `is_mapped_from_a_file` holds: of other memory this would erase the content."""
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    _give_back(-(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE)


def _mappings() -> Iterator[_Mapping]:
    """All of this process's; none where they cannot be told."""
    if not _MAPPINGS.exists():
        return
    for line in _MAPPINGS.read_text().splitlines():
        # 7f12a0000000-7f12f8640000 r--p 00000000 fe:00 2228     /folder/model.safetensors
        addresses, permissions, _, _, inode, *path = line.split(maxsplit=5)
        first, end = (int(address, 16) for address in addresses.split("-"))
        yield _Mapping(first, end, permissions, inode != "0", "".join(path))


def _give_back(first: int, end: int) -> None:
    """Pages of a private file mapping, unless one of them was changed and so is not the file's any more."""
    if first < end and not _is_changed(first, end):
        # Python's own `madvise` belongs to mappings that Python made. A refusal is no loss, so it is not looked at.
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(first), ctypes.c_size_t(end - first), ctypes.c_int(mmap.MADV_DONTNEED)
        )


def _is_changed(first: int, end: int) -> bool:
    """Whether any page of a private file mapping has been written to, and so is the process's own; True if in doubt."""
    try:
        with _PAGES.open("rb") as file:
            file.seek(first // mmap.PAGESIZE * 8)
            entries = np.frombuffer(file.read((end - first) // mmap.PAGESIZE * 8), dtype=np.uint64)
    except (OSError, ValueError):
        return True
    # Bits of an entry: 63 is in memory, 62 is swapped out, 61 belongs to a file.
    is_there, is_of_file = entries >> np.uint64(62) != 0, entries >> np.uint64(61) & np.uint64(1) != 0
    return len(entries) < (end - first) // mmap.PAGESIZE or bool((is_there & ~is_of_file).any())
