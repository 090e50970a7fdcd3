"""The worker process: reads messages, drives the engine, answers. Knows nothing of HTTP, queues or deadlines.

A thread listens to the socket all the time. When the socket ends, the HTTP process is gone and so is the reason for
this process: it exits at once, in the middle of a forward or of loading if need be.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from app.worker.cells import CellMemory
from app.worker.messages import (
    BatchDone,
    BatchFailed,
    Configure,
    LoadFailed,
    Loading,
    Message,
    MessageError,
    Ready,
    RunBatch,
    Stop,
    Warmed,
    decode,
    encode,
)

if TYPE_CHECKING:
    from app.worker.engine import Engine, Pending

    _Held = deque[tuple[int, Pending | BatchFailed]]

_OK, _FAILED = 0, 1
# How often a batch on the device is looked at while the next message is waited for.
_LOOK_S = 0.0001


class Link:
    """The socket to the HTTP process: `receive` messages in order, `send` them."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def send(self, message: Message) -> None:
        """Send one message; if nobody can read it any more, this process ends."""
        try:
            self._socket.sendall(encode(message))
        except OSError:
            leave(_OK)

    def receive(self) -> Message:
        """Wait for the next message."""
        return self._inbox.get()

    def waiting(self) -> bool:
        """Whether `receive` would return at once."""
        return not self._inbox.empty()

    def receive_during(self, pending: Pending) -> Message | None:
        """Wait for the next message; None if `pending` is computed first."""
        while self.waiting() or not pending.is_computed:
            with contextlib.suppress(queue.Empty):
                return self._inbox.get(timeout=_LOOK_S)
        return None

    def _listen(self) -> None:
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    self._inbox.put(decode(line))
        except OSError:
            pass  # reset by the other side: as good as its end
        except MessageError as error:
            print(f"seggpt worker: {error}", file=sys.stderr)  # noqa: T201  # no logging is set up here
            leave(_FAILED)
        leave(_OK)


def leave(code: int) -> NoReturn:
    """End this process now, without waiting for other threads or for the device."""
    sys.stderr.flush()
    os._exit(code)


def main() -> NoReturn:
    """Entry point; the descriptors are inherited from the supervisor."""
    parser = argparse.ArgumentParser(prog="app.worker", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the socket to the parent")
    parser.add_argument("--memory", type=int, required=True, help="descriptor of the shared cells")
    arguments = parser.parse_args()
    # Service managers signal every process of a service. Only the HTTP process decides, by Stop or by its end:
    # what it accepted must still be answered after SIGTERM.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave(_work(Link(arguments.socket), arguments.memory))


def _work(link: Link, memory_fd: int) -> int:
    setup = link.receive()
    if isinstance(setup, Stop):
        return _OK
    if not isinstance(setup, Configure):
        raise MessageError(f"the first message is Configure; got {type(setup).__name__}")
    memory = CellMemory(memory_fd, setup.cell_count, (setup.cell_height, setup.cell_width))
    os.close(memory_fd)
    engine = _start(link, setup, memory)
    if engine is None:
        return _FAILED
    return _serve(link, engine)


def _start(link: Link, setup: Configure, memory: CellMemory) -> Engine | None:
    """Load and warm up the first bucket; None if that failed, and the supervisor knows why."""
    link.send(Loading("checkpoint"))
    # Torch takes seconds to import; until then the listener must already be able to end this process.
    from app.worker.engine import Engine, LoadError  # noqa: PLC0415

    try:
        engine = Engine(setup, memory)
        link.send(Loading("warm-up"))
        forward_ms = engine.warm_up()
        assert forward_ms is not None, "the first bucket is always used"
    except LoadError as error:
        link.send(LoadFailed(str(error)))
        return None
    except Exception as error:  # a boundary: whatever stops the start is told in one line, and the trace kept
        traceback.print_exc()
        first_line = (str(error).strip() or "no message").splitlines()[0]
        link.send(
            LoadFailed(
                f"{setup.checkpoint['source']} does not start on {setup.device}: {type(error).__name__}: {first_line}"
            )
        )
        return None
    link.send(
        Ready(
            device=setup.device,
            device_name=engine.device_name,
            dtype=engine.mode.precision,
            attention=engine.mode.attention,
            linear=engine.mode.linear,
            parameters=engine.parameters,
            max_batch_pairs=engine.buckets.largest,
            forward_ms=forward_ms,
            batches_at_once=engine.batches_at_once,
        )
    )
    return engine


def _serve(link: Link, engine: Engine) -> int:
    held: _Held = deque()
    while True:
        # Larger buckets warm up while there is nothing to do; work that arrives goes first.
        if not held and engine.buckets.next is not None and not link.waiting():
            forward_ms = engine.warm_up()
            if forward_ms is not None:
                link.send(Warmed(max_batch_pairs=engine.buckets.largest, forward_ms=forward_ms))
            continue
        message = _next(link, engine, held)
        if isinstance(message, RunBatch):
            held.append((message.batch_id, _begin(engine, message)))
        elif message is None:
            if not _answer_oldest(link, engine, held):
                return _FAILED
        elif isinstance(message, Stop):
            return _OK if all(_answer_oldest(link, engine, held) for _ in range(len(held))) else _FAILED
        else:
            raise MessageError(f"a configured worker takes RunBatch and Stop; got {type(message).__name__}")


def _next(link: Link, engine: Engine, held: _Held) -> Message | None:
    """The next message; None when the oldest batch is to be finished first.

    The oldest is not waited for while another may still be begun: the device would have nothing to do in between.
    """
    if not held:
        return link.receive()
    _, oldest = held[0]
    if len(held) == engine.batches_at_once or isinstance(oldest, BatchFailed):
        return None
    return link.receive_during(oldest)


def _answer_oldest(link: Link, engine: Engine, held: _Held) -> bool:
    """Finish the oldest batch; False if the device context is lost: then all that is held has been answered so."""
    batch_id, pending = held.popleft()
    answer = pending if isinstance(pending, BatchFailed) else _finish(engine, batch_id, pending)
    link.send(answer)
    if isinstance(answer, BatchDone) or answer.reason != "poisoned":
        return True
    for later_id, _ in held:
        link.send(BatchFailed(later_id, "poisoned", answer.message))
    return False


def _begin(engine: Engine, batch: RunBatch) -> Pending | BatchFailed:
    try:
        return engine.begin(batch.groups)
    except Exception as error:  # a boundary, as in `_finish`
        return _failed(engine, batch.batch_id, error)


def _finish(engine: Engine, batch_id: int, pending: Pending) -> BatchDone | BatchFailed:
    try:
        result = engine.finish(pending)
    except Exception as error:  # a boundary: every failure must be answered, or its clients would wait for nothing
        return _failed(engine, batch_id, error)
    return BatchDone(
        batch_id=batch_id,
        statuses=result.statuses,
        known_prompts=result.known_prompts,
        copy_ms=result.copy_ms,
        forward_ms=result.forward_ms,
        postprocess_ms=result.postprocess_ms,
    )


def _failed(engine: Engine, batch_id: int, error: Exception) -> BatchFailed:
    """What is answered while `error` is handled."""
    traceback.print_exc()
    message = f"{type(error).__name__}: {error}"
    return BatchFailed(batch_id, "poisoned" if engine.is_poisoned() else "error", message)
