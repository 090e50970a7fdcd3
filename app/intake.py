"""Encoded pictures and masks -> cells: the stages decode and preprocess.

A thread takes one picture from its bytes to its cell: the pictures of full size that exist at one moment are as many as
threads, not as requests times examples. Only an input image that is cut into tiles is kept while they are cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from app.codecs import Codecs
from app.errors import EmptyMask, InvalidTunedPrompt
from app.examples import Example, ExampleCache, KnownExample, example_key, prompt_name
from app.images import (
    Limits,
    check_aspect,
    check_header,
    decode_colour_mask,
    decode_image,
    decode_index_mask,
    decode_mask,
)
from app.metrics import Metrics
from app.preprocess import class_mask_to_cell, mask_to_cell, stitched, to_cell
from app.requests import Concept, Ensemble, Segmentation, StageTimes
from app.tiles import TilePlan, plan
from app.worker.cells import Pixels


@dataclass(frozen=True)
class Prompt:
    """One concept, ready for the device.

    Args:
        examples: (prompt image, prompt mask), each (h, w, 3) uint8.
        name: of their content, for what the device keeps.
        shown: of classes, indices of the labels that any of them shows.
    """

    examples: Sequence[tuple[Pixels, Pixels]]
    name: str
    shown: frozenset[int]


@dataclass(frozen=True)
class Taken:
    """One request's pictures.

    Args:
        size: (height, width) of the input image.
        prompts: one for each concept.
        cell: the input image, (h, w, 3) uint8; None if it is cut into tiles.
        picture: the input image at full size, if it is cut into tiles.
        plan: how it is cut, if it is.
    """

    size: tuple[int, int]
    prompts: Sequence[Prompt]
    cell: Pixels | None
    picture: Image.Image | None = None
    plan: TilePlan | None = None


@dataclass(frozen=True)
class _Picture:
    """A picture on its way: its (h, w, 3) uint8 cell, its full (height, width), and what the two stages took.

    One that is cut into tiles has no cell, but all its pixels and the plan for cutting it. A mask of classes
    has the indices of the labels that it shows.
    """

    cell: Pixels | None
    size: tuple[int, int]
    decode_s: float
    preprocess_s: float
    full: Image.Image | None = None
    plan: TilePlan | None = None
    shown: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Place:
    """An example of a request that is not known yet: where it stands, and its key."""

    concept: Concept
    index: int
    field: str
    key: bytes

    @property
    def example(self) -> Example:
        return self.concept.examples[self.index]


@dataclass(frozen=True)
class _Recognised:
    """What is known of a request before its pictures are decoded.

    Args:
        keys: of all examples, concept by concept.
        known: those that came before, by their key.
        unknown: the others, each once.
        image: the input image; None as long as an example is missing.
    """

    keys: list[list[bytes]]
    known: dict[bytes, KnownExample]
    unknown: list[_Place]
    image: _Picture | None


class Intake:
    """Decodes and resizes.

    Args:
        codecs: the threads that do it.
        metrics: counts examples.
        examples: those that came before.
        limits: what a picture may measure.
        cell_size: (height, width) in pixels of the pictures that the network takes.
        max_tiles: most tiles of one input image.
    """

    def __init__(
        self,
        codecs: Codecs,
        metrics: Metrics,
        examples: ExampleCache,
        *,
        limits: Limits,
        cell_size: tuple[int, int],
        max_tiles: int,
    ) -> None:
        self._codecs = codecs
        self._metrics = metrics
        self._examples = examples
        self._limits = limits
        self._cell_size = cell_size
        self._max_tiles = max_tiles

    async def take(self, request: Segmentation, concepts: Sequence[Concept]) -> Taken:
        """All pictures of one request; the cheap refusals come before any decoding.

        Raises:
            ImageProblem: any of them.
            InvalidLabels: a mask shows what no label names.
            TooManyTiles: the input image is too large for its tiles.
            DeadlineExceeded: the deadline passed.
        """
        start = time.perf_counter()
        (recognised,) = await self._codecs.run([partial(self._recognise, request, concepts)], request.deadline)
        image, known = recognised.image, recognised.known
        if image is not None:
            pictures = [image]
        else:
            calls: list[Callable[[], _Picture]] = [partial(self._image, request)]
            calls += [call for place in recognised.unknown for call in self._example_calls(place)]
            image, *pictures = await self._codecs.run(calls, request.deadline)
            known |= self._keep(recognised.unknown, pictures)
            pictures.append(image)
        _share_out(request.times, (time.perf_counter() - start) * 1000, pictures)
        count = sum(map(len, recognised.keys))
        self._metrics.examples.labels("miss").inc(len(recognised.unknown))
        self._metrics.examples.labels("hit").inc(count - len(recognised.unknown))
        prompts = [
            _prompt([known[key] for key in keys], prompt_name(keys, request.manner.ensemble), request.manner.ensemble)
            for keys in recognised.keys
        ]
        return Taken(image.size, prompts, image.cell, image.full, image.plan)

    async def check(self, concept: Concept, deadline: float) -> None:
        """Decode a concept's examples, and keep them for the request that will ask for them.

        Raises:
            ImageProblem, InvalidLabels, DeadlineExceeded: as `take`.
        """
        places = [
            _Place(concept, index, f"[{index}]", example_key(example, concept.kind, concept.labels))
            for index, example in enumerate(concept.examples)
        ]
        calls = [call for place in places for call in self._example_calls(place)]
        self._keep(places, await self._codecs.run(calls, deadline))

    async def cut(self, taken: Taken, box: tuple[float, float, float, float], deadline: float) -> Pixels:
        """One tile, (h, w, 3) uint8."""
        assert taken.picture is not None
        (cell,) = await self._codecs.run([partial(to_cell, taken.picture, self._cell_size, box)], deadline)
        return cell

    def picture(self, data: bytes) -> Image.Image:
        """The input image at its full size, decoded a second time rather than kept: 12 megapixels are 36 MB."""
        return decode_image(data, self._limits)

    def _recognise(self, request: Segmentation, concepts: Sequence[Concept]) -> _Recognised:
        """Look the examples up and check the headers of all other pictures. If no example is new, decode at once."""
        keys = [
            [example_key(example, concept.kind, concept.labels) for example in concept.examples] for concept in concepts
        ]
        known: dict[bytes, KnownExample] = {}
        unknown: dict[bytes, _Place] = {}
        for concept, own in zip(concepts, keys, strict=True):
            for index, key in enumerate(own):
                found = self._examples.get(key)
                if found is not None:
                    known[key] = found
                else:
                    unknown.setdefault(key, _Place(concept, index, _field_of(concept, index), key))
        if not unknown:
            # Here and now: another trip through the threads would cost more than looking the examples up did.
            return _Recognised(keys, known, [], self._image(request))
        check_header(request.image, self._limits, "image")
        for place in unknown.values():
            check_header(place.example.image, self._limits, f"prompt_image{place.field}")
            check_header(place.example.mask, self._limits, f"prompt_mask{place.field}")
        return _Recognised(keys, known, list(unknown.values()), None)

    def _example_calls(self, place: _Place) -> list[Callable[[], _Picture]]:
        image = partial(self._picture, place.example.image, f"prompt_image{place.field}")
        return [image, partial(self._mask, place.concept, place.example.mask, f"prompt_mask{place.field}")]

    def _keep(self, places: Sequence[_Place], pictures: Sequence[_Picture]) -> dict[bytes, KnownExample]:
        """Pair the pictures of these places, image and mask in turn."""
        found = {}
        for place, image, mask in zip(places, pictures[::2], pictures[1::2], strict=True):
            check_aspect(image.size, mask.size, f"prompt_mask{place.field}")
            assert image.cell is not None, "examples are not cut"
            assert mask.cell is not None, "examples are not cut"
            found[place.key] = KnownExample(image.cell, mask.cell, mask.shown)
            self._examples.put(place.key, found[place.key])
        return found

    def _plan(self, request: Segmentation, size: tuple[int, int]) -> TilePlan | None:
        if request.manner.tile is None:
            return None
        found = plan(size, self._cell_size, request.manner.tile, self._max_tiles)
        return found if len(found.tiles) > 1 else None

    def _image(self, request: Segmentation) -> _Picture:
        """The input image: its cell, or the whole of it if it will be cut."""
        if request.manner.tile is None:
            return self._picture(request.image, "image")
        header = check_header(request.image, self._limits, "image")
        self._plan(request, (header.height, header.width))  # too many tiles are refused before decoding
        return self._picture(request.image, "image", partial(self._plan, request))

    def _picture(
        self, data: bytes, field: str, planned: Callable[[tuple[int, int]], TilePlan | None] = lambda size: None
    ) -> _Picture:
        """One picture; `planned` says of its upright size how it is cut, if it is."""
        start = time.perf_counter()
        image = decode_image(data, self._limits, field)
        decoded = time.perf_counter()
        size = (image.height, image.width)
        found = planned(size)
        if found is not None:
            return _Picture(None, size, decoded - start, time.perf_counter() - decoded, image, found)
        cell = to_cell(image, self._cell_size)
        return _Picture(cell, size, decoded - start, time.perf_counter() - decoded)

    def _mask(self, concept: Concept, data: bytes, field: str) -> _Picture:
        start = time.perf_counter()
        shown: frozenset[int] = frozenset()
        if concept.kind == "binary":
            mask = decode_mask(data, self._limits, field)
            decoded = time.perf_counter()
            cell = mask_to_cell(mask, self._cell_size)
        elif concept.kind == "tuned":
            return self._tuned_mask(data, field)
        else:
            decode = decode_index_mask if concept.kind == "index" else decode_colour_mask
            mask = decode(data, self._limits, field)
            decoded = time.perf_counter()
            cell, shown = class_mask_to_cell(mask, self._cell_size, concept.labels, field)
        if not cell.any():
            height, width = self._cell_size
            raise EmptyMask(
                f"its foreground is so small that none of it is left at the network's {width}x{height} pixels "
                "(width x height), or there is none; crop the prompt image and its mask around the thing",
                field=field,
            )
        return _Picture(cell, (mask.height, mask.width), decoded - start, time.perf_counter() - decoded, shown=shown)

    def _tuned_mask(self, data: bytes, field: str) -> _Picture:
        """Learned colours, pixel by pixel as they were tuned.

        Raises:
            InvalidTunedPrompt: they are not of the network's size; resized they would mean nothing.
        """
        start = time.perf_counter()
        mask = decode_image(data, self._limits, field)
        size = (mask.height, mask.width)
        if size != self._cell_size:
            got, allowed = ("x".join(map(str, sides[::-1])) for sides in (size, self._cell_size))
            raise InvalidTunedPrompt(f"{field}: got {got} learned pixels (width x height); the network takes {allowed}")
        return _Picture(np.asarray(mask), size, time.perf_counter() - start, 0.0)


def _prompt(examples: Sequence[KnownExample], name: str, ensemble: Ensemble) -> Prompt:
    shown = frozenset[int]().union(*(example.shown for example in examples))
    if ensemble == "feature":
        return Prompt([(example.image, example.mask) for example in examples], name, shown)
    image = stitched([example.image for example in examples], are_masks=False)
    return Prompt([(image, stitched([example.mask for example in examples], are_masks=True))], name, shown)


def _field_of(concept: Concept, index: int) -> str:
    """Where an example stands in the request: sent along, or in a registered prompt."""
    return f"[{index}]" if concept.name == "examples" else f"[{index}] of prompt {concept.name}"


def _share_out(times: StageTimes, elapsed_ms: float, pictures: Sequence[_Picture]) -> None:
    """The elapsed time of both stages, which several threads took in turn, in proportion to their work."""
    decode = sum(picture.decode_s for picture in pictures)
    preprocess = sum(picture.preprocess_s for picture in pictures)
    times.ms["decode"] = elapsed_ms * decode / (decode + preprocess)
    times.ms["preprocess"] = elapsed_ms - times.ms["decode"]
