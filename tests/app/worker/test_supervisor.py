"""A supervisor and real worker processes: batches, deaths, hangs, the start and the end."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from app.batcher import Batcher
from app.errors import DeadlineExceeded, Problem, WorkerLost
from app.metrics import Metrics
from app.worker.cells import Cells
from app.worker.channel import WorkerGoneError
from app.worker.groups import Group
from app.worker.messages import BatchFailed
from app.worker.supervisor import Batch, Supervisor
from model.checkpoint import Checkpoint
from model.seggpt import SegGptForImageSegmentation

from .conftest import FAR_S, QUEUE_PAIRS, Pictures, assert_same, copy_of, make_setup, metric, open_house

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


class Sabotage(Batcher):
    """The real queue; but whoever takes a group of `poisonous_pairs` dies, as often as `deaths` says."""

    supervisor: Supervisor
    poisonous_pairs = 3
    deaths = 0

    def take(self, max_pairs: int, *, beside: bool = False) -> list[Group]:
        groups = super().take(max_pairs, beside=beside)
        if self.deaths and any(group.pairs == self.poisonous_pairs for group in groups):
            self.deaths -= 1
            assert self.supervisor.pid is not None
            os.kill(self.supervisor.pid, signal.SIGKILL)
        return groups


async def test_requests_of_every_kind_at_once_get_the_answers_that_they_get_alone(
    checkpoint: Checkpoint, cells: Cells, model: SegGptForImageSegmentation
):
    requests = [(Pictures(seed, 1 + seed % 3), "semantic" if seed % 2 else "instance") for seed in range(7)]
    async with open_house(checkpoint, cells) as house:
        assert house.supervisor.state == "starting"
        assert not house.supervisor.ready
        assert house.supervisor.info is None
        answers = await asyncio.gather(*(house.ask(pictures, kind) for pictures, kind in requests))
        for (pictures, kind), answer in zip(requests, answers, strict=True):
            assert_same(answer.levels, pictures.alone(model, kind))
            assert answer.queue_ms > 0
            assert answer.forward_ms > 0
            assert answer.postprocess_ms > 0

        assert house.supervisor.ready
        assert house.supervisor.info is not None
        assert house.supervisor.info.parameters == sum(each.numel() for each in model.parameters())
        await house.until_warm()
        before = metric(house, "seggpt_batch_pairs_sum")
        answers = await asyncio.gather(*(house.ask(pictures, kind) for pictures, kind in requests))
        assert [answer.batch_pairs for answer in answers] == [7, 7, 7, 7, 6, 6, 6]
        for (pictures, kind), answer in zip(requests, answers, strict=True):
            assert_same(answer.levels, pictures.alone(model, kind))

        alone = await house.ask(Pictures(50, 12))
        assert alone.batch_pairs == 12
        assert metric(house, "seggpt_batch_pairs_sum") - before == 13 + 12
        assert metric(house, "seggpt_batches_total") == metric(house, "seggpt_batch_pairs_count")
    assert cells.free == cells.count
    assert house.supervisor.state == "stopped"


async def test_an_embedding_type_that_the_network_refuses_fails_its_batch_and_nothing_else(
    checkpoint: Checkpoint, cells: Cells
):
    async with open_house(checkpoint, cells) as house:
        await house.until_ready()
        pid = house.supervisor.pid
        with pytest.raises(Problem) as caught:
            await house.ask(Pictures(0), "nonsense")
        assert caught.value.slug == "internal"
        assert (await house.ask(Pictures(0))).batch_pairs == 1
        assert house.supervisor.pid == pid


async def test_a_request_whose_worker_is_killed_while_it_runs_is_run_again_and_answered(
    checkpoint: Checkpoint, cells: Cells, model: SegGptForImageSegmentation
):
    async with open_house(checkpoint, cells) as house:
        await house.until_ready()
        first = house.supervisor.pid
        house.signal_worker(signal.SIGSTOP)
        requests = [Pictures(seed) for seed in range(3)]
        asking = [asyncio.create_task(house.ask(pictures)) for pictures in requests]
        await house.until(lambda: house.batcher._bound)
        house.signal_worker(signal.SIGKILL)
        await house.until(lambda: not house.supervisor.ready)
        for pictures, answer in zip(requests, await asyncio.gather(*asking), strict=True):
            assert_same(answer.levels, pictures.alone(model))
        assert house.supervisor.ready
        assert house.supervisor.pid not in (first, None)
        assert metric(house, "seggpt_worker_restarts_total") == 1
        assert metric(house, "seggpt_requeued_groups_total") >= 1
    assert cells.free == cells.count


async def test_a_request_that_kills_two_workers_is_answered_and_takes_no_other_with_it(
    checkpoint: Checkpoint, cells: Cells, model: SegGptForImageSegmentation
):
    batcher = Sabotage(QUEUE_PAIRS, cells, Metrics())
    batcher.deaths = 2
    async with open_house(checkpoint, cells, batcher=batcher) as house:
        batcher.supervisor = house.supervisor
        await house.until_ready()
        await house.until_warm()
        before, poison, after = (
            asyncio.create_task(house.ask(Pictures(seed, examples))) for seed, examples in ((1, 1), (2, 3), (3, 2))
        )
        with pytest.raises(WorkerLost):
            await poison
        assert_same((await before).levels, Pictures(1, 1).alone(model))
        assert_same((await after).levels, Pictures(3, 2).alone(model))
        assert batcher.deaths == 0
    assert cells.free == cells.count


async def test_a_worker_that_dies_while_idle_is_replaced(checkpoint: Checkpoint, cells: Cells):
    async with open_house(checkpoint, cells) as house:
        await house.until_ready()
        first = house.supervisor.pid
        house.signal_worker(signal.SIGKILL)
        await house.until(lambda: not house.supervisor.ready)
        await house.until_ready()
        assert house.supervisor.pid != first
        assert (await house.ask(Pictures(0))).batch_pairs == 1


async def test_a_worker_that_hangs_is_killed_and_its_request_answered_by_the_next(
    checkpoint: Checkpoint, cells: Cells, model: SegGptForImageSegmentation
):
    async with open_house(checkpoint, cells, forward_timeout_s=4.0) as house:
        await house.until_ready()
        first = house.supervisor.pid
        house.signal_worker(signal.SIGSTOP)
        answer = await house.ask(Pictures(0))
        assert_same(answer.levels, Pictures(0).alone(model))
        assert house.supervisor.pid != first


@pytest.mark.parametrize("way", ["the client leaves", "the deadline passes"])
async def test_cells_on_the_device_come_back_only_when_the_device_is_done(
    checkpoint: Checkpoint, cells: Cells, way: str
):
    async with open_house(checkpoint, cells) as house:
        await house.until_ready()
        house.signal_worker(signal.SIGSTOP)
        seconds = 0.3 if way == "the deadline passes" else 100
        asking = asyncio.create_task(house.ask(Pictures(0, 2), seconds=seconds))
        await house.until(lambda: house.batcher._bound)
        if way == "the client leaves":
            asking.cancel()
        with pytest.raises((asyncio.CancelledError, DeadlineExceeded)):
            await asking
        assert cells.free == cells.count - 5
        assert house.batcher.admitted_pairs == 2
        house.signal_worker(signal.SIGCONT)
        await house.until(lambda: cells.free == cells.count)
        assert house.batcher.admitted_pairs == 0
        assert (await house.ask(Pictures(0))).batch_pairs == 1


async def test_signals_that_end_services_do_not_end_the_worker_before_its_work(checkpoint: Checkpoint, cells: Cells):
    async with open_house(checkpoint, cells) as house:
        await house.until_ready()
        pid = house.supervisor.pid
        assert pid is not None
        assert os.getsid(pid) == pid
        house.signal_worker(signal.SIGTERM)
        house.signal_worker(signal.SIGINT)
        assert (await house.ask(Pictures(0))).batch_pairs == 1
        assert house.supervisor.pid == pid


async def test_stop_finishes_the_batch_in_flight_and_leaves_no_process(checkpoint: Checkpoint, cells: Cells):
    async with open_house(checkpoint, cells) as house:
        await house.until_ready()
        pid = house.supervisor.pid
        assert pid is not None
        house.signal_worker(signal.SIGSTOP)
        asking = asyncio.create_task(house.ask(Pictures(0)))
        await house.until(lambda: house.batcher._bound)
        stopping = asyncio.create_task(house.supervisor.stop(grace_s=60))
        await asyncio.sleep(0)
        house.signal_worker(signal.SIGCONT)
        assert (await asking).batch_pairs == 1
        await stopping
        assert house.supervisor.state == "stopped"
        assert house.supervisor.pid is None
        with pytest.raises(ProcessLookupError):  # not even a zombie
            os.kill(pid, 0)


async def test_stop_ends_a_worker_that_does_not_finish_in_time(checkpoint: Checkpoint, cells: Cells):
    async with open_house(checkpoint, cells) as house:
        await house.until_ready()
        pid = house.supervisor.pid
        assert pid is not None
        house.signal_worker(signal.SIGSTOP)
        asking = asyncio.create_task(house.ask(Pictures(0)))
        await house.until(lambda: house.batcher._bound)
        await house.supervisor.stop(grace_s=0.2)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert not asking.done()  # it is in the queue again, and the service says what becomes of it
        house.batcher.fail_all(WorkerLost("the service has ended"))
        with pytest.raises(WorkerLost):
            await asking
    assert cells.free == cells.count


async def test_stop_during_the_start_is_heard(checkpoint: Checkpoint, cells: Cells):
    async with open_house(checkpoint, cells) as house:
        await house.until(lambda: house.supervisor.pid)
        pid = house.supervisor.pid
        assert pid is not None
        await house.supervisor.stop(grace_s=60)
        assert house.supervisor.state == "stopped"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_damaged_weights_at_the_first_start_are_one_fatal_line(
    checkpoint: Checkpoint, cells: Cells, tmp_path, capfd: pytest.CaptureFixture[str]
):
    damaged = copy_of(checkpoint, tmp_path / "copy")
    damaged.weights.write_bytes(damaged.weights.read_bytes()[:-500])
    async with open_house(damaged, cells) as house:
        await house.until(lambda: house.fatal)
        assert len(house.fatal) == 1
        assert "\n" not in house.fatal[0]
        assert str(damaged.weights) in house.fatal[0]
        assert house.supervisor.state == "failed"
        assert not house.supervisor.ready
    assert house.supervisor.state == "failed"
    assert "Traceback" not in capfd.readouterr().err


async def test_weights_that_go_bad_while_serving_are_tried_again_until_they_are_good(
    checkpoint: Checkpoint, cells: Cells, tmp_path
):
    own = copy_of(checkpoint, tmp_path / "copy")
    good = own.weights.read_bytes()
    async with open_house(own, cells) as house:
        await house.until_ready()
        # Another file under the same name: the old one is mapped by the worker.
        own.weights.unlink()
        own.weights.write_bytes(good[:-500])
        house.signal_worker(signal.SIGKILL)
        await house.until(lambda: house.supervisor.state == "restarting")
        await house.until(lambda: house.supervisor.state == "loading")
        await house.until(lambda: house.supervisor.state == "restarting")
        assert not house.fatal
        own.weights.unlink()
        own.weights.write_bytes(good)
        assert (await house.ask(Pictures(0))).batch_pairs == 1
        assert house.supervisor.ready


async def test_a_worker_that_cannot_even_begin_is_fatal_after_a_few_tries(
    checkpoint: Checkpoint, cells: Cells, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.executable", "/bin/false")
    async with open_house(checkpoint, cells) as house:
        await house.until(lambda: house.fatal)
        assert "does not start: it exited with code 1" in house.fatal[0]
        assert house.supervisor.state == "failed"


async def test_a_device_beyond_recovery_is_a_lost_worker_and_no_answer(checkpoint: Checkpoint, cells: Cells):
    # Only a GPU can be poisoned, so the worker's message is made here; what follows a lost worker is tested above.
    batcher = Batcher(QUEUE_PAIRS, cells, Metrics())
    supervisor = Supervisor(
        make_setup(checkpoint, cells), cells, batcher, Metrics(), forward_timeout_s=60, on_fatal=pytest.fail
    )
    with batcher.admit(1) as ticket:
        asking = asyncio.create_task(ticket.answer("instance", time.monotonic() + FAR_S))
        await asyncio.sleep(0)
        groups = batcher.take(8)
        with pytest.raises(WorkerGoneError, match="beyond recovery: an illegal memory access"):
            supervisor._settle(Batch(0, groups), BatchFailed(0, "poisoned", "an illegal memory access"))
        assert not asking.done()
        batcher.requeue(groups)
        assert batcher.take(8) == groups
        batcher.requeue(groups)
        with pytest.raises(WorkerLost):
            await asking


async def test_two_workers_share_one_queue(checkpoint: Checkpoint, cells: Cells, model: SegGptForImageSegmentation):
    async with open_house(checkpoint, cells) as house:
        other = Supervisor(
            house.setup,
            cells,
            house.batcher,
            Metrics(),
            forward_timeout_s=60,
            on_fatal=house.fatal.append,
        )
        other.start()
        await house.until_ready()
        await house.until(lambda: other.ready)
        house.signal_worker(signal.SIGSTOP)  # one has hung with what it took; the other goes on
        requests = [Pictures(seed) for seed in range(10)]
        asking = [asyncio.create_task(house.ask(pictures)) for pictures in requests]
        await house.until(lambda: sum(task.done() for task in asking) >= 2)
        house.signal_worker(signal.SIGCONT)
        for pictures, answer in zip(requests, await asyncio.gather(*asking), strict=True):
            assert_same(answer.levels, pictures.alone(model))
        await other.stop(grace_s=20)
