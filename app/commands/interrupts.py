"""Ctrl-C and SIGTERM, except in moments that must not be cut in two."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

STATUS: Final = 130


class Interrupts:
    """While it is open both signals raise KeyboardInterrupt, inside `undisturbed` only at its end. Main thread only."""

    def __init__(self) -> None:
        self._is_busy = self._is_asked = False
        self._before: dict[int, Any] = {}

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """What is inside ends before an interrupt counts."""
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False
        if self._is_asked:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._is_asked = True
        if not self._is_busy:
            raise KeyboardInterrupt
