"""An account of every cell: whatever clients and workers do, in any order, no cell is lost and none has two owners."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.batcher import Batcher, Ticket, cells_needed
from app.errors import InternalProblem, Problem, QueueFull, WorkerLost
from app.metrics import Metrics
from app.worker.cells import Cells
from app.worker.groups import Answer, Group

CAPACITY_PAIRS = 8
SHAPE = (2, 3)
FAR_S = 100.0


def answer(pairs: int) -> Answer:
    return Answer(np.zeros(SHAPE, np.uint8), 0.0, 0.0, 0.0, pairs)


class Accounts(RuleBasedStateMachine):
    """Clients admit, queue, leave and expire; up to three workers take, finish and die."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.cells = Cells(cells_needed(CAPACITY_PAIRS), SHAPE)
        # Tickets that clients hold, the tasks that wait for their answers, and the batches of three workers.
        self.idle: list[Ticket] = []
        self.waiting: dict[Ticket, asyncio.Task[Answer]] = {}
        self.batches: list[list[Group]] = []
        self.all_owners: dict[Ticket, None] = {}

    @initialize()
    def open(self) -> None:
        self.run(self._open())

    async def _open(self) -> None:
        self.batcher = Batcher(CAPACITY_PAIRS, self.cells, Metrics())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        for ticket in [ticket for ticket, task in self.waiting.items() if task.done()]:
            task = self.waiting.pop(ticket)
            assert ticket.released
            if not task.cancelled() and task.exception() is not None:
                assert isinstance(task.exception(), Problem)

    async def _nothing(self) -> None:
        pass

    @rule(pairs=st.integers(1, CAPACITY_PAIRS))
    def admit(self, pairs: int) -> None:
        fits = self.batcher.admitted_pairs + pairs <= CAPACITY_PAIRS
        try:
            ticket = self.batcher.admit(pairs)
        except QueueFull:
            assert not fits
        else:
            assert fits
            self.idle.append(ticket)
            self.all_owners[ticket] = None

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def decoding_fails(self, data: st.DataObject) -> None:
        self.idle.pop(data.draw(st.integers(0, len(self.idle) - 1))).release()

    @precondition(lambda self: self.idle)
    @rule(data=st.data(), seconds=st.sampled_from([FAR_S, FAR_S, FAR_S, -1.0]))
    def queue(self, data: st.DataObject, seconds: float) -> None:
        ticket = self.idle.pop(data.draw(st.integers(0, len(self.idle) - 1)))

        async def ask() -> Answer:
            with ticket:
                return await ticket.answer("instance", time.monotonic() + seconds)

        self.waiting[ticket] = self.loop.create_task(ask())
        self.run(self._nothing())

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(list(self.waiting.values()))).cancel()
        self.run(self._nothing())

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def deadline_passes(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(list(self.waiting)))
        self.batcher._expire(ticket)
        self.run(self._nothing())

    @precondition(lambda self: len(self.batches) < 3)
    @rule(max_pairs=st.integers(1, 8))
    def worker_takes(self, max_pairs: int) -> None:
        groups = self.batcher.take(max_pairs)
        assert len(groups) <= 1 or sum(group.pairs for group in groups) <= max_pairs
        if groups:
            self.batches.append(groups)

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), well=st.booleans())
    def worker_finishes(self, data: st.DataObject, well: bool) -> None:
        groups = self.batches.pop(data.draw(st.integers(0, len(self.batches) - 1)))
        for group in groups:
            self.batcher.finish(
                group, answer(sum(group.pairs for group in groups)) if well else InternalProblem("failed")
            )
        self.run(self._nothing())

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        self.batcher.requeue(self.batches.pop(data.draw(st.integers(0, len(self.batches) - 1))))
        self.run(self._nothing())

    def owners(self) -> list[Ticket]:
        """Who must own cells now: clients with a ticket, and what lies on a device even if its client has left."""
        on_devices = {group for batch in self.batches for group in batch}
        return [
            ticket for ticket in self.all_owners if not ticket.released or (ticket.group and ticket.group in on_devices)
        ]

    @invariant()
    def every_cell_has_one_owner(self) -> None:
        owned = [cell for ticket in self.owners() for cell in ticket.owned_cells]
        assert len(owned) == len(set(owned))
        assert self.cells.free == self.cells.count - len(owned)
        assert not any(self.cells._is_free[cell] for cell in owned)

    @invariant()
    def room_is_what_the_owners_have(self) -> None:
        if hasattr(self, "batcher"):
            assert self.batcher.admitted_pairs == sum(ticket.pairs for ticket in self.owners()) <= CAPACITY_PAIRS

    def teardown(self) -> None:
        for ticket in self.idle:
            ticket.release()
        for groups in self.batches:
            self.batcher.requeue(groups)
        if hasattr(self, "batcher"):
            self.batcher.fail_all(WorkerLost("the test is over"))
            self.run(self._nothing())
            assert not self.waiting
            assert self.batcher.admitted_pairs == 0
            self.loop.run_until_complete(self.batcher.drain())
        assert self.cells.free == self.cells.count
        self.cells.close()
        self.loop.close()


@pytest.mark.timeout(120)
class TestAccounts(Accounts.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
