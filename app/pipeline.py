"""One request from its bytes to its answer: decode -> preprocess -> queue -> forward -> postprocess -> encode.

Read `Pipeline.segment` from top to bottom: that is what the service does. Most requests are one (input image, concept)
on the device; several concepts and tiles are several, each queued on its own. Nothing here blocks the event loop. Knows
neither HTTP nor processes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import anyio

from app.batcher import Batcher, Ticket
from app.classes import decode, merged, renumbered
from app.codecs import Codecs
from app.errors import ExampleCount, InvalidRequest
from app.intake import Intake, Prompt, Taken
from app.labels import Labels
from app.metrics import Metrics
from app.replies import check_answerable, encode
from app.requests import Concept, Ensemble, Segmentation
from app.tiles import Blend, Tile
from app.worker.cells import Pixels
from app.worker.groups import Answer

_MOST_LABELS = 255
_QUEUE, _FORWARD, _POSTPROCESS = "queue", "forward", "postprocess"


@dataclass(frozen=True)
class _Unit:
    """What one group on the device answers: one concept in one tile, or in the whole input image."""

    concept: int
    tile: Tile | None


class Pipeline:
    """The way of every request; one per service.

    Args:
        batcher: the queue in front of the devices.
        codecs: threads for decoding, resizing and encoding.
        intake: from bytes to cells.
        metrics: where stage times are counted.
        find_prompt: gives a registered prompt by id or name, until a deadline.
        max_examples: most examples of one request.
        units_at_once: how many parts of one request may be queued at a time.
    """

    def __init__(
        self,
        batcher: Batcher,
        codecs: Codecs,
        intake: Intake,
        metrics: Metrics,
        *,
        find_prompt: Callable[[str, float], Awaitable[Concept]],
        max_examples: int,
        units_at_once: int,
    ) -> None:
        self._batcher = batcher
        self._codecs = codecs
        self._intake = intake
        self._metrics = metrics
        self._find_prompt = find_prompt
        self._max_examples = max_examples
        self._units_at_once = units_at_once

    async def segment(self, request: Segmentation) -> bytes:
        """Answer one request: a PNG of the input image's size, or the JSON of its segments.

        Raises:
            Problem: any of `app.errors`; what it says of the request names the form field.
        """
        times = request.times
        concepts = await self._concepts(request)
        try:
            with self._batcher.accepted(), await self._admit(request, concepts[0]) as ticket:
                taken = await self._intake.take(request, concepts)
                painted = await self._paint(request, taken, ticket)
                # Inside: what one group painted is read from where the worker wrote it, while the ticket holds it.
                with times.measure("encode"):
                    make = partial(self._reply, request, taken, concepts, painted)
                    (answer,) = await self._codecs.run([make], request.deadline)
            return answer
        finally:
            for stage, ms in times.ms.items():
                self._metrics.stage_seconds.labels(stage).observe(ms / 1000)

    async def prepare(self, request: Segmentation) -> Segmentation:
        """Do once what is the same for every input image: find registered prompts and decode all examples.

        Args:
            request: its image does not count.

        Returns:
            As `request`, and without names of registered prompts; to be asked with one image after the other.

        Raises:
            Problem: as `segment`, of everything but the image.
        """
        concepts = await self._concepts(request)
        for concept in concepts:
            await self._intake.check(concept, request.deadline)
        return replace(request, concepts=concepts)

    async def check_examples(self, concept: Concept, deadline: float) -> None:
        """Decode what would be registered, and raise what is wrong with it.

        Raises:
            Problem: as `segment`.
        """
        self._check_count(len(concept.examples))
        await self._intake.check(concept, deadline)

    async def _concepts(self, request: Segmentation) -> list[Concept]:
        """With what registered prompts hold in place of their names."""
        concepts = [
            await self._find_prompt(concept, request.deadline) if isinstance(concept, str) else concept
            for concept in request.concepts
        ]
        found = [concept for concept, asked in zip(concepts, request.concepts, strict=True) if isinstance(asked, str)]
        _check_registered(found, request.manner.ensemble)
        self._check_count(sum(len(concept.examples) for concept in concepts))
        if sum(len(concept.labels) for concept in concepts) > _MOST_LABELS:
            raise InvalidRequest(f"the prompts have more than {_MOST_LABELS} classes together")
        check_answerable(request.manner, _labels_of(concepts))
        return concepts

    def _check_count(self, count: int) -> None:
        if not 1 <= count <= self._max_examples:
            raise ExampleCount(
                f"got {count} examples; allowed are 1 to {self._max_examples}", got=count, limit=self._max_examples
            )

    async def _admit(self, request: Segmentation, concept: Concept) -> Ticket:
        """Room for the first concept, before anything is decoded; further ones wait for theirs."""
        pairs = 1 if request.manner.ensemble == "spatial" else len(concept.examples)
        if request.patient:
            return await self._batcher.admit_later(pairs, request.deadline)
        return self._batcher.admit(pairs)

    async def _paint(self, request: Segmentation, taken: Taken, ticket: Ticket) -> list[Pixels]:
        """Each concept's (h, w, 4) uint8 levels, of the whole input image or of the canvas of its tiles.

        They are valid while the ticket is held.
        """
        if taken.plan is None and len(taken.prompts) == 1:
            assert taken.cell is not None
            answer = await self._ask(request, taken.prompts[0], taken.cell, ticket)
            for stage, ms in _stages_of(answer):
                request.times.ms[stage] = ms
            return [answer.levels]
        return await self._paint_units(request, taken, ticket)

    async def _paint_units(self, request: Segmentation, taken: Taken, ticket: Ticket) -> list[Pixels]:
        """As `_paint`; a few parts at a time, so that a large request neither fills the queue nor the memory."""
        start = time.perf_counter()
        tiles: Sequence[Tile | None] = taken.plan.tiles if taken.plan is not None else (None,)
        units = [_Unit(concept, tile) for tile in tiles for concept in range(len(taken.prompts))]
        blends = [Blend(taken.plan) for _ in taken.prompts] if taken.plan is not None else []
        alone: dict[int, Pixels] = {}
        sums = {_QUEUE: 0.0, _FORWARD: 0.0, _POSTPROCESS: 0.0}
        request.times.tiles = len(tiles) if taken.plan is not None else 0
        waiting = iter(units)

        async def one(unit: _Unit, own: Ticket) -> None:
            prompt = taken.prompts[unit.concept]
            cell = taken.cell if unit.tile is None else await self._intake.cut(taken, unit.tile.box, request.deadline)
            assert cell is not None
            answer = await self._ask(request, prompt, cell, own)
            for stage, ms in _stages_of(answer):
                sums[stage] += ms
            if unit.tile is None:
                alone[unit.concept] = answer.levels.copy()  # the cell is another's when the ticket is given back
            else:
                blends[unit.concept].add(unit.tile, answer.levels)
                request.times.tiles_done += unit.concept == len(taken.prompts) - 1

        async def some() -> None:
            for unit in waiting:
                pairs = len(taken.prompts[unit.concept].examples)
                with await self._batcher.admit_later(pairs, request.deadline) as own:
                    await one(unit, own)

        await one(next(waiting), ticket)
        # Its room is given back, so that a request whose parts are as large as the queue does not wait for itself.
        ticket.release()
        try:
            # anyio's: asyncio's, in Python 3.11's first releases, leaves its caller marked as cancelled.
            async with anyio.create_task_group() as group:
                for _ in range(min(self._units_at_once, len(units) - 1)):
                    group.start_soon(some)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        elapsed_ms, total = (time.perf_counter() - start) * 1000, sum(sums.values()) or 1.0
        for stage, ms in sums.items():  # they overlap: their shares of the time that the client waited
            request.times.ms[stage] = elapsed_ms * ms / total
        return [blend.result() for blend in blends] or [alone[concept] for concept in sorted(alone)]

    async def _ask(self, request: Segmentation, prompt: Prompt, cell: Pixels, ticket: Ticket) -> Answer:
        ticket.write(cell, prompt.examples)
        return await ticket.answer(request.manner.embedding_type, request.deadline, prompt.name)

    def _reply(
        self, request: Segmentation, taken: Taken, concepts: Sequence[Concept], painted: Sequence[Pixels]
    ) -> bytes:
        """In a thread: classes, then bytes."""
        size = taken.size if request.manner.upsampling == "bilinear" else None
        maps = [
            decode(levels, concept.labels, request.manner.threshold, size, prompt.shown)
            for levels, concept, prompt in zip(painted, concepts, taken.prompts, strict=True)
        ]
        classes = maps[0] if len(maps) == 1 else merged(maps, _labels_of(concepts))
        picture = partial(self._intake.picture, request.image)
        return encode(classes, taken.size, request.manner, picture, request.times.ms)


def _check_registered(prompts: Sequence[Concept], ensemble: Ensemble) -> None:
    """Refuse a registered prompt that is there twice, by name or by id, and learned pairs as the tiles of one picture.

    Raises:
        InvalidRequest: there is one.
    """
    for name, times in Counter(prompt.name for prompt in prompts).items():
        if times > 1:
            raise InvalidRequest(f"got the prompt {name!r:.80} twice; allowed is once")
    for prompt in prompts:
        if prompt.kind == "tuned" and len(prompt.examples) > 1 and ensemble == "spatial":
            raise InvalidRequest(
                f"the prompt {prompt.name!r:.80} was learned as {len(prompt.examples)} pairs, pixel by pixel, "
                "which cannot be made smaller; allowed is ensemble=feature"
            )


def _labels_of(concepts: Sequence[Concept]) -> list[Labels]:
    """Each concept's labels as the answer has them."""
    if len(concepts) == 1:
        return [concepts[0].labels]
    return renumbered([(concept.name, concept.labels) for concept in concepts])


def _stages_of(answer: Answer) -> list[tuple[str, float]]:
    return [(_QUEUE, answer.queue_ms), (_FORWARD, answer.forward_ms), (_POSTPROCESS, answer.postprocess_ms)]
