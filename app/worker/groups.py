"""One request as the queue and the supervisors see it, and what a supervisor asks of the queue."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal, Protocol

from app.errors import Problem
from app.worker.cells import Pixels
from app.worker.messages import GroupCells


@dataclass(frozen=True)
class Answer:
    """What one request gets from the device.

    Args:
        levels: (h, w, 4) uint8 in [0, 255], the painted RGB and its mean, the grey answer: a view of the shared cells,
            valid until its ticket is given back.
        queue_ms: from being ready for the device to the answer, less the two stages below.
        forward_ms: copying to the device and the network, of the whole batch.
        postprocess_ms: colours to grey and copying back, of the whole batch.
        batch_pairs: pairs of the batch that it ran in.
    """

    levels: Pixels
    queue_ms: float
    forward_ms: float
    postprocess_ms: float
    batch_pairs: int


@dataclass(eq=False)
class Group:
    """One request, ready for the device.

    Args:
        cells: where its pixels lie.
        embedding_type: "instance" or "semantic".
        prompt: a name of the examples' content, or None.
        deadline: absolute, `time.monotonic()` seconds.
        future: its answer or its `Problem`; cancelled when the client left.
        enqueued_at: `time.monotonic()` seconds.
        turn_at: when a worker last took it, or had answered the batch before it, whichever came later;
            `time.monotonic()` seconds; 0 before.
        attempts: how often a worker that held it was lost.
    """

    cells: GroupCells
    embedding_type: str
    prompt: str | None
    deadline: float
    future: asyncio.Future[Answer]
    enqueued_at: float
    turn_at: float = 0.0
    attempts: int = 0

    @property
    def pairs(self) -> int:
        """How many canvases this request needs."""
        return self.cells.pairs


class Work(Protocol):
    """The queue, as a supervisor needs it. Each group of `take` goes back by `requeue` or by `finish`, once."""

    async def ready(self, max_pairs: int, *, beside: bool) -> Literal[True]:
        """Wait until `take` of the same would give something. Several may wait, and the first to `take` gets it."""

    def take(self, max_pairs: int, *, beside: bool) -> list[Group]:
        """Bind what is queued now and fits one batch; empty if nothing is.

        Args:
            max_pairs: of the batch.
            beside: the device has a batch already, so that this one would only wait there: nothing is bound unless it
                fills a batch and may share the worker.
        """

    def requeue(self, groups: list[Group]) -> None:
        """The worker that held `groups` is dead: run them again, or answer those that were run again already."""

    def finish(self, group: Group, outcome: Answer | Problem) -> None:
        """No worker can touch this group's cells any more, and this is its outcome."""
