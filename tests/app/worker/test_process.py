"""The worker process by itself: it ends with its parent, and speaks only the protocol."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from app.worker.cells import Cells
from app.worker.messages import (
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
from model.checkpoint import Checkpoint

from .conftest import make_setup

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
