"""The queue: bounds, order, deadlines, second chances. No processes here.

The tests play the worker: they take groups and finish or requeue them, as a supervisor does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import numpy as np
import pytest

from app.batcher import Batcher, cells_needed
from app.errors import DeadlineExceeded, Draining, InternalProblem, QueueFull, WorkerLost
from app.metrics import Metrics
from app.worker.cells import Cells
from app.worker.groups import Answer, Group

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

CAPACITY_PAIRS = 8
SHAPE = (2, 3)
FAR_S = 100.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def cells() -> Iterator[Cells]:
    cells = Cells(cells_needed(CAPACITY_PAIRS), SHAPE)
    yield cells
    cells.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def batcher(cells: Cells, metrics: Metrics) -> Batcher:
    return Batcher(CAPACITY_PAIRS, cells, metrics)


def answer(pairs: int = 1, value: int = 0) -> Answer:
    return Answer(np.full(SHAPE, value, np.uint8), 0.0, 0.0, 0.0, pairs)


async def request(batcher: Batcher, pairs: int, seconds: float = FAR_S) -> Answer:
    with batcher.admit(pairs) as ticket:
        return await ticket.answer("instance", time.monotonic() + seconds)


async def queued(batcher: Batcher, *sizes: int, seconds: float = FAR_S) -> list[asyncio.Task[Answer]]:
    """One waiting request of each size, in order."""
    tasks = [asyncio.create_task(request(batcher, pairs, seconds)) for pairs in sizes]
    await asyncio.sleep(0)
    return tasks


def sizes(groups: list[Group]) -> list[int]:
    return [group.pairs for group in groups]


def finish(batcher: Batcher, groups: list[Group]) -> None:
    for group in groups:
        batcher.finish(group, answer(sum(sizes(groups)), value=group.pairs))


async def test_pixels_lie_in_the_cells_that_the_group_names(batcher: Batcher, cells: Cells):
    random = np.random.default_rng(0)
    image, *rest = random.integers(0, 256, (5, *SHAPE, 3), dtype=np.uint8)
    with batcher.admit(2) as ticket:
        ticket.write(image, [(rest[0], rest[1]), (rest[2], rest[3])])
        asking = asyncio.create_task(ticket.answer("semantic", time.monotonic() + FAR_S))
        await asyncio.sleep(0)
        (group,) = batcher.take(8)
        assert group.embedding_type == "semantic"
        assert (cells.pixels[group.cells.input_cell] == image).all()
        for number, (prompt, mask) in enumerate(group.cells.examples):
            assert (cells.pixels[prompt] == rest[2 * number]).all()
            assert (cells.pixels[mask] == rest[2 * number + 1]).all()
        finish(batcher, [group])
        await asking


async def test_a_worker_takes_everything_that_fits_in_order(batcher: Batcher):
    tasks = await queued(batcher, 1, 2, 1, 1)
    groups = batcher.take(4)
    assert sizes(groups) == [1, 2, 1]
    assert sizes(batcher.take(4)) == [1]
    assert batcher.take(4) == []
    finish(batcher, groups)
    assert [(await task).levels[0, 0] for task in tasks[:3]] == [1, 2, 1]
    batcher.fail_all(WorkerLost("the test is over"))
    with pytest.raises(WorkerLost):
        await tasks[3]


async def test_nobody_overtakes_a_request_that_does_not_fit(batcher: Batcher):
    tasks = await queued(batcher, 1, 4, 1)
    for expected in ([1], [4], [1]):
        groups = batcher.take(4)
        assert sizes(groups) == expected
        finish(batcher, groups)
    await asyncio.gather(*tasks)


async def test_a_request_larger_than_a_batch_runs_alone(batcher: Batcher):
    tasks = await queued(batcher, 5, 1)
    groups = batcher.take(2)
    assert sizes(groups) == [5]
    finish(batcher, groups)
    finish(batcher, batcher.take(2))
    await asyncio.gather(*tasks)


async def test_ready_waits_until_something_is_queued(batcher: Batcher):
    waiting = asyncio.create_task(batcher.ready(8))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    tasks = await queued(batcher, 1)
    assert await waiting
    finish(batcher, batcher.take(8))
    waiting = asyncio.create_task(batcher.ready(8))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(*tasks)


async def test_beside_a_batch_that_runs_only_a_full_one_is_taken(batcher: Batcher):
    tasks = await queued(batcher, 1, 2)
    assert batcher.take(4, beside=True) == []
    assert batcher.queued_pairs == 3
    waiting = asyncio.create_task(batcher.ready(4, beside=True))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    tasks += await queued(batcher, 2)
    assert await waiting
    groups = batcher.take(4, beside=True)
    assert sizes(groups) == [1, 2]  # the third could not have joined, whoever came
    finish(batcher, groups)
    assert batcher.take(4, beside=True) == []
    finish(batcher, batcher.take(4))
    await asyncio.gather(*tasks)


async def test_several_that_wait_for_different_batches_all_notice_theirs(batcher: Batcher):
    some, full = (asyncio.create_task(batcher.ready(2, beside=beside)) for beside in (False, True))
    await asyncio.sleep(0)
    tasks = await queued(batcher, 1)
    assert await some
    assert not full.done()
    tasks += await queued(batcher, 1)
    assert await full
    finish(batcher, batcher.take(2))
    await asyncio.gather(*tasks)


async def test_a_second_try_is_never_taken_beside_another_batch(batcher: Batcher):
    tasks = await queued(batcher, 4, 4)
    batcher.requeue(batcher.take(4))
    assert batcher.take(4, beside=True) == []
    finish(batcher, batcher.take(4))
    groups = batcher.take(4, beside=True)
    assert sizes(groups) == [4]
    finish(batcher, groups)
    await asyncio.gather(*tasks)


async def test_a_full_queue_refuses_before_anything_is_decoded_and_has_room_again_later(batcher: Batcher, cells: Cells):
    tickets = [batcher.admit(1) for _ in range(CAPACITY_PAIRS)]
    with pytest.raises(QueueFull) as caught:
        batcher.admit(1)
    assert caught.value.headers["Retry-After"] == "1"
    with pytest.raises(QueueFull):
        batcher.check_room(1)
    tickets[0].release()
    batcher.check_room(1)
    with pytest.raises(QueueFull):
        batcher.admit(2)
    tickets[0].release()  # again: no more room than before
    with batcher.admit(1), pytest.raises(QueueFull):
        batcher.admit(1)
    for ticket in tickets:
        ticket.release()
    assert batcher.admitted_pairs == 0
    assert cells.free == cells.count


async def test_retry_after_follows_what_is_queued_and_how_fast_pairs_were(
    cells: Cells, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    batcher = Batcher(CAPACITY_PAIRS, cells, metrics, workers=2)
    tasks = await queued(batcher, 2)
    groups = batcher.take(8)
    now += 10.0  # 5 seconds for a pair
    finish(batcher, groups)
    await asyncio.gather(*tasks)
    with batcher.admit(8), pytest.raises(QueueFull) as caught:
        batcher.admit(1)
    assert caught.value.headers["Retry-After"] == "20"  # 8 pairs, 5 seconds each, 2 workers


async def test_a_request_that_expires_in_the_queue_is_answered_at_its_deadline(batcher: Batcher, cells: Cells):
    tasks = await queued(batcher, 1, seconds=0.05)
    with pytest.raises(DeadlineExceeded):
        await tasks[0]
    assert batcher.queued_pairs == 0
    assert batcher.take(8) == []
    assert cells.free == cells.count


async def test_a_request_that_expired_is_not_bound_even_if_its_timer_has_not_run_yet(batcher: Batcher):
    tasks = await queued(batcher, 1, 2, seconds=0.05)
    time.sleep(0.06)  # noqa: ASYNC251  # an event loop that is late is the case under test
    assert batcher.take(8) == []
    for task in tasks:
        with pytest.raises(DeadlineExceeded):
            await task


async def test_a_request_that_comes_too_late_is_never_queued(batcher: Batcher):
    with pytest.raises(DeadlineExceeded):
        await request(batcher, 1, seconds=-1)
    assert batcher.queued_pairs == 0


async def test_a_client_that_leaves_takes_its_request_out_of_the_queue(batcher: Batcher, cells: Cells):
    tasks = await queued(batcher, 1, 2, 1)
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert batcher.queued_pairs == 2
    groups = batcher.take(8)
    assert sizes(groups) == [1, 1]
    finish(batcher, groups)
    await asyncio.gather(tasks[0], tasks[2])
    assert cells.free == cells.count


@pytest.mark.parametrize("end", ["finish", "requeue"])
async def test_cells_of_a_client_that_left_stay_the_workers_until_it_is_done_or_dead(
    batcher: Batcher, cells: Cells, end: str
):
    tasks = await queued(batcher, 2)
    groups = batcher.take(8)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert cells.free == cells.count - 5
    assert batcher.admitted_pairs == 2
    if end == "finish":
        finish(batcher, groups)
    else:
        batcher.requeue(groups)
    assert batcher.queued_pairs == 0
    assert cells.free == cells.count
    assert batcher.admitted_pairs == 0


async def test_a_request_that_expires_on_the_device_is_answered_and_its_outcome_dropped(batcher: Batcher, cells: Cells):
    tasks = await queued(batcher, 1, seconds=0.05)
    groups = batcher.take(8)
    with pytest.raises(DeadlineExceeded):
        await tasks[0]
    assert cells.free == cells.count - 3
    batcher.finish(groups[0], InternalProblem("too late to matter"))
    assert cells.free == cells.count


async def test_what_a_lost_worker_held_goes_first_and_runs_alone(batcher: Batcher, metrics: Metrics):
    tasks = await queued(batcher, 1, 2, 1)
    groups = batcher.take(3)
    assert sizes(groups) == [1, 2]
    batcher.requeue(groups)
    assert metrics.registry.get_sample_value("seggpt_requeued_groups_total") == 2
    for expected in ([1], [2], [1]):
        groups = batcher.take(8)
        assert sizes(groups) == expected
        finish(batcher, groups)
    await asyncio.gather(*tasks)


async def test_a_request_that_waits_behind_a_second_try_does_not_join_it(batcher: Batcher):
    tasks = await queued(batcher, 1)
    batcher.requeue(batcher.take(8))
    tasks += await queued(batcher, 1)
    first = batcher.take(8)
    assert [group.attempts for group in first] == [1]
    finish(batcher, first)
    finish(batcher, batcher.take(8))
    await asyncio.gather(*tasks)


async def test_a_request_whose_worker_is_lost_twice_is_answered(batcher: Batcher, cells: Cells):
    tasks = await queued(batcher, 1)
    batcher.requeue(batcher.take(8))
    batcher.requeue(batcher.take(8))
    with pytest.raises(WorkerLost):
        await tasks[0]
    assert batcher.queued_pairs == 0
    assert cells.free == cells.count


async def test_a_deadline_holds_for_a_second_try_too(batcher: Batcher):
    tasks = await queued(batcher, 1, seconds=0.05)
    batcher.requeue(batcher.take(8))
    with pytest.raises(DeadlineExceeded):
        await tasks[0]
    assert batcher.queued_pairs == 0


async def test_the_problem_of_a_batch_is_each_waiters_own(batcher: Batcher):
    tasks = await queued(batcher, 1, 1)
    for group in batcher.take(8):
        batcher.finish(group, InternalProblem("the forward has failed"))
    for task in tasks:
        with pytest.raises(InternalProblem):
            await task


async def test_draining_takes_nothing_new_and_waits_for_what_was_admitted(batcher: Batcher):
    await batcher.drain()  # nothing there: at once
    tasks = await queued(batcher, 1)
    batcher.close()
    with pytest.raises(Draining):
        batcher.admit(1)
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0.01)
    assert not draining.done()
    finish(batcher, batcher.take(8))
    await draining
    await asyncio.gather(*tasks)


async def test_giving_up_answers_what_is_queued_what_is_bound_and_what_is_still_to_come(batcher: Batcher, cells: Cells):
    ticket = batcher.admit(1)
    tasks = await queued(batcher, 1, 2)
    groups = batcher.take(1)
    batcher.fail_all(Draining("the service has ended"))
    for task in tasks:
        with pytest.raises(Draining):
            await task
    with ticket, pytest.raises(Draining):
        await ticket.answer("instance", time.monotonic() + FAR_S)
    assert cells.free == cells.count - 3
    finish(batcher, groups)
    assert cells.free == cells.count


async def test_the_queue_is_shown(batcher: Batcher, metrics: Metrics):
    def shown(name: str) -> float | None:
        return metrics.registry.get_sample_value(name)

    assert shown("seggpt_queue_limit_pairs") == CAPACITY_PAIRS
    tasks = await queued(batcher, 1, 2)
    assert shown("seggpt_queue_pairs") == 3
    groups = batcher.take(1)
    assert shown("seggpt_queue_pairs") == 2
    batcher.requeue(groups)
    assert shown("seggpt_queue_pairs") == 3
    batcher.fail_all(Draining("the service has ended"))
    assert shown("seggpt_queue_pairs") == 0
    await asyncio.gather(*tasks, return_exceptions=True)
