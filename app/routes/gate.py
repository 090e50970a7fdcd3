"""How many images of batches are worked on at one time, so that single requests find room beside them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Gate:
    """Room for the images of all batches together; first come, first served, so that batches take turns.

    Args:
        room: how many (image, example) pairs there is room for; asked again for each image.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        self.room = room
        self._inside = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def enter(self, pairs: int) -> int:
        """Wait for room. An image with more pairs than there will ever be room for goes alone.

        Returns:
            What to `leave` with.
        """
        pairs = min(pairs, max(1, self.room()))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, pairs))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled() or not turn.done():
                self._waiting.remove((turn, pairs))
                self._admit()
            else:
                self.leave(pairs)  # its turn had come in this very moment
            raise
        return pairs

    def leave(self, pairs: int) -> None:
        """Give the room back."""
        self._inside -= pairs
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            turn, pairs = self._waiting[0]
            if self._inside and self._inside + pairs > self.room():
                return
            self._waiting.popleft()
            if not turn.cancelled():
                self._inside += pairs
                turn.set_result(None)
