"""One worker process per device, from the HTTP process's side: start it, feed it, watch it, replace it.

A batch is bound when the device is free and not before, so that what arrives meanwhile joins it. While it computes, a
GPU is given a second one, but only a full one, which nothing could join. A worker that dies or hangs is killed and
started again, with growing pauses; what it held goes back to the front of the queue. A hang is noticed while a batch
runs, not while the worker is idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.errors import InternalProblem, OutOfMemory, Problem
from app.metrics import Metrics
from app.worker.cells import Cells
from app.worker.channel import WorkerChannel, WorkerGoneError
from app.worker.groups import Answer, Group, Work
from app.worker.messages import (
    BatchDone,
    BatchFailed,
    Configure,
    GroupRun,
    LoadFailed,
    Loading,
    Message,
    Ready,
    RunBatch,
    Stop,
    Warmed,
)

State = Literal["starting", "loading", "warming", "ready", "restarting", "stopped", "failed"]

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_STOP_GRACE_S = 5.0
# A worker that dies this often before it was ever ready will not become ready by itself.
_FIRST_STARTS = 3

logger = logging.getLogger(__name__)


class _LoadFailedError(Exception):
    """The worker said why it cannot serve."""


@dataclass(frozen=True)
class Batch:
    """What one `RunBatch` holds: the groups, under its id."""

    batch_id: int
    groups: list[Group]


def configure(
    checkpoint: Mapping[str, Any],
    cells: Cells,
    *,
    device: str,
    dtype: str,
    threads: int,
    max_batch_pairs: int,
    warmup_limit_s: float,
    prompt_cache_bytes: int,
) -> Configure:
    """What a worker of `device` is told first.

    Args:
        checkpoint: `model.checkpoint.Checkpoint.to_dict()`; a dictionary, because this process does without torch.
        cells: the shared memory.
        device: one torch device, such as "cpu" or "cuda:0".
        threads: torch's threads, on a CPU.
        dtype, max_batch_pairs, warmup_limit_s, prompt_cache_bytes: `Settings`' of the same names.
    """
    return Configure(
        checkpoint=dict(checkpoint),
        device=device,
        dtype=dtype,
        threads=threads,
        max_batch_pairs=max_batch_pairs,
        warmup_limit_s=warmup_limit_s,
        prompt_cache_bytes=prompt_cache_bytes,
        cell_count=cells.count,
        cell_height=cells.shape[0],
        cell_width=cells.shape[1],
    )


class Supervisor:
    """Keeps one worker process alive and busy.

    Args:
        setup: what the worker loads and where.
        cells: the shared memory.
        work: where groups come from and answers go.
        metrics: counts batches and restarts.
        forward_timeout_s: a batch that takes longer, once all before it are answered, means a hung worker.
        on_fatal: called with one line if the worker cannot be started the first time; it is not tried again.
    """

    def __init__(
        self,
        setup: Configure,
        cells: Cells,
        work: Work,
        metrics: Metrics,
        *,
        forward_timeout_s: float,
        on_fatal: Callable[[str], None],
    ) -> None:
        self._setup = setup
        self._cells = cells
        self._work = work
        self._metrics = metrics
        self._forward_timeout_s = forward_timeout_s
        self._on_fatal = on_fatal
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._channel: WorkerChannel | None = None
        self._batches_sent = 0
        self._pause_s = _FIRST_PAUSE_S
        #: Most pairs of one batch now; grows while the worker warms up.
        self.max_batch_pairs = 1
        self.state: State = "stopped"
        #: What the last worker that became ready said about itself; None before the first.
        self.info: Ready | None = None

    @property
    def device(self) -> str:
        """The torch device, such as "cpu" or "cuda:0"."""
        return self._setup.device

    @property
    def ready(self) -> bool:
        """Whether a worker is there that has given its warm-up answer."""
        return self.state == "ready" and self._channel is not None and self._channel.alive

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None while there is none."""
        return self._channel.pid if self._channel else None

    def start(self) -> None:
        """Start, and keep running until `stop`. Once."""
        assert self._task is None, "a supervisor starts once"
        self.state = "starting"
        self._task = asyncio.create_task(self._supervise(), name=f"supervise {self.device}")

    async def stop(self, grace_s: float) -> None:
        """Let what the worker holds finish for at most `grace_s`, then end the worker, whatever it does."""
        self._stopping.set()
        if self._task is None:
            return
        await asyncio.wait({self._task}, timeout=grace_s)
        self._task.cancel()
        # Bounded again: a process that waits inside a broken driver does not even end by SIGKILL.
        await asyncio.wait({self._task}, timeout=_STOP_GRACE_S)

    async def _supervise(self) -> None:
        starts = 0
        try:
            while not self._stopping.is_set():
                starts += 1
                try:
                    await self._one_life()
                except _LoadFailedError as failure:
                    if self.info is None:
                        self._fail(str(failure))
                        return
                    logger.error("worker %s: %s", self.device, failure)
                except (WorkerGoneError, OSError) as error:
                    if self.info is None and starts >= _FIRST_STARTS:
                        self._fail(f"the worker for {self.device} does not start: {error}")
                        return
                    logger.error("worker %s is lost: %s", self.device, error)
                if not self._stopping.is_set():
                    await self._pause()
        except Exception as error:  # a boundary: nobody awaits this task, and a service without it is dead but silent
            logger.exception("worker %s: its supervisor has failed", self.device)
            self._fail(f"the supervisor of {self.device} has failed: {type(error).__name__}: {error}")
        finally:
            if self.state != "failed":
                self.state = "stopped"

    def _fail(self, message: str) -> None:
        self.state = "failed"
        self._on_fatal(message)

    async def _pause(self) -> None:
        self.state = "restarting"
        self._metrics.worker_restarts.inc()
        logger.info("worker %s is started again in %.1f s", self.device, self._pause_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pause_s):
                await self._stopping.wait()
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    async def _one_life(self) -> None:
        """One worker process from its start to its end; it is dead and reaped whichever way this returns."""
        channel = self._channel = await WorkerChannel.open(self._cells.fd)
        try:
            await channel.send(self._setup)
            if not await self._until_ready(channel):
                return
            await self._feed(channel)
            await channel.send(Stop())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_GRACE_S):
                    await channel.exited()
        finally:
            self.state = "restarting"
            self._channel = None
            await channel.kill()

    async def _until_ready(self, channel: WorkerChannel) -> bool:
        """Follow the start; False if `stop` came first."""
        while True:
            # Loading may take as long as a disk or a network file system takes; a warm-up forward may not.
            limit_s = self._forward_timeout_s if self.state == "warming" else None
            done = await _first(channel.receive(), self._stopping.wait(), limit_s=limit_s)
            message = done[0]
            if message is None:
                if done[1]:
                    return False
                raise WorkerGoneError(f"it hangs: no warm-up answer for {limit_s:g} s")
            if isinstance(message, Loading):
                self.state = "warming" if message.stage == "warm-up" else "loading"
                logger.info("worker %s: %s", self.device, message.stage)
            elif isinstance(message, LoadFailed):
                raise _LoadFailedError(message.message)
            elif isinstance(message, Ready):
                self._is_ready(message)
                return True
            else:
                raise WorkerGoneError(f"it sent {type(message).__name__} before it was ready")

    def _is_ready(self, message: Ready) -> None:
        self.info = message
        self.max_batch_pairs = message.max_batch_pairs
        self.state = "ready"
        logger.info(
            "worker %s is ready: %s, %s, %.1f ms for one pair",
            self.device,
            message.device_name,
            message.dtype,
            message.forward_ms,
        )

    async def _feed(self, channel: WorkerChannel) -> None:
        """Send batches and settle their answers until `stop`. If the worker is lost, what it held is queued again."""
        held: deque[Batch] = deque()
        try:
            while held or not self._stopping.is_set():
                # Nothing is awaited between the answer to a batch and the start of the next, if there is one.
                batch = self._bind(held)
                async with asyncio.timeout(self._left_s(held)):
                    if batch is not None:
                        await channel.send(batch)
                    else:
                        await self._hear(channel, held)
        except TimeoutError:
            raise WorkerGoneError(f"it hangs: no answer to a batch for {self._forward_timeout_s:g} s") from None
        finally:
            if held:
                self.state = "restarting"
                # First the process must be dead: until then it may write into the cells of what it holds.
                await channel.kill()
                self._work.requeue([group for batch in held for group in batch.groups])

    def _left_s(self, held: deque[Batch]) -> float | None:
        """Seconds that the oldest batch may still take."""
        return held[0].groups[0].turn_at + self._forward_timeout_s - time.monotonic() if held else None

    def _may_bind(self, held: deque[Batch]) -> bool:
        if self._stopping.is_set():
            return False
        if not held:
            return True
        assert self.info is not None, "only a worker that was ready holds anything"
        # What a lost worker held runs with nothing beside it: if it is the cause, it takes no other with it.
        return len(held) < self.info.batches_at_once and not held[0].groups[0].attempts

    def _bind(self, held: deque[Batch]) -> RunBatch | None:
        """Bind the next batch, as the newest of `held`; None if it is not yet time.

        A second one is bound early only if it is full. A smaller one could still be joined by what comes until the
        first has ended: with few clients, batches would be smaller from then on, and cost more per pair than the moment
        between two of them. With many clients the queue is full again by then, and no moment is lost.
        """
        groups = self._work.take(self.max_batch_pairs, beside=bool(held)) if self._may_bind(held) else []
        if not groups:
            return None
        self._batches_sent += 1
        held.append(Batch(self._batches_sent, groups))
        runs = tuple(GroupRun(group.cells, group.embedding_type, group.prompt) for group in groups)
        return RunBatch(self._batches_sent, runs)

    async def _hear(self, channel: WorkerChannel, held: deque[Batch]) -> None:
        """Wait for the worker to say something, and note it, or until a batch may be bound or `stop` comes."""
        waits: list[Coroutine[Any, Any, Any]] = [channel.receive()]
        if self._may_bind(held):
            waits += [self._work.ready(self.max_batch_pairs, beside=bool(held)), self._stopping.wait()]
        message, *_ = await _first(*waits)
        if held and isinstance(message, (BatchDone, BatchFailed)):
            self._settle(held[0], message)
            held.popleft()
            for group in held[0].groups if held else ():
                group.turn_at = time.monotonic()
        elif message is not None:
            self._note(message)

    def _note(self, message: Message) -> None:
        if not isinstance(message, Warmed):
            raise WorkerGoneError(f"it sent {type(message).__name__} out of turn")
        self.max_batch_pairs = message.max_batch_pairs
        logger.info(
            "worker %s: %d pairs at once take %.1f ms", self.device, message.max_batch_pairs, message.forward_ms
        )

    def _settle(self, batch: Batch, message: BatchDone | BatchFailed) -> None:
        """Answer every group of a batch that came back.

        Raises:
            WorkerGoneError: nothing is answered, because the worker's device context is lost, or the batch is another.
        """
        groups = batch.groups
        if message.batch_id != batch.batch_id:
            raise WorkerGoneError(f"it answered batch {message.batch_id} instead of {batch.batch_id}")
        if isinstance(message, BatchFailed):
            if message.reason == "poisoned":
                raise WorkerGoneError(f"its device context is beyond recovery: {message.message}")
            logger.error("worker %s: a batch failed: %s", self.device, message.message)
            for group in groups:
                self._work.finish(group, InternalProblem("the forward has failed"))
            return
        self._pause_s = _FIRST_PAUSE_S
        pairs = sum(group.pairs for group in groups)
        self._metrics.batches.inc()
        self._metrics.batch_pairs.observe(pairs)
        self._metrics.prompts.labels("hit").inc(message.known_prompts)
        self._metrics.prompts.labels("miss").inc(len(groups) - message.known_prompts)
        for group, status in zip(groups, message.statuses, strict=True):
            self._work.finish(group, self._outcome(group, status, message, pairs))

    def _outcome(self, group: Group, status: str, message: BatchDone, pairs: int) -> Answer | Problem:
        if status == "out-of-memory":
            logger.error("worker %s: %d pairs do not fit into its memory", self.device, group.pairs)
            return OutOfMemory(f"{group.pairs} examples do not fit into the memory of the device; try fewer")
        if status == "not-finite":
            logger.error("worker %s: an answer is not finite", self.device)
            return InternalProblem("the network's answer is not finite")
        elapsed_ms = (time.monotonic() - group.enqueued_at) * 1000
        forward_ms = message.copy_ms + message.forward_ms
        return Answer(
            levels=self._cells.answers[group.cells.input_cell],
            # All that was no work on it: a worker may have to end another batch first, or its warm-up.
            queue_ms=max(0.0, elapsed_ms - forward_ms - message.postprocess_ms),
            forward_ms=forward_ms,
            postprocess_ms=message.postprocess_ms,
            batch_pairs=pairs,
        )


async def _first(*awaitables: Coroutine[Any, Any, Any], limit_s: float | None = None) -> list[Any]:
    """Wait for the first of several, cancel the others; per one its result, or None if it has none yet.

    Only for what loses nothing when it is cancelled. If several have ended, each gives its result; the first that
    raised raises here.
    """
    tasks = [asyncio.create_task(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        return [task.result() if task in done else None for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
