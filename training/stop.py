"""Ctrl-C and SIGTERM, which a run obeys between two steps."""

from __future__ import annotations

import os
import signal
from multiprocessing import parent_process
from multiprocessing.sharedctypes import RawValue
from types import FrameType
from typing import Any, Self


class Stop:
    """While it is open the first SIGINT or SIGTERM only asks for the end, a second one ends at once. Main thread only.

    Processes that are started with it are asked too, whichever of them has the signal.
    """

    def __init__(self) -> None:
        self._number = RawValue("i", 0)  # of the signal; in memory that started processes share
        self._before: dict[int, Any] = {}

    @property
    def is_asked(self) -> bool:
        """Whether the run is to end."""
        return bool(self._number.value)

    @property
    def status(self) -> int:
        """What a process exits with that the signal ended."""
        return 128 + int(self._number.value)

    def forget(self) -> None:
        """The run has come to its end by itself."""
        self._number.value = 0

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._number.value = number
        self.__exit__()
        if parent_process() is None:
            # Not by print: the signal may have come in the midst of another one.
            os.write(2, b"\nends after the next step; at once if asked again\n")
