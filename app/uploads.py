"""A request's body on its way in: it has until the request's deadline, and until the service ends."""

from __future__ import annotations

import contextlib
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from app.errors import DeadlineExceeded, Draining
from app.service import Service

_DISCARD_S: Final = 5.0
# What is still to come of this body will not be read.
_LAST: Final = {"Connection": "close"}


class Upload:
    """Stands in for a request's `receive`.

    Args:
        headers: the request's.
        arrived: when it came, `time.monotonic()` seconds.
        receive: the server's.
        service: has the deadline, and ends.
    """

    def __init__(self, headers: Headers, arrived: float, receive: Receive, service: Service) -> None:
        #: Whether all of it has come, or the client has gone.
        self.is_whole = "content-length" not in headers and "transfer-encoding" not in headers
        #: Whether it is read as it is worked on: then each piece has the whole time again.
        self.is_streamed = False
        self._waits_to_be_asked = "expect" in headers
        self._receive = receive
        self._service = service
        self._until = arrived + service.settings.deadline_s

    async def receive(self) -> Message:
        """The next message.

        Raises:
            DeadlineExceeded: the next piece of the body did not come in time.
            Draining: nor before the service's end.
        """
        if self.is_whole:  # what may come now is the client's leaving
            return await self._receive()
        deadline_s = self._service.settings.deadline_s
        left_s = deadline_s if self.is_streamed else self._until - time.monotonic()
        try:
            async with self._service.at_most(left_s):
                return await self._next()
        except TimeoutError:
            if self._service.given_up.is_set():
                raise Draining("the service stopped before the rest of the request was read", headers=_LAST) from None
            raise DeadlineExceeded(
                f"the rest of the request's body did not come within {deadline_s:g} s", headers=_LAST
            ) from None

    async def discard(self) -> None:
        """Read a refused body away, within limits: a client still sending would see a reset, not the answer."""
        left = self._service.settings.max_body_bytes
        if self._waits_to_be_asked:
            return
        with contextlib.suppress(TimeoutError):
            async with self._service.at_most(_DISCARD_S):
                while left > 0 and not self.is_whole:
                    left -= len((await self._next()).get("body", b""))

    async def _next(self) -> Message:
        message = await self._receive()
        self._waits_to_be_asked = False
        self.is_whole = not message.get("more_body", False)
        return message
