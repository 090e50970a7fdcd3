"""The load generator, against servers on loopback."""

import asyncio
from collections.abc import Sequence

import pytest

from benchmarks.client import Seen, closed_loop

STEP_S = 0.02


def _request(number: int) -> Sequence[bytes]:
    del number
    return [b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"]


async def _measured(status: bytes, clients: int, seconds: float) -> tuple[Seen, int]:
    """What was seen of a server that answers all clients at once, STEP_S after the last has asked; and its answers."""
    waiting: list[asyncio.StreamWriter] = []
    answered = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            waiting.append(writer)
            if len(waiting) == clients:
                await asyncio.sleep(STEP_S)
                answered += clients
                for other in waiting:
                    other.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")
                waiting.clear()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        seen = await closed_loop("127.0.0.1", server.sockets[0].getsockname()[1], _request, clients, seconds)
        await asyncio.sleep(STEP_S)  # until the server has seen its clients leave
    return seen, answered


def test_a_closed_loop_counts_whole_steps_of_busy_clients_only() -> None:
    seen, answered = asyncio.run(_measured(b"200 OK", clients=4, seconds=0.5))
    assert seen.seconds > 0
    # One that comes first in its step, then those up to the first of another step: each step counts once.
    assert len(seen.latencies_s) % 4 == 0
    # What came while it settled, and what was still open at the end, is answered and not counted.
    assert 0 < len(seen.latencies_s) <= answered - 4


def test_a_closed_loop_with_one_client_that_waits_longer_than_it_should_still_counts() -> None:
    seen, _ = asyncio.run(_measured(b"200 OK", clients=1, seconds=STEP_S / 10))
    assert len(seen.latencies_s) == 1
    assert seen.answers_per_s == pytest.approx(1 / seen.seconds)


@pytest.mark.parametrize(("status", "refused", "failed"), [(b"503 Full", True, False), (b"500 Broken", False, True)])
def test_a_closed_loop_tells_refusals_and_failures(status: bytes, refused: bool, failed: bool) -> None:
    seen, _ = asyncio.run(_measured(status, clients=2, seconds=0.1))
    assert not seen.latencies_s
    assert bool(seen.refused) == refused
    assert bool(seen.failures) == failed
