"""The service's answers as typed values. Further members that a newer service sends are left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.client.errors import ProblemError, SegGptError, UnexpectedAnswerError

Value = TypeVar("Value")


class Png(bytes):
    """A PNG file's bytes, which can be more."""

    def to_image(self) -> Image.Image:
        """As a Pillow image, read."""
        image = Image.open(BytesIO(self))
        image.load()
        return image

    def to_array(self) -> NDArray[np.uint8]:
        """As an array: (H, W) of grey or palette indices, or (H, W, 3)."""
        return np.asarray(self.to_image(), np.uint8)

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_bytes(self)


@dataclass(frozen=True, slots=True)
class Label:
    """A class: its index (1 to 255), its name, and the colour "#rrggbb" in which it is drawn."""

    index: int
    name: str
    colour: str


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one class, or one object of it, is.

    Attributes:
        index: the class's.
        label: the class's name.
        instance: 1, 2, ... with `instances`; None for a class as a whole.
        area: pixels.
        bbox: COCO's box in pixels: left, top, width, height.
        score: how sure the network is, 0 to 1.
        rle: COCO's run lengths, {"size": [height, width], "counts": text}; pycocotools reads it.
        polygons: of each piece its outline and then its holes, each [x, y, x, y, ...] in pixels.
    """

    index: int
    label: str
    instance: int | None
    area: int
    bbox: tuple[int, int, int, int]
    score: float
    rle: dict[str, Any]
    polygons: list[list[list[float]]]

    def to_array(self) -> NDArray[np.bool_]:
        """(height, width) bool: which pixels are of it."""
        from pycocotools import mask  # noqa: PLC0415 - only who asks for pixels waits for it

        decoded: NDArray[np.uint8] = mask.decode(self.rle)
        return decoded.astype(np.bool_)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The answer about one picture of (height, width); `body` is its JSON as it came."""

    height: int
    width: int
    labels: tuple[Label, ...]
    segments: tuple[Segment, ...]
    timings_ms: dict[str, float]
    body: Mapping[str, Any]

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Segmentation:
        """Of the parsed JSON."""
        return cls(
            height=int(body["height"]),
            width=int(body["width"]),
            labels=tuple(_label(one) for one in body["labels"]),
            segments=tuple(_segment(one) for one in body["segments"]),
            timings_ms=dict(body.get("timings_ms") or {}),
            body=body,
        )


@dataclass(frozen=True, slots=True)
class BatchItem:
    """What became of one picture of a batch.

    Attributes:
        index: its place among the pictures that were given, from 0.
        name: its file name.
        answer: a `Png`, or with `json` a `Segmentation`; None if it failed.
        error: why it failed; None if it did not.
    """

    index: int
    name: str
    answer: Png | Segmentation | None
    error: SegGptError | None

    def result(self) -> Png | Segmentation:
        """The answer.

        Raises:
            SegGptError: it failed.
        """
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


@dataclass(frozen=True, slots=True)
class Prompt:
    """A registered prompt.

    Attributes:
        id: names its content; the same content has the same id.
        name: given by people; None if it has none.
        created_at: when it was registered; None of a damaged one, and so are:
        mask_kind: binary, index, colour or tuned.
        examples: how many it has.
        labels: its classes; none of a damaged one.
        size_bytes: of its files.
        state: "ok" or "damaged".
    """

    id: str
    name: str | None
    created_at: datetime | None
    mask_kind: str | None
    labels: tuple[Label, ...]
    examples: int | None
    size_bytes: int
    state: str

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Prompt:
        """Of the parsed JSON."""
        return cls(
            id=str(body["id"]),
            name=body.get("name"),
            created_at=None if body["created_at"] is None else datetime.fromisoformat(body["created_at"]),
            mask_kind=body["mask_kind"],
            labels=tuple(_label(one) for one in body["labels"]),
            examples=body["examples"],
            size_bytes=int(body["bytes"]),
            state=str(body["state"]),
        )


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the service can answer now, and what it is doing."""

    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process: its device, precision and state."""

    device: str
    device_name: str | None
    dtype: str | None
    state: str


@dataclass(frozen=True, slots=True)
class Model:
    """The loaded checkpoint; sizes are (height, width) in pixels."""

    checkpoint: str
    revision: str | None
    fingerprint: str
    parameters: int | None
    picture_size: tuple[int, int]
    patch_size: int
    workers: tuple[Worker, ...]

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Model:
        """Of the parsed JSON."""
        size = body["picture_size"]
        return cls(
            checkpoint=str(body["checkpoint"]),
            revision=body.get("revision"),
            fingerprint=str(body["fingerprint"]),
            parameters=body.get("parameters"),
            picture_size=(int(size["height"]), int(size["width"])),
            patch_size=int(body["patch_size"]),
            workers=tuple(
                Worker(str(one["device"]), one.get("device_name"), one.get("dtype"), str(one["state"]))
                for one in body["workers"]
            ),
        )


def parsed(body: bytes | str, read: Callable[[Any], Value]) -> Value:
    """Read an answer's JSON.

    Raises:
        UnexpectedAnswerError: it is none, or members are missing.
    """
    try:
        return read(json.loads(body))
    except ProblemError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UnexpectedAnswerError(
            f"the answer is not what this client knows: {error!r}; got {body[:80]!r}"
        ) from error


def _label(body: Mapping[str, Any]) -> Label:
    return Label(int(body["index"]), str(body["name"]), str(body["colour"]))


def _segment(body: Mapping[str, Any]) -> Segment:
    left, top, width, height = body["bbox"]
    return Segment(
        index=int(body["index"]),
        label=str(body["label"]),
        instance=body.get("instance"),
        area=int(body["area"]),
        bbox=(left, top, width, height),
        score=float(body["score"]),
        rle=dict(body["rle"]),
        polygons=body.get("polygons") or [],
    )
