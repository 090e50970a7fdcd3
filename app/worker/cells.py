"""Shared memory between the HTTP process and the worker processes: a fixed number of pictures.

One mapping holds `count` cells of (h, w, 3) uint8 and, behind them, `count` answers of (h, w, 4) uint8. A request
takes 1 + 2N cells (the input image and N examples); its answer goes to the place whose index is its input cell's, so
those places need no list of their own. The answer does not share the input's bytes: a worker that dies while it writes
an answer must leave the pixels whole, because the request is then run again. Places of cells that never hold an input
image are never touched and so cost no memory.

The mapping is an anonymous file whose descriptor the children inherit. It is not in /dev/shm, which container
runtimes limit to 64 MB. Which cells are free is known to the HTTP process only.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_CHANNELS = 3
_LEVELS = 4


class CellMemory:
    """The mapping, as both sides see it; it has no idea which cells are in use.

    Args:
        fd: descriptor of the shared file; stays the caller's to close.
        count: number of cells.
        shape: (height, width) of a cell in pixels.

    Raises:
        ValueError: the file is smaller than that.
    """

    def __init__(self, fd: int, count: int, shape: tuple[int, int]) -> None:
        self.count = count
        self.shape = shape
        picture = shape[0] * shape[1]
        self._mapping = mmap.mmap(fd, memory_bytes(count, shape))
        everything = np.frombuffer(self._mapping, dtype=np.uint8)
        split = count * picture * _CHANNELS
        #: (count, h, w, 3) uint8 RGB in [0, 255]
        self.pixels: Pixels = everything[:split].reshape(count, *shape, _CHANNELS)
        #: (count, h, w, 4) uint8 painted RGB and its mean, in [0, 255]
        self.answers: Pixels = everything[split:].reshape(count, *shape, _LEVELS)


def memory_bytes(count: int, shape: tuple[int, int]) -> int:
    """Size of the mapping of `count` cells of `shape` (height, width), answers included."""
    return count * shape[0] * shape[1] * (_CHANNELS + _LEVELS)


class Cells(CellMemory):
    """The HTTP process's side: owns the file and the list of free cells. Not for several threads.

    Args:
        count: number of cells.
        shape: (height, width) of a cell in pixels.
    """

    def __init__(self, count: int, shape: tuple[int, int]) -> None:
        self.fd = _anonymous_file(memory_bytes(count, shape))
        super().__init__(self.fd, count, shape)
        # The most recently used cell is taken first: its memory is in place already.
        self._free = list(reversed(range(count)))
        self._is_free = [True] * count

    @property
    def free(self) -> int:
        """How many cells nobody owns."""
        return len(self._free)

    def take(self, number: int) -> list[int] | None:
        """Own `number` cells; None, and nothing taken, if fewer are free."""
        if number > len(self._free):
            return None
        taken = [self._free.pop() for _ in range(number)]
        for cell in taken:
            self._is_free[cell] = False
        return taken

    def give_back(self, cells: list[int]) -> None:
        """Stop owning `cells`.

        Raises:
            ValueError: one of them is free already; two owners would share it from then on.
        """
        for cell in cells:
            if self._is_free[cell]:
                raise ValueError(f"cell {cell} is given back, but nobody owns it")
            self._is_free[cell] = True
            self._free.append(cell)

    def close(self) -> None:
        """Close the file. The mapping itself ends with its last array."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _anonymous_file(size: int) -> int:
    """Descriptor of a file of `size` zero bytes that no path names; its memory is taken page by page, on first use."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("seggpt-cells")
    else:
        fd, path = tempfile.mkstemp(prefix="seggpt-cells-")
        os.unlink(path)  # noqa: PTH108  # mkstemp gives a string, and the name must go at once
    os.ftruncate(fd, size)
    return fd
