"""A supervisor whose worker holds two batches at once, which only a GPU's asks for.

The workers here are a CPU's, which begin the second batch when they are done with the first.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from dataclasses import replace

import pytest

from app.batcher import Batcher
from app.errors import Problem, WorkerLost
from app.metrics import Metrics
from app.worker.cells import Cells
from app.worker.channel import WorkerGoneError
from app.worker.groups import Answer
from app.worker.messages import BatchFailed, Message, Ready
from app.worker.supervisor import Batch, Supervisor
from model.checkpoint import Checkpoint
from model.seggpt import SegGptForImageSegmentation

from .conftest import QUEUE_PAIRS, House, Pictures, assert_same, make_setup, metric, open_house

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


async def two_at_once(house: House) -> None:
    """Let the worker, which is warm and then stopped, be given two batches of two pairs."""
    await house.until_ready()
    await house.until_warm()
    assert house.supervisor.info is not None
    house.supervisor.info = replace(house.supervisor.info, batches_at_once=2)
    house.signal_worker(signal.SIGSTOP)


async def test_a_second_batch_is_sent_before_the_first_is_answered_if_it_is_full(
    checkpoint: Checkpoint, cells: Cells, model: SegGptForImageSegmentation
):
    async with open_house(checkpoint, cells, pairs=2) as house:
        await two_at_once(house)
        requests = [Pictures(seed) for seed in range(7)]
        order: list[int] = []

        async def ask(number: int) -> Answer:
            answer = await house.ask(requests[number])
            order.append(number)
            return answer

        asking = [asyncio.create_task(ask(number)) for number in range(3)]
        await asyncio.sleep(0.1)
        assert (house.batcher.running_pairs, house.batcher.queued_pairs) == (2, 1)
        asking.append(asyncio.create_task(ask(3)))
        await asyncio.sleep(0.1)
        assert (house.batcher.running_pairs, house.batcher.queued_pairs) == (4, 0)
        asking += [asyncio.create_task(ask(number)) for number in range(4, 7)]
        await asyncio.sleep(0.1)
        assert (house.batcher.running_pairs, house.batcher.queued_pairs) == (4, 3)
        house.signal_worker(signal.SIGCONT)
        answers = await asyncio.gather(*asking)
        assert order == list(range(7))
        assert [answer.batch_pairs for answer in answers] == [2, 2, 2, 2, 2, 2, 1]
        # With a worker that does something else, or behind another batch on the device, a request still waits.
        assert all(answer.queue_ms > 100 for answer in answers[:4])
        for pictures, answer in zip(requests, answers, strict=True):
            assert_same(answer.levels, pictures.alone(model))
    assert cells.free == cells.count


async def test_both_batches_of_a_lost_worker_are_queued_again_in_order_and_answered(
    checkpoint: Checkpoint, cells: Cells, model: SegGptForImageSegmentation
):
    async with open_house(checkpoint, cells, pairs=2) as house:
        await two_at_once(house)
        requests = [Pictures(seed) for seed in range(5)]
        asking = [asyncio.create_task(house.ask(pictures)) for pictures in requests]
        await house.until(lambda: house.batcher.running_pairs == 4)
        held = list(house.batcher._bound)
        house.signal_worker(signal.SIGKILL)
        await house.until(lambda: not house.batcher.running_pairs)
        assert [ticket.group for ticket in house.batcher._queue][:4] == held
        for pictures, answer in zip(requests, await asyncio.gather(*asking), strict=True):
            assert_same(answer.levels, pictures.alone(model))
        assert metric(house, "seggpt_requeued_groups_total") == 4
    assert cells.free == cells.count


async def test_stop_finishes_both_batches(checkpoint: Checkpoint, cells: Cells):
    async with open_house(checkpoint, cells, pairs=2) as house:
        await two_at_once(house)
        asking = [asyncio.create_task(house.ask(Pictures(seed))) for seed in range(4)]
        await house.until(lambda: house.batcher.running_pairs == 4)
        stopping = asyncio.create_task(house.supervisor.stop(grace_s=60))
        await asyncio.sleep(0)
        house.signal_worker(signal.SIGCONT)
        assert [answer.batch_pairs for answer in await asyncio.gather(*asking)] == [2] * 4
        await stopping
        assert house.supervisor.state == "stopped"


class Saying:
    """The end of a channel at which a worker says one thing."""

    def __init__(self, message: Message) -> None:
        self._message = message

    async def receive(self) -> Message:
        return self._message


async def test_each_batch_has_the_whole_limit_from_its_turn_on_and_answers_come_in_order(
    checkpoint: Checkpoint, cells: Cells
):
    batcher = Batcher(QUEUE_PAIRS, cells, Metrics())
    supervisor = Supervisor(
        make_setup(checkpoint, cells), cells, batcher, Metrics(), forward_timeout_s=60, on_fatal=pytest.fail
    )
    supervisor.info = Ready("cuda:0", "a GPU", "float32", "fused", "cublas", 1, 1, 1.0, batches_at_once=2)
    asking = []
    for seed in range(2):
        asking.append(asyncio.create_task(House(supervisor._setup, cells, batcher, supervisor, []).ask(Pictures(seed))))
    await asyncio.sleep(0)
    held: deque[Batch] = deque()
    assert supervisor._left_s(held) is None
    assert [supervisor._bind(held) is None for _ in range(3)] == [False, False, True]
    for batch in held:
        batch.groups[0].turn_at -= 50
    assert 9 < (supervisor._left_s(held) or 0) <= 10
    with pytest.raises(WorkerGoneError, match="it answered batch 2 instead of 1"):
        await supervisor._hear(Saying(BatchFailed(2, "error", "a fault")), held)
    await supervisor._hear(Saying(BatchFailed(1, "error", "a fault")), held)
    with pytest.raises(Problem):
        await asking[0]
    assert 59 < (supervisor._left_s(held) or 0) <= 60
    batcher.requeue(held.pop().groups)
    # A second try runs with nothing beside it.
    asking.append(asyncio.create_task(House(supervisor._setup, cells, batcher, supervisor, []).ask(Pictures(2))))
    await asyncio.sleep(0)
    assert [supervisor._bind(held) is None for _ in range(2)] == [False, True]
    batcher.requeue(held.pop().groups)
    batcher.fail_all(WorkerLost("the test is over"))
    for task in asking[1:]:
        with pytest.raises(WorkerLost):
            await task
