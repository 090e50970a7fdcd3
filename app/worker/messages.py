"""What the HTTP process and a worker process say to each other: frozen dataclasses, one JSON line each.

Pixels never travel here: they lie in the shared cells (`app.worker.cells`) and messages name cells by index. A
line carries its type's name and exactly that type's fields; anything else is refused. JSON and not pickle, so that
reading a line can never run code.
"""

from __future__ import annotations

import functools
import json
import types
import typing
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal

Status = Literal["done", "out-of-memory", "not-finite"]
Reason = Literal["error", "poisoned"]


@dataclass(frozen=True)
class GroupCells:
    """Where the pixels of one request lie.

    Args:
        input_cell: the input image; the answer is written to the answer plane of the same index.
        examples: (image cell, mask cell) of each example, in the request's order.
    """

    input_cell: int
    examples: tuple[tuple[int, int], ...]

    @property
    def pairs(self) -> int:
        """How many (input image, example) canvases this request needs."""
        return len(self.examples)


@dataclass(frozen=True)
class GroupRun:
    """One request's part of a batch.

    Args:
        cells: where its pixels lie.
        embedding_type: "instance" or "semantic".
        prompt: a name of what the examples' files contain, the same for the same content in the same order: what is
            computed from the masks alone may be kept under it. None keeps nothing.
    """

    cells: GroupCells
    embedding_type: str
    prompt: str | None


# To the worker process.


@dataclass(frozen=True)
class Configure:
    """The first message: what to load and how to run it.

    Args:
        checkpoint: `model.checkpoint.Checkpoint.to_dict()`.
        device: a torch device, such as "cpu" or "cuda:0".
        dtype: "auto", "float32", "bfloat16", "float16" or "int8".
        threads: torch's threads; only on a CPU.
        max_batch_pairs: the largest bucket, in pairs.
        warmup_limit_s: a bucket whose forward takes longer than this is not used, nor are larger ones.
        prompt_cache_bytes: bytes of mask streams that the device keeps, those of the latest prompts.
        cell_count: cells in the shared memory.
        cell_height: height of a cell in pixels.
        cell_width: width of a cell in pixels.
    """

    checkpoint: dict[str, Any]
    device: str
    dtype: str
    threads: int
    max_batch_pairs: int
    warmup_limit_s: float
    prompt_cache_bytes: int
    cell_count: int
    cell_height: int
    cell_width: int


@dataclass(frozen=True)
class RunBatch:
    """Run these groups in one forward; answered by one `BatchDone` or `BatchFailed` of the same id, in order."""

    batch_id: int
    groups: tuple[GroupRun, ...]


@dataclass(frozen=True)
class Stop:
    """Finish and exit."""


# From the worker process.


@dataclass(frozen=True)
class Loading:
    """The stage of the start: "checkpoint" or "warm-up"."""

    stage: str


@dataclass(frozen=True)
class Ready:
    """A warm-up answer came out: batches may be sent.

    Args:
        device: the torch device.
        device_name: what its maker calls it.
        dtype: the precision that "auto" became.
        attention: which kernel computes attention.
        linear: which kernel computes linear layers.
        parameters: how many numbers the network has.
        max_batch_pairs: the largest bucket that is warm so far.
        forward_ms: what the warm-up forward of that bucket took.
        batches_at_once: how many batches may be sent before the first of them is answered; more than one lets a GPU
            compute while the host copies.
    """

    device: str
    device_name: str
    dtype: str
    attention: str
    linear: str
    parameters: int
    max_batch_pairs: int
    forward_ms: float
    batches_at_once: int


@dataclass(frozen=True)
class Warmed:
    """A larger bucket is warm; from now on batches may have this many pairs."""

    max_batch_pairs: int
    forward_ms: float


@dataclass(frozen=True)
class BatchDone:
    """The batch ran: one status per group, in order; the answers of those that are "done" are in their planes.

    Args:
        batch_id: the batch's.
        statuses: one per group.
        known_prompts: how many groups found their mask stream kept.
        copy_ms, forward_ms, postprocess_ms: what the batch took.
    """

    batch_id: int
    statuses: tuple[Status, ...]
    known_prompts: int
    copy_ms: float
    forward_ms: float
    postprocess_ms: float


@dataclass(frozen=True)
class BatchFailed:
    """No group of the batch has an answer. After "poisoned" the process exits: its device context cannot recover."""

    batch_id: int
    reason: Reason
    message: str


@dataclass(frozen=True)
class LoadFailed:
    """The checkpoint cannot be served, in one line; the process exits."""

    message: str


# From `app.worker.prepare`.


@dataclass(frozen=True)
class Prepared:
    """A checkpoint is on this machine and fits its config, and the devices are there.

    Args:
        checkpoint: what `Checkpoint.to_dict` gives; its source is what the user asked for.
        canvas_size: (height, width) in pixels of two stacked pictures.
        cell_size: (height, width) in pixels of one.
        patch_size: side of a patch in pixels.
        devices: torch devices, one worker each.
        threads: torch's threads in each worker on a CPU.
        fingerprint: of the weights; what a tuned prompt must have been tuned for.
    """

    checkpoint: dict[str, Any]
    canvas_size: tuple[int, int]
    cell_size: tuple[int, int]
    patch_size: int
    devices: tuple[str, ...]
    threads: int
    fingerprint: str


Message = (
    Prepared | Configure | RunBatch | Stop | Loading | Ready | Warmed | BatchDone | BatchFailed | LoadFailed
)  # fmt: skip
_TYPES: dict[str, type[Any]] = {kind.__name__: kind for kind in typing.get_args(Message)}


class MessageError(ValueError):
    """A line is not a message: an unknown type, a missing or surplus field, or a value of another type."""


def encode(message: Message) -> bytes:
    """One line of JSON, ended by a newline."""
    return json.dumps({"type": type(message).__name__, **vars(message)}, default=vars).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read one line.

    Raises:
        MessageError: it is not exactly a message of a known type.
    """
    try:
        values = json.loads(line)
    except ValueError as error:
        raise MessageError(f"a line is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise MessageError(f"a line holds a {type(values).__name__}; a message is an object")
    name = values.pop("type", None)
    if not isinstance(name, str) or name not in _TYPES:
        raise MessageError(f"unknown message type {name!r}; known are {', '.join(_TYPES)}")
    message: Message = _build(_TYPES[name], values)
    return message


def _build(kind: type[Any], values: Any) -> Any:
    if not isinstance(values, dict):
        raise MessageError(f"{kind.__name__} needs an object, got {values!r}")
    hints = _hints(typing.cast("typing.Hashable", kind))
    if values.keys() != hints.keys():
        raise MessageError(
            f"{kind.__name__} has the fields {', '.join(sorted(hints))}; got {', '.join(sorted(values))}"
        )
    return kind(**{name: _read(hints[name], value, f"{kind.__name__}.{name}") for name, value in values.items()})


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Types of the fields; looking them up anew would take longer than reading a message."""
    return typing.get_type_hints(kind)


def _read(hint: Any, value: Any, where: str) -> Any:
    """`value`, as JSON gives it, as the type `hint`: lists become tuples, objects become dataclasses."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return _build(typing.cast("type[Any]", hint), value)
    if origin is types.UnionType and type(None) in inner:
        return None if value is None else _read(inner[0], value, where)
    if origin is tuple and isinstance(value, list):
        parts = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        if len(parts) == len(value):
            return tuple(_read(part, entry, where) for part, entry in zip(parts, value, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    allowed = value in inner if origin is Literal else type(value) is (origin or hint)
    if not allowed or origin is tuple:
        raise MessageError(f"{where} must be {hint}, got {value!r}")
    return value
