"""The queue in front of the devices: bounded, counted in pairs, first in first out, with deadlines.

Nothing here waits to fill a batch for a device that is free: it takes what is ready at that moment. One event loop, no
threads; the time is `time.monotonic()`.

One request's way: `admit` reserves room and cells before anything is decoded; `Ticket.write` puts the pixels there;
`Ticket.answer` queues it and waits; leaving the ticket's `with` block gives room and cells back. If a worker still
holds the group then (the client left, the deadline passed), they come back when the worker is done with it or dead,
and not before: it may still write to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal, Self

from app.errors import DeadlineExceeded, Draining, Problem, QueueFull, WorkerLost
from app.metrics import Metrics
from app.worker.cells import Cells, Pixels
from app.worker.groups import Answer, Group
from app.worker.messages import GroupCells

_RETRIES = 1
# Share of the newest batch in the running mean of seconds per pair.
_NEWEST = 0.2


def cells_needed(queue_pairs: int) -> int:
    """Cells with which a queue of `queue_pairs` never lacks one: 1 + 2N for N pairs are the most when N is 1."""
    return 3 * queue_pairs


class Ticket:
    """One admitted request: its room in the queue and its cells. A context manager; made by `Batcher.admit`."""

    def __init__(self, batcher: Batcher, memory: Cells, pairs: int, cells: list[int], *, is_later: bool) -> None:
        self.pairs = pairs
        self.is_later = is_later
        self.owned_cells = cells
        self.group: Group | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.released = False
        self._batcher = batcher
        self._memory = memory

    def write(self, image: Pixels, examples: Sequence[tuple[Pixels, Pixels]]) -> None:
        """Put the request's pixels into its cells.

        On the event loop and not in a codec thread: a thread cannot be cancelled and would write on when the cells
        are another request's already. Copying one picture of 448x448 takes some 0.1 ms.

        Args:
            image: (h, w, 3) uint8 RGB, the input image at the cells' size.
            examples: (prompt image, prompt mask), each likewise, as many as were admitted.
        """
        assert not self.released, "the cells are not this request's any more"
        assert len(examples) == self.pairs, f"{self.pairs} examples were admitted, {len(examples)} given"
        pictures = [image, *(picture for example in examples for picture in example)]
        for cell, picture in zip(self.owned_cells, pictures, strict=True):
            assert picture.shape == (*self._memory.shape, 3), f"{picture.shape} does not fit {self._memory.shape}"
            self._memory.pixels[cell] = picture

    async def answer(self, embedding_type: str, deadline: float, prompt: str | None = None) -> Answer:
        """Queue the request and wait for its answer. Once; cancelling it takes it out of the queue.

        Args:
            embedding_type: "instance" or "semantic".
            deadline: absolute, `time.monotonic()` seconds.
            prompt: a name of the examples' content; the worker keeps what it computes from them alone under it.

        Raises:
            DeadlineExceeded: `deadline` came first, in the queue or on the device.
            Problem: the worker was lost twice, the device's memory does not suffice, the forward failed, or the
                service gives up.
        """
        return await self._batcher.put(self, embedding_type, deadline, prompt)

    def release(self) -> None:
        """Give room and cells back, as soon as no worker uses them. Again does nothing."""
        if not self.released:
            self.released = True
            self._batcher.release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Batcher:
    """The queue. Fills `app.worker.groups.Work` for the supervisors.

    Args:
        queue_pairs: pairs that may be admitted at one time, those on the devices included.
        cells: where pixels lie; at least `cells_needed(queue_pairs)`.
        metrics: shows the queue.
        workers: how many devices take from this queue; only for estimating Retry-After.
    """

    def __init__(self, queue_pairs: int, cells: Cells, metrics: Metrics, *, workers: int = 1) -> None:
        assert cells.count >= cells_needed(queue_pairs), f"{cells.count} cells for {queue_pairs} pairs"
        self._capacity_pairs = queue_pairs
        self._cells = cells
        self._metrics = metrics
        metrics.queue_limit_pairs.set(queue_pairs)
        # Asked for when somebody looks, not kept up to date with every request.
        metrics.queue_pairs.set_function(lambda: self.queued_pairs)
        metrics.running_pairs.set_function(lambda: self.running_pairs)
        self._workers = workers
        self._admitted_pairs = self._later_pairs = 0
        self._queue: deque[Ticket] = deque()
        self._bound: dict[Group, Ticket] = {}
        self._changed = asyncio.Event()
        self._accepted = 0
        self._all_done = asyncio.Event()
        self._all_done.set()
        self._room = asyncio.Event()
        self._draining = False
        self._given_up: Problem | None = None
        self._seconds_per_pair: float | None = None

    @property
    def admitted_pairs(self) -> int:
        """Pairs that hold room: admitted and not given back yet."""
        return self._admitted_pairs

    @property
    def queued_pairs(self) -> int:
        """Pairs that wait for a device."""
        return sum(ticket.pairs for ticket in self._queue)

    @property
    def running_pairs(self) -> int:
        """Pairs that a device holds."""
        return sum(ticket.pairs for ticket in self._bound.values())

    # The request's side.

    def check_room(self, pairs: int) -> None:
        """Raise what `admit` would raise now, and reserve nothing.

        Raises:
            QueueFull: there is no room now; Retry-After says when there may be.
            Draining: `close` was called.
        """
        assert 1 <= pairs <= self._capacity_pairs, f"{pairs} pairs can never be queued"
        self._check_open()
        if self._admitted_pairs + pairs > self._capacity_pairs:
            raise QueueFull(
                f"{self._admitted_pairs} pairs are queued and the request has {pairs};"
                f" {self._capacity_pairs} are allowed together",
                retry_after_s=self._retry_after_s(),
            )

    def admit(self, pairs: int) -> Ticket:
        """Reserve room and cells for a request of `pairs` examples.

        Raises:
            QueueFull, Draining: as in `check_room`.
        """
        self.check_room(pairs)
        return self._admit(pairs)

    @contextlib.contextmanager
    def accepted(self) -> Iterator[None]:
        """Around a request that may take several tickets one after the other: `drain` waits for its end.

        Raises:
            Draining: `close` was called.
        """
        self._check_open()
        self._accepted += 1
        self._all_done.clear()
        try:
            yield
        finally:
            self._accepted -= 1
            self._note_done()

    async def admit_later(self, pairs: int, deadline: float) -> Ticket:
        """As `admit`, but wait for room. Only within `accepted`: also after `close`.

        Those that were admitted so hold at most half of all room together, so that new requests find some beside them;
        a single one may hold more.

        Raises:
            DeadlineExceeded: there was no room until `deadline`, `time.monotonic()` seconds.
            Problem: the service gives up.
        """
        assert self._accepted, "only parts of accepted requests may wait"
        assert pairs <= self._capacity_pairs, f"{pairs} pairs can never be queued"
        while self._admitted_pairs + pairs > self._capacity_pairs or self._later_pairs + pairs > max(
            pairs, self._capacity_pairs // 2
        ):
            self._room.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._room.wait()
            except TimeoutError:
                raise _too_late() from None
            if self._given_up is not None:
                raise self._given_up
        self._later_pairs += pairs
        return self._admit(pairs, is_later=True)

    def _admit(self, pairs: int, *, is_later: bool = False) -> Ticket:
        cells = self._cells.take(1 + 2 * pairs)
        assert cells is not None, "there are cells for every admitted pair"
        self._admitted_pairs += pairs
        self._all_done.clear()
        return Ticket(self, self._cells, pairs, cells, is_later=is_later)

    async def put(self, ticket: Ticket, embedding_type: str, deadline: float, prompt: str | None) -> Answer:
        """`Ticket.answer`."""
        assert ticket.group is None, "a ticket is queued once"
        assert not ticket.released, "the ticket was given back"
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        input_cell, *rest = ticket.owned_cells
        group = ticket.group = Group(
            cells=GroupCells(input_cell, tuple(zip(rest[::2], rest[1::2], strict=True))),
            embedding_type=embedding_type,
            prompt=prompt,
            deadline=deadline,
            future=loop.create_future(),
            enqueued_at=now,
        )
        if self._given_up is not None:
            raise self._given_up
        if deadline <= now:
            raise _too_late()
        ticket.timer = loop.call_later(deadline - now, self._expire, ticket)
        self._queue.append(ticket)
        self._changed.set()
        try:
            return await group.future
        finally:
            ticket.timer.cancel()
            self._unqueue(ticket)
            if group.future.done() and not group.future.cancelled():
                group.future.exception()  # seen: a client that left in this very moment does not fetch it

    def release(self, ticket: Ticket) -> None:
        """`Ticket.release`."""
        if ticket.group is not None and ticket.group in self._bound:
            return  # `finish` or `requeue` does it: a worker may still write to the cells
        self._unqueue(ticket)
        self._cells.give_back(ticket.owned_cells)
        self._admitted_pairs -= ticket.pairs
        self._later_pairs -= ticket.pairs if ticket.is_later else 0
        self._room.set()
        self._note_done()

    # The workers' side.

    async def ready(self, max_pairs: int, *, beside: bool = False) -> Literal[True]:
        """Wait until `take` of the same would give something. Several may wait, and the first to `take` gets it."""
        while not self._has_batch(max_pairs, beside=beside):
            self._changed.clear()
            await self._changed.wait()
        return True

    def take(self, max_pairs: int, *, beside: bool = False) -> list[Group]:
        """Bind what is queued now, in order, up to `max_pairs`; empty if nothing is, or `beside` and no full batch.

        The first group is taken whatever its size, and the first that does not fit ends the batch: nobody
        overtakes a large request. A group that a lost worker held runs alone and never `beside`, so that, if it was the
        cause, it takes no other with it.
        """
        groups: list[Group] = []
        pairs = 0
        now = time.monotonic()
        if not self._has_batch(max_pairs, beside=beside):
            return groups
        while self._queue:
            ticket = self._queue[0]
            group = _group(ticket)
            if not group.future.done() and group.deadline <= now:
                group.future.set_exception(_too_late())
            if group.future.done():
                self._queue.popleft()
                continue
            if groups and pairs + group.pairs > max_pairs:
                break
            self._queue.popleft()
            self._bound[group] = ticket
            group.turn_at = now
            groups.append(group)
            pairs += group.pairs
            if group.attempts:
                break
        self._changed.set()
        return groups

    def requeue(self, groups: list[Group]) -> None:
        """Put `groups`, whose worker is dead, back to the front, in order; once each.

        Those that were put back before are answered with `WorkerLost`; those that nobody waits for are dropped.
        """
        for group in reversed(groups):
            ticket = self._bound.pop(group)
            group.attempts += 1
            if group.attempts > _RETRIES and not group.future.done():
                group.future.set_exception(WorkerLost("the worker was lost twice while it ran this request"))
            if ticket.released:
                self.release(ticket)
            elif not group.future.done():
                self._queue.appendleft(ticket)
                self._metrics.requeued_groups.inc()
        self._changed.set()

    def finish(self, group: Group, outcome: Answer | Problem) -> None:
        """The outcome of a bound group; no worker touches its cells any more."""
        ticket = self._bound.pop(group)
        if isinstance(outcome, Answer):
            self._measure(time.monotonic() - group.turn_at, outcome.batch_pairs)
        if not group.future.done():
            if isinstance(outcome, Answer):
                group.future.set_result(outcome)
            else:
                group.future.set_exception(outcome)
        if ticket.released:
            self.release(ticket)

    # The service's side.

    def close(self) -> None:
        """Admit and accept nothing from now on; what was goes on."""
        self._draining = True

    async def drain(self) -> None:
        """Wait until everything that was admitted has been given back and every accepted request has ended."""
        await self._all_done.wait()

    def fail_all(self, problem: Problem) -> None:
        """Answer everything that is queued or bound, and everything that is still to be queued, with `problem`.

        For the end: no worker takes anything after this.
        """
        self._given_up = problem
        self._room.set()
        for ticket in [*self._queue, *self._bound.values()]:
            future = _group(ticket).future
            if not future.done():
                future.set_exception(problem)
        self._queue.clear()
        self._changed.set()

    def _check_open(self) -> None:
        if self._draining:
            raise Draining("the service is shutting down and takes no new requests")

    def _note_done(self) -> None:
        if not self._admitted_pairs and not self._accepted:
            self._all_done.set()

    def _expire(self, ticket: Ticket) -> None:
        future = _group(ticket).future
        if not future.done():
            future.set_exception(_too_late())
        self._unqueue(ticket)

    def _unqueue(self, ticket: Ticket) -> None:
        with contextlib.suppress(ValueError):
            self._queue.remove(ticket)
            self._changed.set()

    def _has_batch(self, max_pairs: int, *, beside: bool) -> bool:
        if not beside or not self._queue:
            return bool(self._queue)
        return self.queued_pairs >= max_pairs and not _group(self._queue[0]).attempts

    def _measure(self, seconds: float, pairs: int) -> None:
        newest = seconds / pairs
        before = self._seconds_per_pair
        self._seconds_per_pair = newest if before is None else _NEWEST * newest + (1 - _NEWEST) * before

    def _retry_after_s(self) -> int:
        """Whole seconds until what is admitted now will have been run, at least 1."""
        seconds = self._admitted_pairs * (self._seconds_per_pair or 0.0) / self._workers
        return max(1, math.ceil(seconds))


def _group(ticket: Ticket) -> Group:
    assert ticket.group is not None, "only queued tickets have a place in the queue"
    return ticket.group


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the answer was ready")
