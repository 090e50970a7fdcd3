"""Files that `seggpt tune` writes -> learned examples. Reads strangers' bytes; knows no network and no torch.

A tuned prompt is one or more pairs of pictures that were learned, a prompt image and a painted prompt mask, at the
network's own size. Here they become pictures without loss, so that they are kept and served as all examples are.
The file's other end is `model.tuned_prompt`, which this process cannot import because torch would come along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load

from app.errors import ExampleCount, InvalidTunedPrompt
from app.examples import Example
from app.prompt_archive import TunedFor

FIELD: Final = "tuned"
_FORMAT: Final = "seggpt-tuned-prompt-1"
_TENSORS: Final = ("prompt_images", "prompt_masks")
_LENGTH_BYTES: Final = 8
_MOST_HEADER_BYTES: Final = 64 * 1024
_MOST_NAME_CHARACTERS: Final = 200
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Tuned:
    """What such a file holds.

    Args:
        examples: at least one; both pictures are BMP, whose bytes depend on the pixels alone, and so does the id.
        tuned_for: the checkpoint that it fits.
    """

    examples: tuple[Example, ...]
    tuned_for: TunedFor


def read_tuned(data: bytes, most_examples: int) -> Tuned:
    """Read a file, whatever the bytes are.

    Args:
        data: at most a request's body.
        most_examples: more are refused.

    Raises:
        InvalidTunedPrompt: it is no such file, or damaged.
        ExampleCount: it has too many learned examples.
    """
    header = _header(data)
    tuned_for = _tuned_for(header.get("__metadata__"))
    count = _check_tensors({name: entry for name, entry in header.items() if name != "__metadata__"})
    if count > most_examples:
        raise ExampleCount(
            f"{FIELD}: got {count} learned examples; allowed are 1 to {most_examples}", got=count, limit=most_examples
        )
    try:
        images, masks = (load(data)[name] for name in _TENSORS)
    except SafetensorError as error:
        raise _invalid(f"it is damaged or cut short: {' '.join(str(error).split())[:200]}") from error
    pairs = zip(images, masks, strict=True)
    return Tuned(tuple(Example(_bitmap(image), _bitmap(mask)) for image, mask in pairs), tuned_for)


def _header(data: bytes) -> dict[str, Any]:
    """The JSON object at the beginning of a safetensors file: 8 bytes of length, then the text."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or not 2 <= length <= min(_MOST_HEADER_BYTES, len(data) - _LENGTH_BYTES):
        raise _invalid(f"its {len(data)} bytes are no safetensors file, or one that is cut short")
    try:
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
    except (ValueError, RecursionError) as error:
        raise _invalid("its header is not JSON") from error
    if not isinstance(header, dict):
        raise _invalid("its header is not a JSON object")
    return header


def _tuned_for(metadata: Any) -> TunedFor:
    found = metadata if isinstance(metadata, dict) else {}
    if found.get("format") != _FORMAT:
        raise _invalid(f"its format is {str(found.get('format'))[:80]!r}; allowed is {_FORMAT!r}")
    checkpoint, fingerprint = found.get("checkpoint"), found.get("fingerprint")
    if not isinstance(checkpoint, str) or not checkpoint.isprintable() or len(checkpoint) > _MOST_NAME_CHARACTERS:
        raise _invalid("it does not say for which checkpoint it was tuned")
    if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
        raise _invalid("its fingerprint is not 64 hexadecimal digits")
    return TunedFor(checkpoint, fingerprint)


def _check_tensors(entries: Mapping[str, Any]) -> int:
    """How many learned examples there are, as the header tells; that the bytes are there is checked by safetensors."""
    if sorted(entries) != sorted(_TENSORS):
        raise _invalid(f"it holds {', '.join(sorted(entries))[:80] or 'nothing'}; allowed are {' and '.join(_TENSORS)}")
    images, masks = (_shape_of(name, entries[name]) for name in _TENSORS)
    if images != masks:
        raise _invalid(f"prompt_images has the shape {images} and prompt_masks {masks}; they must be equal")
    return images[0]


def _shape_of(name: str, entry: Any) -> list[int]:
    kind, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
    is_whole = isinstance(shape, list) and len(shape) == 4 and all(type(side) is int and side > 0 for side in shape)
    if not isinstance(shape, list) or not is_whole or shape[3] != 3 or kind != "U8":
        raise _invalid(
            f"{name}: got {kind} of shape {shape!r:.80}; allowed is U8 of shape [examples, height, width, 3]"
        )
    return shape


def _bitmap(pixels: NDArray[np.uint8]) -> bytes:
    """(h, w, 3) uint8 RGB as BMP: learned pixels hardly compress, and this format has no compressor to change."""
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "BMP")
    return buffer.getvalue()


def _invalid(why: str) -> InvalidTunedPrompt:
    return InvalidTunedPrompt(f"{FIELD}: {why}; a tuned prompt is a file that `seggpt tune` wrote", field=FIELD)
