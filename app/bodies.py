"""The bytes that request bodies hold, all together: counted, so that many large ones cannot fill memory."""

from __future__ import annotations

import asyncio
import time

from app.errors import TooManyBytesInFlight
from app.metrics import Metrics


class BodyBytes:
    """The account of all bodies. One event loop, no threads.

    Args:
        limit_bytes: what all bodies may hold together.
        metrics: shows how many they are.
    """

    def __init__(self, limit_bytes: int, metrics: Metrics) -> None:
        self.limit_bytes = limit_bytes
        self.total_bytes = 0
        self._metrics = metrics
        self._freed = asyncio.Event()

    def change(self, size: int) -> None:
        """Count `size` bytes more, or fewer if it is negative."""
        self.total_bytes += size
        self._metrics.bytes_in_flight.set(self.total_bytes)
        if size < 0:
            self._freed.set()

    async def freed(self, until: float) -> bool:
        """Wait until some bytes were given back; False if that was not before `until`, `time.monotonic()` seconds."""
        self._freed.clear()
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await self._freed.wait()
        except TimeoutError:
            return False
        return True


class BodyShare:
    """One body's part of the account.

    Args:
        account: of all bodies.
    """

    def __init__(self, account: BodyBytes) -> None:
        self.account = account
        self.held_bytes = 0

    def hold(self, size: int) -> None:
        """Count `size` bytes more, or fewer if it is negative."""
        self.held_bytes += size
        self.account.change(size)

    def check(self) -> None:
        """Whether all bodies together have room.

        Raises:
            TooManyBytesInFlight: they hold too many bytes.
        """
        if self.account.total_bytes > self.account.limit_bytes:
            raise TooManyBytesInFlight(
                f"all requests together hold {self.account.total_bytes} bytes; allowed are {self.account.limit_bytes}"
            )

    def close(self) -> None:
        """Give everything back."""
        self.hold(-self.held_bytes)
