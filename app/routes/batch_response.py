"""A batch's answer, while it is made: its images are read, worked on and answered at the same time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Final

from fastapi import Response
from starlette.status import HTTP_200_OK
from starlette.types import Receive, Scope, Send

from app.errors import BodyTooLarge, Draining, InternalProblem, InvalidRequest, Problem
from app.pipeline import Pipeline
from app.remote import Allowance, is_url
from app.requests import Concept, Segmentation, StageTimes
from app.routes.batch_answers import Answers, Counts
from app.routes.gate import Gate
from app.routes.multipart import Part
from app.routes.outbox import Outbox
from app.routes.streaming import ClientLeft, FormStream
from app.service import Service

_HEADERS: Final = {
    "Vary": "Accept",
    "X-Accel-Buffering": "no",  # proxies that collect an answer before they pass it on would make the lines late
}

logger = logging.getLogger(__name__)


class BatchResponse(Response):
    """One batch.

    Args:
        service: for its settings, and to know when it ends.
        pipeline: the way of each image.
        template: what is asked of each image.
        images: each as soon as it is there.
        stream: where they come from.
        gate: room for images of all batches.
        answers: how they are written.
    """

    def __init__(
        self,
        service: Service,
        pipeline: Pipeline,
        template: Segmentation,
        *,
        images: AsyncIterator[Part],
        stream: FormStream,
        gate: Gate,
        answers: Answers,
    ) -> None:
        self.status_code = HTTP_200_OK
        self.media_type = answers.media_type
        self.background = None
        self.init_headers(_HEADERS)
        self._service = service
        self._settings = service.settings
        self._pipeline = pipeline
        self._template = template
        self._images = images
        self._stream = stream
        self._gate = gate
        self._pairs = _pairs(template, gate)
        self._answers = answers
        self._counts = Counts()
        self._outbox = Outbox()
        self._writing = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self._problem: Problem | None = None
        self._error: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what is ready, while the rest is read and worked on beside it."""
        del receive  # the stream has it
        work = asyncio.create_task(self._work())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while piece := await self._outbox.take():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await work
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientLeft:
            pass
        finally:
            await _end([work, *self._running])
            self._outbox.close()
            self._note(scope)

    def _note(self, scope: Scope) -> None:
        """For the log and the metrics."""
        state = scope["state"]
        state["logged"] = {"images": self._counts.images, "failed": self._counts.failed}
        if self._problem is not None:
            state["problem"] = self._problem.slug

    async def _work(self) -> None:
        """Everything but sending. Ends early when the client leaves."""
        try:
            await _first_of(self._read(), self._watch_service(), self._stream.left_early())
            await _first_of(self._finish(), self._stream.left())
            async with self._writing:
                await self._outbox.put(self._answers.end(self._counts, self._problem))
        finally:
            self._outbox.end()

    async def _read(self) -> None:
        try:
            async for part in self._images:
                await self._begin(part)
                del part  # the next one is long in coming, and this one may be done by then
        except Problem as problem:
            self._problem = problem

    async def _watch_service(self) -> None:
        await self._service.given_up.wait()
        self._problem = Draining("the service stopped before the rest of the request was read")

    async def _finish(self) -> None:
        while self._running:
            await asyncio.wait(self._running)
        if self._error is not None:
            raise self._error

    async def _begin(self, part: Part) -> None:
        """Wait for room for one image, and leave it to itself."""
        index, most = self._counts.images, self._settings.max_batch_images
        if index == most:
            raise InvalidRequest(f"got more than {most} images; allowed are {most}", limit=most)
        self._counts.images += 1
        room = await self._gate.enter(self._pairs)
        task = asyncio.create_task(self._answer(index, part, room))
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def _answer(self, index: int, part: Part, room: int) -> None:
        """One image from its part of the form to its part of the answer."""
        name = part.filename or None
        try:
            answer = await self._segment(part)
        except Problem as problem:
            await self._fail(index, name, problem)
        except Exception:
            logger.exception("image %d of a batch failed in a way that nobody foresaw", index)
            await self._fail(index, name, InternalProblem("the service failed; its log has the reason"))
        else:
            async with self._writing:
                await self._outbox.put(self._answers.succeed(index, name, answer))
        finally:
            self._stream.release(part)
            self._gate.leave(room)

    async def _segment(self, part: Part) -> bytes:
        if self._service.draining:
            raise Draining("the service is shutting down; this image's turn did not come")
        if part.is_dropped:
            most = self._settings.max_body_bytes
            raise BodyTooLarge(f"image: got more than {most} bytes; allowed are {most}", limit=most)
        deadline = time.monotonic() + self._settings.deadline_s
        content = part.content if part.filename is not None else await self._fetched(part)
        return await self._pipeline.segment(
            replace(self._template, image=content, deadline=deadline, times=StageTimes())
        )

    async def _fetched(self, part: Part) -> bytes:
        """The picture in the place of its URL."""
        text = part.content.decode("utf-8", "replace")
        if not is_url(text):
            raise InvalidRequest(f"image: got the text {text!r:.80}; allowed is a file", field="image")
        return await self._service.fetcher.fetch(text, "image", Allowance(self._settings.max_body_bytes))

    async def _fail(self, index: int, name: str | None, problem: Problem) -> None:
        self._counts.failed += 1
        self._service.metrics.rejected.labels(problem.slug).inc()
        async with self._writing:
            await self._outbox.put(self._answers.fail(index, name, problem))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._error = self._error or task.exception()


def _pairs(template: Segmentation, gate: Gate) -> int:
    """How much room one image takes: its pairs, or one half of all if there are tiles, which are many at once."""
    if template.manner.tile is not None:
        return max(1, gate.room() // 2)
    concepts = [concept for concept in template.concepts if isinstance(concept, Concept)]
    is_spatial = template.manner.ensemble == "spatial"
    return sum(1 if is_spatial else len(concept.examples) for concept in concepts)


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Wait for the first to end, give the others up, and raise what it raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(tasks)
    for task in ended:
        task.result()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel `tasks` and wait for them; what they raise is nobody's any more."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
