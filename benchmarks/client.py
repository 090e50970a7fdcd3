"""A client that costs little: it shares the machine with the servers it measures, and every system gets the same one.

Raw HTTP/1.1 over kept-open loopback connections, requests put together beforehand, answers looked at no more than
needed. `closed_loop` keeps a number of clients busy and so finds the capacity; `open_loop` sends at moments drawn
beforehand (Poisson), however late the answers are, and so sees what users see.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

Request = Callable[[int], Sequence[bytes]]
"""The number of a request in its run -> the bytes to send, in pieces."""

_REFUSED = frozenset({429, 503})


@dataclass
class Seen:
    """What clients saw in one run.

    Args:
        seconds: in an open loop from the first request to the last answer, in a closed one between two answers.
        latencies_s: of the requests answered with 200 in that time; in an open loop from when each was due.
        refused: requests answered with 429 or 503.
        failures: the first bytes of every other answer.
    """

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def answers_per_s(self) -> float:
        """Answered requests per second."""
        return len(self.latencies_s) / self.seconds

    def note(self, status: int, latency_s: float, body: bytes) -> None:
        """Count one answer."""
        if status == 200:
            self.latencies_s.append(latency_s)
        elif status in _REFUSED:
            self.refused += 1
        else:
            self.failures.append(f"{status} {body[:300]!r}")

    def quantile_ms(self, share: float) -> float:
        """The latency that `share` of the answered requests did not exceed; NaN without any."""
        if not self.latencies_s:
            return float("nan")
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connection(asyncio.Protocol):
    """One kept-open connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._buffer = bytearray()
        self._end = 0

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def ask(self, pieces: Sequence[bytes]) -> asyncio.Future[tuple[int, bytes]]:
        """Send a whole request; the future gets the status and the whole answer, head included."""
        assert self._transport is not None
        assert self._answer is None, "one request at a time"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines(pieces)
        return self._answer

    @property
    def is_closed(self) -> bool:
        """Whether either side has hung up."""
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by type

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server hung up in the middle of a request"))

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        self._buffer += data
        if not self._end:
            head_end = self._buffer.find(b"\r\n\r\n")
            if head_end < 0:
                return
            head = bytes(self._buffer[:head_end]).lower()
            _, found, rest = head.partition(b"content-length:")
            assert found, "only answers that say their length are understood"
            self._end = head_end + 4 + int(rest.partition(b"\r\n")[0])
        if len(self._buffer) >= self._end:
            assert self._answer is not None
            answer, self._answer = self._answer, None
            body, self._buffer, self._end = bytes(self._buffer), bytearray(), 0
            if not answer.done():
                answer.set_result((int(body[9:12]), body))


async def closed_loop(host: str, port: int, request: Request, clients: int, seconds: float) -> Seen:
    """Keep `clients` requests open; each client sends its next as soon as it has its answer.

    Counted is what comes while all are busy: from the first answer after a settling time, a fifth of `seconds`, to the
    first one `seconds` later. Before and after, a server has too little to do for full batches on all its workers.
    """
    seen = Seen()
    numbers = itertools.count()
    connections = await asyncio.gather(*(Connection.open(host, port) for _ in range(clients)))
    settled = time.perf_counter() + seconds / 5
    first, last = math.inf, 0.0

    async def client(connection: Connection) -> None:
        nonlocal first, last
        while not last:
            sent = time.perf_counter()
            status, body = await connection.ask(request(next(numbers)))
            now = time.perf_counter()
            is_counted = first < now and not last
            if is_counted or status != 200:
                seen.note(status, now - sent, body)
            if now >= settled and first == math.inf:
                first = now
            elif now >= settled + seconds:
                last = last or now

    await asyncio.gather(*(client(connection) for connection in connections))
    seen.seconds = last - first
    for connection in connections:
        connection.close()
    return seen


async def open_loop(host: str, port: int, request: Request, per_s: float, seconds: float, seed: int = 0) -> Seen:
    """Send `per_s` requests a second for `seconds` on average, at moments that do not wait for answers.

    A request is late when all earlier ones still wait, and its latency counts from when it was due.
    """
    seen = Seen()
    draw = random.Random(seed)
    free: deque[Connection] = deque()
    asking: set[asyncio.Task[None]] = set()

    async def one(number: int, due: float) -> None:
        connection = free.pop() if free else None
        if connection is None or connection.is_closed:  # servers hang up what was idle for some seconds
            connection = await Connection.open(host, port)
        status, body = await connection.ask(request(number))
        seen.note(status, time.perf_counter() - due, body)
        free.append(connection)

    started = due = time.perf_counter()
    for number in itertools.count():
        due += draw.expovariate(per_s)
        if due - started > seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(one(number, due))
        asking.add(task)
        task.add_done_callback(asking.discard)
    await asyncio.gather(*asking)
    seen.seconds = time.perf_counter() - started
    for connection in free:
        connection.close()
    return seen


async def fetch(host: str, port: int, path: str) -> tuple[int, str]:
    """One GET on a connection of its own: status and body.

    Raises:
        OSError: nobody listens.
    """
    connection = await Connection.open(host, port)
    status, answer = await connection.ask([f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()])
    connection.close()
    return status, answer.partition(b"\r\n\r\n")[2].decode()
