"""Bytes on their way to a client that may not read them yet."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections import deque
from types import TracebackType
from typing import IO, Final, Self

MEMORY_BYTES: Final = 16 * 1024 * 1024
_PIECE_BYTES: Final = 256 * 1024


class Outbox:
    """A pipe that never makes its writers wait for its reader: what exceeds its memory goes through a file.

    Most clients send the whole of a large request before they read the first byte of its answer, so waiting for them
    would be waiting forever. A context manager; the file has no name and is gone with it. One event loop.

    Args:
        memory_bytes: how much is kept in memory.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._file: IO[bytes] | None = None
        self._file_lock = threading.Lock()  # a thread cannot be cancelled, and must not find another's file here
        self._read = self._written = 0  # places in the file
        self._has_ended = self._is_closed = False
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()

    async def put(self, data: bytes) -> None:
        """Append `data`. Those who call it at the same time are served in order."""
        if not data:
            return  # to whoever takes, nothing means the end
        async with self._writing:
            if self._read == self._written:
                self._read = self._written = 0
                if self._kept_bytes + len(data) <= self._memory_bytes:
                    self._kept.append(data)
                    self._kept_bytes += len(data)
                    self._changed.set()
                    return
            await asyncio.to_thread(self._write, data, self._written)
            self._written += len(data)
            self._changed.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._has_ended = True
        self._changed.set()

    async def take(self) -> bytes:
        """The next bytes; waits for them. Empty when everything was taken and nothing more comes."""
        while not self._kept and self._read == self._written:
            if self._has_ended:
                return b""
            self._changed.clear()
            await self._changed.wait()
        if self._kept:
            taken = b"".join(self._kept)
            self._kept.clear()
            self._kept_bytes = 0
            return taken
        piece = await asyncio.to_thread(self._piece, min(_PIECE_BYTES, self._written - self._read), self._read)
        self._read += len(piece)
        return piece

    def close(self) -> None:
        """Forget everything, the file too. What is put after this is lost."""
        with self._file_lock:
            self._is_closed = True
            if self._file is not None:
                self._file.close()

    def _write(self, data: bytes, place: int) -> None:
        with self._file_lock:
            if self._is_closed:
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - `close` closes it
            if not place:
                self._file.truncate(0)
            view = memoryview(data)
            while view:
                size = os.pwrite(self._file.fileno(), view, place)
                view, place = view[size:], place + size

    def _piece(self, size: int, place: int) -> bytes:
        with self._file_lock:
            return b"" if self._file is None or self._is_closed else os.pread(self._file.fileno(), size, place)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
