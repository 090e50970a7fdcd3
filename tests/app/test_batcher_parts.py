"""Requests that take several tickets: parts wait for room, leave some to others, and are finished after closing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from app.batcher import Batcher, Ticket, cells_needed
from app.errors import DeadlineExceeded, Draining, QueueFull
from app.metrics import Metrics
from app.worker.cells import Cells

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

QUEUE_PAIRS = 8
FAR_S = 50.0


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    cells = Cells(cells_needed(QUEUE_PAIRS), (2, 3))
    yield Batcher(QUEUE_PAIRS, cells, Metrics())
    cells.close()


def far() -> float:
    return time.monotonic() + FAR_S


async def later(batcher: Batcher, pairs: int) -> asyncio.Task[Ticket]:
    task = asyncio.create_task(batcher.admit_later(pairs, far()))
    await asyncio.sleep(0)
    return task


async def test_a_part_waits_for_room_and_gets_it(batcher: Batcher):
    with batcher.accepted():
        with batcher.admit(QUEUE_PAIRS):
            waiting = await later(batcher, 1)
            await asyncio.sleep(0.01)
            assert not waiting.done()
        (await waiting).release()
    assert batcher.admitted_pairs == 0


async def test_parts_leave_half_of_the_room_to_new_requests(batcher: Batcher):
    half = QUEUE_PAIRS // 2
    with batcher.accepted():
        parts = [await (await later(batcher, 1)) for _ in range(half)]
        waiting = await later(batcher, 1)
        assert not waiting.done()
        new = batcher.admit(QUEUE_PAIRS - half)
        with pytest.raises(QueueFull):
            batcher.admit(1)
        parts.pop().release()
        parts.append(await waiting)
        for ticket in (new, *parts):
            ticket.release()


async def test_a_part_of_more_than_half_goes_when_no_other_part_does(batcher: Batcher):
    with batcher.accepted():
        large = await (await later(batcher, QUEUE_PAIRS))
        large.release()


async def test_a_part_that_finds_no_room_until_its_deadline_is_told_so(batcher: Batcher):
    with batcher.accepted(), batcher.admit(QUEUE_PAIRS), pytest.raises(DeadlineExceeded):
        await batcher.admit_later(1, time.monotonic() + 0.02)


async def test_closing_finishes_accepted_requests_with_all_their_parts(batcher: Batcher):
    with batcher.accepted():
        batcher.close()
        drained = asyncio.create_task(batcher.drain())
        (await batcher.admit_later(1, far())).release()
        await asyncio.sleep(0)
        assert not drained.done()  # more parts may follow
        with pytest.raises(Draining), batcher.accepted():
            pass
        with pytest.raises(Draining):
            batcher.admit(1)
    await drained


async def test_giving_up_ends_the_waiting_of_parts(batcher: Batcher):
    with batcher.accepted(), batcher.admit(QUEUE_PAIRS):
        waiting = await later(batcher, 1)
        batcher.fail_all(Draining("the end"))
        with pytest.raises(Draining, match="the end"):
            await waiting
