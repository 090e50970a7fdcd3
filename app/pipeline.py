"""One request from its bytes to its PNG: decode -> preprocess -> queue -> forward -> postprocess -> encode.

Read `Pipeline.segment` from top to bottom: that is what the service does. Decoding, resizing and encoding run in a pool
of threads beside the device's work; nothing here blocks the event loop. Knows neither HTTP nor processes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

from app.batcher import Batcher
from app.errors import DeadlineExceeded, EmptyMask, ExampleCount
from app.examples import ExampleCache, KnownExample, example_key, prompt_name
from app.images import Limits, check_aspect, check_header, decode_image, decode_mask, mask_to_cell, to_cell
from app.masks import encode_mask, encode_overlay, encode_soft
from app.metrics import STAGES, Metrics
from app.worker.cells import Pixels

EmbeddingType = Literal["instance", "semantic"]
Output = Literal["mask", "soft", "overlay"]
Result = TypeVar("Result")


class StageTimes:
    """Milliseconds of one request in each stage; a stage that has not run has none."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time inside to `stage`, whether or not it ends well."""
        assert stage in STAGES
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[stage] = self.ms.get(stage, 0.0) + (time.perf_counter() - start) * 1000


@dataclass(frozen=True)
class Example:
    """One encoded prompt image and its encoded prompt mask."""

    image: bytes
    mask: bytes


@dataclass(frozen=True)
class Segmentation:
    """What to segment and how to answer.

    Args:
        image: the encoded input image.
        examples: at least one.
        embedding_type: "instance" or "semantic".
        threshold: in [0, 1]; a pixel belongs to the mask when its grey value is above threshold * 255.
        output: "mask" is 0 and 255, "soft" the grey values, "overlay" the input image with all else darkened.
        deadline: absolute, `time.monotonic()` seconds.
        times: filled in as the request goes along, also when it fails on the way.
    """

    image: bytes
    examples: Sequence[Example]
    embedding_type: EmbeddingType
    threshold: float
    output: Output
    deadline: float
    times: StageTimes = field(default_factory=StageTimes)


@dataclass(frozen=True)
class _Picture:
    """A picture on its way: its (h, w, 3) uint8 cell, its full (height, width), and what the two stages took."""

    cell: Pixels
    size: tuple[int, int]
    decode_s: float
    preprocess_s: float


@dataclass(frozen=True)
class _Recognised:
    """What is known of a request before its pictures are decoded.

    Args:
        keys: of its examples, in order.
        examples: by their place; those that are new are still missing.
        unknown: the places of those.
        image: the input image; None as long as an example is missing.
    """

    keys: list[bytes]
    examples: dict[int, KnownExample]
    unknown: list[int]
    image: _Picture | None


class Pipeline:
    """The way of every request; one per service.

    Args:
        batcher: the queue in front of the devices.
        codecs: threads for decoding, resizing and encoding.
        metrics: where stage times are counted.
        cell_size: (height, width) in pixels of the pictures that the network takes.
        limits: what a picture may measure.
        max_examples: most examples of one request.
        examples: those that came before.
    """

    def __init__(
        self,
        batcher: Batcher,
        codecs: ThreadPoolExecutor,
        metrics: Metrics,
        *,
        cell_size: tuple[int, int],
        limits: Limits,
        max_examples: int,
        examples: ExampleCache,
    ) -> None:
        self._batcher = batcher
        self._codecs = codecs
        self._metrics = metrics
        self._cell_size = cell_size
        self._limits = limits
        self._max_examples = max_examples
        self._examples = examples

    async def segment(self, request: Segmentation) -> bytes:
        """Answer one request with a PNG of the input image's size.

        Raises:
            Problem: any of `app.errors`; what it says of the request names the form field.
        """
        times = request.times
        self._check_count(len(request.examples))
        try:
            with self._batcher.admit(len(request.examples)) as ticket:
                image, examples, prompt = await self._decode_and_preprocess(request)
                ticket.write(image.cell, [(example.image, example.mask) for example in examples])
                answer = await ticket.answer(request.embedding_type, request.deadline, prompt)
            times.ms |= {
                "queue": answer.queue_ms,
                "forward": answer.forward_ms,
                "postprocess": answer.postprocess_ms,
            }
            with times.measure("encode"):
                encode = self._encoder(request, answer.grey, image.size)
                (png,) = await self._in_threads([encode], request.deadline)
            return png
        finally:
            for stage, ms in times.ms.items():
                self._metrics.stage_seconds.labels(stage).observe(ms / 1000)

    def _check_count(self, count: int) -> None:
        if not 1 <= count <= self._max_examples:
            raise ExampleCount(
                f"got {count} examples; allowed are 1 to {self._max_examples}", got=count, limit=self._max_examples
            )

    async def _decode_and_preprocess(self, request: Segmentation) -> tuple[_Picture, list[KnownExample], str]:
        """All pictures at the network's size, and the examples' name; the cheap refusals come before any decoding.

        A thread takes one picture from its bytes to its cell: the pictures of full size that exist at one moment are as
        many as threads, not as requests times examples.
        """
        start = time.perf_counter()
        (recognised,) = await self._in_threads([partial(self._recognise, request)], request.deadline)
        image, examples = recognised.image, recognised.examples
        if image is not None:
            pictures = [image]
        else:
            calls: list[Callable[[], _Picture]] = [partial(self._image, request.image, "image")]
            for index in recognised.unknown:
                calls.append(partial(self._image, request.examples[index].image, f"prompt_image[{index}]"))
                calls.append(partial(self._mask, request.examples[index].mask, f"prompt_mask[{index}]"))
            image, *rest = pictures = await self._in_threads(calls, request.deadline)
            for index, prompt, mask in zip(recognised.unknown, rest[::2], rest[1::2], strict=True):
                check_aspect(prompt.size, mask.size, f"prompt_mask[{index}]")
                examples[index] = KnownExample(prompt.cell, mask.cell)
                self._examples.put(recognised.keys[index], examples[index])
        self._share_out(request.times, (time.perf_counter() - start) * 1000, pictures)
        self._metrics.examples.labels("miss").inc(len(recognised.unknown))
        self._metrics.examples.labels("hit").inc(len(examples) - len(recognised.unknown))
        return image, [examples[index] for index in range(len(examples))], prompt_name(recognised.keys)

    def _recognise(self, request: Segmentation) -> _Recognised:
        """Look the examples up and check the headers of all other pictures. If no example is new, decode at once."""
        keys = [example_key(example.image, example.mask) for example in request.examples]
        known = {index: example for index, key in enumerate(keys) if (example := self._examples.get(key)) is not None}
        unknown = [index for index in range(len(keys)) if index not in known]
        if not unknown:
            # Here and now: another trip through the threads would cost more than looking the examples up did.
            return _Recognised(keys, known, unknown, self._image(request.image, "image"))
        check_header(request.image, self._limits, "image")
        for index in unknown:
            check_header(request.examples[index].image, self._limits, f"prompt_image[{index}]")
            check_header(request.examples[index].mask, self._limits, f"prompt_mask[{index}]")
        return _Recognised(keys, known, unknown, None)

    def _image(self, data: bytes, field: str) -> _Picture:
        start = time.perf_counter()
        image = decode_image(data, self._limits, field)
        decoded = time.perf_counter()
        cell = to_cell(image, self._cell_size)
        return _Picture(cell, (image.height, image.width), decoded - start, time.perf_counter() - decoded)

    def _mask(self, data: bytes, field: str) -> _Picture:
        start = time.perf_counter()
        mask = decode_mask(data, self._limits, field)
        decoded = time.perf_counter()
        cell = mask_to_cell(mask, self._cell_size)
        if not cell.any():
            height, width = self._cell_size
            raise EmptyMask(
                f"its foreground is so small that none of it is left at the network's {width}x{height} pixels "
                "(width x height); crop the prompt image and its mask around the thing",
                field=field,
            )
        return _Picture(cell, (mask.height, mask.width), decoded - start, time.perf_counter() - decoded)

    def _share_out(self, times: StageTimes, elapsed_ms: float, pictures: Sequence[_Picture]) -> None:
        """The elapsed time of both stages, which several threads took in turn, in proportion to their work."""
        decode = sum(picture.decode_s for picture in pictures)
        preprocess = sum(picture.preprocess_s for picture in pictures)
        times.ms["decode"] = elapsed_ms * decode / (decode + preprocess)
        times.ms["preprocess"] = elapsed_ms - times.ms["decode"]

    def _encoder(self, request: Segmentation, grey: Pixels, size: tuple[int, int]) -> Callable[[], bytes]:
        if request.output == "mask":
            return partial(encode_mask, grey, size, request.threshold)
        if request.output == "soft":
            return partial(encode_soft, grey, size)

        def overlay() -> bytes:
            # Decoded a second time rather than kept: 12 megapixels are 36 MB for as long as the queue is.
            return encode_overlay(decode_image(request.image, self._limits), grey, request.threshold)

        return overlay

    async def _in_threads(self, calls: Sequence[Callable[[], Result]], deadline: float) -> list[Result]:
        """Run `calls` beside each other; the first error is raised, and what has not begun by then never does."""
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(self._codecs, _unless_late, call, deadline) for call in calls]
        try:
            return [await futures[0]] if len(futures) == 1 else await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()


def _unless_late(call: Callable[[], Result], deadline: float) -> Result:
    """Work that nobody waits for any more is not begun."""
    if time.monotonic() >= deadline:
        raise DeadlineExceeded("the deadline passed before the pictures were decoded or the answer encoded")
    return call()
