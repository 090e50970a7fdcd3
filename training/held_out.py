"""Which pictures are kept from training: a choice by hashes of names, the same in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

HELD_OUT_OF_256 = 26  # about 10 %


def is_held_out(key: str) -> bool:
    """Whether a code point or a photo is kept from training; depends on its name alone, so it never changes."""
    return _digest(key)[0] < HELD_OUT_OF_256


def held_out_among(pictures: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Of someone's pictures, (category, name) each, those that are kept from training.

    They are those of `is_held_out("category/name")`, and at least one: small folders have one too. But one of each
    category is always learnt from, so nothing is held out where no category has two.
    """
    digests = {picture: _digest("/".join(picture)) for picture in pictures}
    ordered = sorted(digests, key=lambda picture: digests[picture])
    learnt = set({category: (category, name) for category, name in ordered}.values())  # the last of each
    free = [picture for picture in ordered if picture not in learnt]
    return {picture for picture in free if digests[picture][0] < HELD_OUT_OF_256} | set(free[:1])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
