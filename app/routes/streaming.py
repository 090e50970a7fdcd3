"""A multipart body read as it comes in, only as fast as its parts are worked on: it is never in memory as a whole.

What a client has sent and nobody has asked for yet stays in the sockets, whose ends tell the client to wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

from starlette.types import Receive

from app.bodies import BodyShare
from app.errors import BodyTooLarge, MalformedMultipart, TooManyBytesInFlight
from app.routes.multipart import FormParser, Part

_PATIENT_SHARE: Final = 0.5
"""Of all bodies' room: those that wait for room leave the rest to those that are refused without it."""


class ClientLeft(Exception):  # noqa: N818 - no error of anybody's
    """The client has closed its connection."""


class FormStream:
    """The parts of one body, one after the other.

    Args:
        receive: ASGI's.
        boundary: what separates the parts.
        share: counts what is held: of the part that is being read, and of those that were taken and not released.
        most_bytes: of the whole body.
        most_file_bytes: of one file; a longer one comes out empty and `is_dropped`.
        most_parts: of the body.
    """

    def __init__(
        self,
        receive: Receive,
        boundary: bytes,
        share: BodyShare,
        *,
        most_bytes: int,
        most_file_bytes: int,
        most_parts: int,
    ) -> None:
        self._receive = receive
        self._share = share
        self._parser = FormParser(boundary, most_parts=most_parts, most_file_bytes=most_file_bytes)
        self._most_bytes = most_bytes
        self._read_bytes = 0
        self._taken_bytes = self._held_bytes = 0
        self._kept_bytes = 0
        self._patience_s: float | None = None
        self._is_whole = asyncio.Event()

    async def parts(self) -> AsyncIterator[Part]:
        """Each part as soon as it has ended. Nothing is read while nobody asks for the next one.

        Raises:
            MalformedMultipart: the body is no form; after the parts before the fault.
            BodyTooLarge: it has too many bytes.
            TooManyBytesInFlight: all bodies together hold too many, also after some patience.
            ClientLeft: before the end of the body.
        """
        more = True
        while more:
            await self._find_room()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            body: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            if not more:
                self._is_whole.set()
            self._read_bytes += len(body)
            if self._read_bytes > self._most_bytes:
                raise BodyTooLarge(
                    f"got {self._read_bytes} bytes or more; allowed are {self._most_bytes}", limit=self._most_bytes
                )
            fault: MalformedMultipart | None = None
            try:
                self._parser.write(body)
            except MalformedMultipart as error:
                fault = error
            parts = self._parser.take()
            self._taken_bytes += sum(len(part.content) for part in parts)
            self._account()
            while parts:
                yield parts.pop(0)  # and not kept here, however long the next one takes
            if fault is not None:
                raise fault
        self._parser.close()

    def be_patient(self, patience_s: float) -> None:
        """From now on wait for room, so many seconds at most, rather than fail. What was taken until now is kept."""
        self._patience_s = patience_s
        self._kept_bytes = self._taken_bytes

    def release(self, part: Part) -> None:
        """A part that was taken is not needed any more."""
        self._taken_bytes -= len(part.content)
        self._account()

    async def left_early(self) -> None:
        """As `left`, from when the whole body has come: its last parts may wait long to be taken.

        Raises:
            ClientLeft: always, in the end.
        """
        await self._is_whole.wait()
        await self.left()

    async def left(self) -> None:
        """Wait until the client has closed its connection; what it still sends is thrown away.

        Raises:
            ClientLeft: always, in the end.
        """
        while (await self._receive())["type"] != "http.disconnect":
            pass
        raise ClientLeft

    async def _find_room(self) -> None:
        if self._patience_s is None:
            self._share.check()
            return
        account = self._share.account
        until = time.monotonic() + self._patience_s
        # When nothing but the next part is held, only going on makes room, here or for another in the same place.
        while account.total_bytes > account.limit_bytes * (
            _PATIENT_SHARE if self._taken_bytes > self._kept_bytes else 1
        ):
            if not await account.freed(until):
                raise TooManyBytesInFlight(
                    f"all requests together hold {account.total_bytes} bytes, and nothing came free in "
                    f"{self._patience_s:g} s; allowed are {account.limit_bytes}"
                )

    def _account(self) -> None:
        now = self._taken_bytes + self._parser.pending_bytes
        self._share.hold(now - self._held_bytes)
        self._held_bytes = now
