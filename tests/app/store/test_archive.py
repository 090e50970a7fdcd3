"""One prompt as one file: its id, and that no damage goes unnoticed."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest

from app.examples import Example
from app.labels import BINARY, Label, Labels, parse_labels
from app.prompt_archive import DamagedError, NewPrompt, pack, prompt_id, unpack
from tests.app.store.conftest import CATS, CLASSES, DOGS


def test_the_id_depends_on_everything_that_a_prompt_means() -> None:
    two: Labels = parse_labels('["one", "two"]', "index")
    other: Labels = parse_labels('["one", "deux"]', "index")
    prompts = [
        CATS,
        DOGS,
        CLASSES,
        replace(DOGS, examples=DOGS.examples[::-1]),
        replace(DOGS, examples=DOGS.examples[:1]),
        NewPrompt((Example(b"a ca", b"tits mask"),), "binary", BINARY),
        NewPrompt((Example(b"its mask", b"a cat"),), "binary", BINARY),
        replace(CATS, labels=(Label(1, "cat", (255, 255, 255)),)),
        replace(CATS, kind="index", labels=two),
        replace(CATS, kind="index", labels=other),
        replace(CATS, kind="colour", labels=two),
        replace(CATS, kind="index", labels=(two[0], replace(two[1], colour=(1, 2, 3)))),
        replace(CATS, kind="index", labels=(two[0], replace(two[1], index=9))),
    ]
    assert len({prompt_id(prompt) for prompt in prompts}) == len(prompts)
    assert prompt_id(CATS) == prompt_id(replace(CATS, name="others"))


def damages(data: bytes) -> dict[str, bytes]:
    """Each byte region of an archive flipped, and the archive cut and extended in many places."""
    damaged = {}
    for position in range(0, len(data), 7):
        damaged[f"bit {position}"] = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
    for length in range(0, len(data), 31):
        damaged[f"first {length}"] = data[:length]
    damaged["one byte less"] = data[:-1]
    damaged["one byte more"] = data + b"\0"
    damaged["zeros"] = bytes(len(data))
    damaged["twice"] = data + data
    return damaged


def test_no_damaged_byte_goes_unnoticed() -> None:
    identity = prompt_id(CLASSES)
    data = pack(CLASSES, datetime.now(UTC), "mark")
    assert unpack(data, identity).prompt == CLASSES
    for what, damaged in damages(data).items():
        try:
            unpack(damaged, identity)
        except DamagedError:
            continue
        pytest.fail(what)


def sealed(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A forged archive with a right seal."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.comment = bytes(64)
    body = buffer.getvalue()[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


def manifest(**changes: Any) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(pack(CATS, datetime.now(UTC), "mark"))) as archive:
        fields = json.loads(archive.read("manifest.json"))
    return {
        "manifest.json": json.dumps({**fields, **changes}).encode(),
        "image-0": b"a cat",
        "mask-0": b"its mask",
    }


@pytest.mark.parametrize(
    "forged",
    [
        sealed({}),
        sealed({"manifest.json": b"[" * 100_000}),
        sealed({"manifest.json": b"[]"}),
        sealed(manifest(format=2)),
        sealed(manifest(examples=2)),
        sealed(manifest(examples=0)),
        sealed(manifest(examples="one")),
        sealed(manifest(examples=True, mask_kind="no")),
        sealed(manifest(labels=[{}])),
        sealed(manifest(labels=[{"index": 1, "name": "object", "colour": "#ff"}])),
        sealed(manifest(created_at="yesterday")),
        sealed(manifest(name=7)),
        sealed(manifest(), zipfile.ZIP_DEFLATED),
        sealed({**manifest(), "image-0": b"another cat"}),
        pack(DOGS, datetime.now(UTC), "mark"),
    ],
)
def test_a_forged_or_foreign_archive_is_damaged(forged: bytes) -> None:
    assert unpack(sealed(manifest()), prompt_id(CATS)).prompt == CATS
    with pytest.raises(DamagedError):
        unpack(forged, prompt_id(CATS))
