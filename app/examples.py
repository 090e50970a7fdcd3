"""Examples that came before, recognised by their bytes: what decoding and resizing them gave is kept for the next time.

The common case is one example and many input images. Whatever was refused is not kept, so a kept example has passed
every check; the limits that were checked are settings, which do not change while the process runs.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.labels import Labels, PromptKind

_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded prompt image and its encoded prompt mask."""

    image: bytes
    mask: bytes


@dataclass(frozen=True, slots=True)
class KnownExample:
    """One decoded example.

    Args:
        image, mask: (h, w, 3) uint8, at the network's size.
        shown: of a mask of classes, indices of the labels that it shows.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    shown: frozenset[int]

    @property
    def nbytes(self) -> int:
        """Memory that its pixels take."""
        return self.image.nbytes + self.mask.nbytes


def example_key(example: Example, kind: PromptKind, labels: Labels) -> bytes:
    """What names an example: a hash of both files' bytes, of where the one ends, and of what the mask's values mean."""
    digest = hashlib.blake2b(len(example.image).to_bytes(8, "big"), digest_size=_DIGEST_BYTES)
    digest.update(example.image)
    digest.update(len(example.mask).to_bytes(8, "big"))
    digest.update(example.mask)
    if kind != "binary":  # a binary mask is drawn in white whatever its label is called
        digest.update(repr((kind, [(label.index, label.colour) for label in labels])).encode())
    return digest.digest()


def prompt_name(keys: Iterable[bytes], ensemble: str) -> str:
    """What names examples in their order, as one ensemble of either kind."""
    return hashlib.blake2b(b"".join(keys) + ensemble.encode(), digest_size=_DIGEST_BYTES).hexdigest()


class ExampleCache:
    """The latest examples. For several threads: two that bring the same new example both decode it, and no harm done.

    Args:
        limit_bytes: pixels of all examples kept together; those used longest ago go first. 0 keeps none.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, KnownExample] = OrderedDict()
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of pixels kept now."""
        return self._held_bytes

    def get(self, key: bytes) -> KnownExample | None:
        """The example of that key, if it is kept."""
        with self._lock:
            example = self._kept.get(key)
            if example is not None:
                self._kept.move_to_end(key)
            return example

    def put(self, key: bytes, example: KnownExample) -> None:
        """Keep an example, in place of those used longest ago if there is no room."""
        if example.nbytes > self._limit_bytes:
            return
        with self._lock:
            before = self._kept.pop(key, None)
            self._held_bytes += example.nbytes - (0 if before is None else before.nbytes)
            self._kept[key] = example
            while self._held_bytes > self._limit_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._held_bytes -= oldest.nbytes
