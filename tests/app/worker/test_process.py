"""The worker process by itself: it ends with its parent, and speaks only the protocol."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from app.worker.cells import Cells
from app.worker.engine import Engine
from app.worker.messages import (
    BatchDone,
    BatchFailed,
    Configure,
    LoadFailed,
    Loading,
    Message,
    Ready,
    RunBatch,
    Stop,
    decode,
    encode,
)
from app.worker.process import Link, _serve
from model.checkpoint import Checkpoint
from model.seggpt import SegGptForImageSegmentation

from .conftest import Pictures, assert_same, make_setup
from .test_engine import lay

pytestmark = pytest.mark.timeout(120)

ROOT = str(Path(__file__).parents[3])


class Worker:
    """A worker process whose other side is this test."""

    def __init__(self, cells: Cells) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.worker", f"--socket={theirs.fileno()}", f"--memory={cells.fd}"],
                pass_fds=(theirs.fileno(), cells.fd),
                stderr=subprocess.PIPE,
                cwd=ROOT,
                text=True,
            )
        self.lines = self.socket.makefile("rb")

    def send(self, message: Message) -> None:
        self.socket.sendall(encode(message))

    def receive(self) -> Message | None:
        line = self.lines.readline()
        return decode(line) if line else None

    def hang_up(self) -> None:
        self.lines.close()
        self.socket.close()

    def end(self) -> tuple[int, str]:
        """Exit code and what it wrote to stderr."""
        with self.process:
            _, errors = self.process.communicate()
        self.hang_up()
        return self.process.returncode, errors


def test_a_worker_starts_warms_up_and_stops_when_told(checkpoint: Checkpoint, cells: Cells):
    worker = Worker(cells)
    worker.send(make_setup(checkpoint, cells, pairs=1))
    worker.send(Stop())
    assert worker.receive() == Loading("checkpoint")
    assert worker.receive() == Loading("warm-up")
    ready = worker.receive()
    assert isinstance(ready, Ready)
    assert (ready.device, ready.dtype, ready.max_batch_pairs) == ("cpu", "float32", 1)
    assert ready.forward_ms > 0
    assert worker.receive() is None
    assert worker.end() == (0, "")


def test_a_worker_that_is_hung_up_on_while_it_loads_ends_at_once(checkpoint: Checkpoint, cells: Cells):
    worker = Worker(cells)
    worker.send(make_setup(checkpoint, cells))
    assert worker.receive() == Loading("checkpoint")
    worker.hang_up()
    assert worker.end() == (0, "")


def test_a_worker_that_nobody_ever_speaks_to_ends_with_its_socket(cells: Cells):
    worker = Worker(cells)
    worker.hang_up()
    assert worker.end() == (0, "")


def test_a_worker_refuses_to_begin_with_anything_but_its_setup(cells: Cells):
    worker = Worker(cells)
    worker.send(RunBatch(1, ()))
    code, errors = worker.end()
    assert code == 1
    assert "the first message is Configure; got RunBatch" in errors


def test_a_line_that_is_no_message_ends_the_worker(cells: Cells):
    worker = Worker(cells)
    worker.socket.sendall(b'{"type": "Exec"}\n')
    code, errors = worker.end()
    assert code == 1
    assert "unknown message type 'Exec'" in errors


def test_a_checkpoint_that_cannot_be_served_is_one_line_and_no_traceback(checkpoint: Checkpoint, cells: Cells):
    setup = make_setup(checkpoint, cells)
    gone = Configure(**{**vars(setup), "checkpoint": {**setup.checkpoint, "weights": "/nowhere/model.safetensors"}})
    worker = Worker(cells)
    worker.send(gone)
    assert worker.receive() == Loading("checkpoint")
    failed = worker.receive()
    assert isinstance(failed, LoadFailed)
    assert "/nowhere/model.safetensors" in failed.message
    assert "\n" not in failed.message
    assert worker.end() == (1, "")


@pytest.mark.parametrize("moment", ["loading", "ready"])
def test_a_worker_ends_with_a_parent_that_was_killed(checkpoint: Checkpoint, moment: str):
    # The parent and the worker share one pipe: it ends when both have ended.
    script = f"""
        import asyncio, json, sys
        from app.batcher import Batcher
        from app.metrics import Metrics
        from app.worker.cells import Cells
        from app.worker.supervisor import Supervisor, configure

        async def main():
            cells, metrics = Cells(48, (32, 32)), Metrics()
            setup = configure(json.loads(sys.stdin.read()), cells, device="cpu", dtype="auto", threads=1,
                              max_batch_pairs=8, warmup_limit_s=5, prompt_cache_bytes=0)
            supervisor = Supervisor(setup, cells, Batcher(16, cells, metrics), metrics,
                                    forward_timeout_s=60, on_fatal=print)
            supervisor.start()
            while supervisor.state != {moment!r}:
                await asyncio.sleep(0.001)
            print("now", supervisor.pid, flush=True)
            await asyncio.sleep(1000)

        asyncio.run(main())
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(json.dumps(checkpoint.to_dict()))
        parent.stdin.close()
        word, pid = parent.stdout.readline().split()
        assert word == "now"
        os.kill(int(pid), 0)
        parent.send_signal(signal.SIGKILL)
        assert parent.stdout.read() == ""


# The loop alone, in this process, which may hold two batches as on a GPU.


class Script(Link):
    """A link whose other side has said everything already, and that keeps what is sent."""

    def __init__(self, *messages: Message) -> None:
        self._inbox = queue.SimpleQueue()
        self.sent: list[Message] = []
        for message in messages:
            self._inbox.put(message)

    def send(self, message: Message) -> None:
        self.sent.append(message)


@pytest.fixture
def engine(checkpoint: Checkpoint, cells: Cells) -> Iterator[Engine]:
    threads = torch.get_num_threads()
    engine = Engine(make_setup(checkpoint, cells, pairs=1), cells)
    engine.warm_up()
    yield engine
    torch.set_num_threads(threads)


def watched(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of `begin` and `finish`, each with the batch's first cell."""
    calls: list[str] = []
    begin, finish = engine.begin, engine.finish

    def watched_begin(groups):
        calls.append(f"begin {groups[0].cells.input_cell}")
        return begin(groups)

    def watched_finish(pending):
        calls.append(f"finish {pending.groups[0].cells.input_cell}")
        return finish(pending)

    monkeypatch.setattr(engine, "begin", watched_begin)
    monkeypatch.setattr(engine, "finish", watched_finish)
    return calls


@pytest.mark.parametrize(
    ("at_once", "order"),
    [
        (1, ["begin 0", "finish 0", "begin 1", "finish 1", "begin 2", "finish 2"]),
        (2, ["begin 0", "begin 1", "finish 0", "begin 2", "finish 1", "finish 2"]),
    ],
)
def test_batches_are_begun_as_room_allows_and_answered_in_order(
    engine: Engine,
    cells: Cells,
    model: SegGptForImageSegmentation,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    order: list[str],
):
    monkeypatch.setattr(engine, "batches_at_once", at_once)
    requests = [Pictures(seed) for seed in range(3)]
    groups = [lay(cells, pictures) for pictures in requests]
    names = {f" {group.cells.input_cell}": f" {number}" for number, group in enumerate(groups)}
    calls = watched(engine, monkeypatch)
    link = Script(*(RunBatch(number, (group,)) for number, group in enumerate(groups)), Stop())
    assert _serve(link, engine) == 0
    assert [call[: call.index(" ")] + names[call[call.index(" ") :]] for call in calls] == order
    assert [(message.batch_id, message.statuses) for message in link.sent] == [
        (number, ("done",)) for number in range(3)
    ]
    for group, pictures in zip(groups, requests, strict=True):
        assert_same(cells.answers[group.cells.input_cell], pictures.alone(model))


def test_a_batch_that_cannot_be_begun_fails_alone_and_in_its_turn(
    engine: Engine, cells: Cells, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "batches_at_once", 2)
    kinds = ("instance", "nonsense", "instance")
    batches = [RunBatch(number, (lay(cells, Pictures(number), kind),)) for number, kind in enumerate(kinds)]
    link = Script(*batches, Stop())
    assert _serve(link, engine) == 0
    first, failed, last = link.sent
    assert isinstance(first, BatchDone)
    assert isinstance(failed, BatchFailed)
    assert isinstance(last, BatchDone)
    assert (failed.batch_id, failed.reason) == (1, "error")
    assert "embedding_type" in failed.message


@pytest.mark.parametrize("moment", ["begin", "finish"])
def test_a_lost_context_fails_every_batch_that_is_held(
    engine: Engine, cells: Cells, monkeypatch: pytest.MonkeyPatch, moment: str
):
    monkeypatch.setattr(engine, "batches_at_once", 2)
    monkeypatch.setattr(engine, "is_poisoned", lambda: True)

    def fault(_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine, moment, fault)
    link = Script(*(RunBatch(number, (lay(cells, Pictures(number)),)) for number in range(3)))
    assert _serve(link, engine) == 1
    answered = 1 if moment == "begin" else 2  # what fails to begin is answered before another is begun
    assert [(message.batch_id, message.reason) for message in link.sent] == [
        (number, "poisoned") for number in range(answered)
    ]


def test_the_next_message_is_waited_for_until_the_batch_is_computed():
    looks = iter([False, False, False, True])

    class Computing:
        @property
        def is_computed(self) -> bool:
            return next(looks)

    assert Script().receive_during(Computing()) is None
    assert next(looks, None) is None
    # What waits already is begun even if the batch is computed: the device would have nothing to do meanwhile.
    assert Script(Stop()).receive_during(SimpleNamespace(is_computed=True)) == Stop()
    link = Script()
    later = threading.Timer(0.05, link._inbox.put, [Stop()])
    later.start()
    assert link.receive_during(SimpleNamespace(is_computed=False)) == Stop()
    later.join()
