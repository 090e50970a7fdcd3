"""The threads in which pictures are decoded, resized and encoded, beside the device's work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from app.errors import DeadlineExceeded

Result = TypeVar("Result")


class Codecs:
    """A pool of threads. Pillow releases the interpreter lock, so they work beside each other and the event loop.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="codec")

    async def run(self, calls: Sequence[Callable[[], Result]], deadline: float) -> list[Result]:
        """Run `calls` beside each other; the first error is raised, and what has not begun by then never does.

        Raises:
            DeadlineExceeded: a call's turn came after `deadline`, `time.monotonic()` seconds.
        """
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(self._pool, _unless_late, call, deadline) for call in calls]
        try:
            return [await futures[0]] if len(futures) == 1 else await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Begin nothing more; what runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _unless_late(call: Callable[[], Result], deadline: float) -> Result:
    """Work that nobody waits for any more is not begun."""
    if time.monotonic() >= deadline:
        raise DeadlineExceeded("the deadline passed before the pictures were decoded or the answer encoded")
    return call()
