"""Prompts put, found, listed and deleted, in a folder and in object storage."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest

from app.errors import InvalidRequest, PromptNotFound
from app.examples import Example
from app.labels import BINARY
from app.prompt_archive import NewPrompt, prompt_id
from app.prompts import PromptStore
from tests.app.store.conftest import CATS, CLASSES, DOGS, Place


def test_a_prompt_comes_back_as_it_was_put(place: Place) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    put, is_new = place.store().put(CLASSES)
    assert is_new
    assert put.id == prompt_id(CLASSES)
    for lookup in (put.id, "street"):
        got = place.store().get(lookup)
        assert got == put
        assert (got.examples, got.kind, got.labels, got.name) == (CLASSES.examples, "index", CLASSES.labels, "street")
        assert before <= got.created_at <= datetime.now(UTC)
        assert got.created_at.tzinfo is UTC
        assert got.bytes == len(place.read(put.id))


def test_the_archive_is_a_zip_with_the_original_files(place: Place) -> None:
    put, _ = place.store().put(DOGS)
    with zipfile.ZipFile(BytesIO(place.read(put.id))) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    assert json.loads(files.pop("manifest.json"))["id"] == put.id
    assert files == {"image-0": b"a dog", "mask-0": b"its mask", "image-1": b"two", "mask-1": b"masks"}


def test_the_same_content_twice_is_the_same_prompt(place: Place) -> None:
    first, _ = place.store().put(CATS)
    second, is_new = place.store().put(replace(CATS, name=None))
    assert not is_new
    assert second == first
    assert len(place.files("prompts")) == 1


def test_a_deleted_prompt_is_gone_with_its_name(place: Place) -> None:
    put, _ = place.store().put(CATS)
    place.store().rename("cats", "felines")
    place.store().delete("felines")
    for lookup in (put.id, "cats", "felines"):
        with pytest.raises(PromptNotFound):
            place.store().get(lookup)
        with pytest.raises(PromptNotFound):
            place.store().delete(lookup)
    assert place.store().list().prompts == ()
    assert place.files("names") == place.files("renames") == place.files("prompts") == []
    again, is_new = place.store().put(CATS)
    assert is_new
    assert again.name == "cats"


def test_a_store_sees_at_once_what_other_processes_do(place: Place) -> None:
    mine, theirs = place.store(), place.store()
    put, _ = theirs.put(CATS)
    assert mine.get(put.id) == mine.get("cats") == put
    theirs.rename("cats", "felines")
    assert mine.get(put.id).name == "felines"
    assert [entry.name for entry in mine.list().prompts] == ["felines"]
    theirs.delete("felines")
    for lookup in (put.id, "felines"):
        with pytest.raises(PromptNotFound):
            mine.get(lookup)
    assert mine.list().prompts == ()
    theirs.put(replace(CATS, name="back"))
    assert mine.get("back").name == mine.list().prompts[0].name == "back"


def test_pages_follow_each_other_without_gap_or_repetition(place: Place) -> None:
    prompts = [NewPrompt((Example(b"%d" % number, b"mask"),), "binary", BINARY) for number in range(11)]
    store = place.store()
    wanted = sorted(store.put(prompt)[0].id for prompt in prompts)
    seen, after = [], None
    sizes = []
    while True:
        page = place.store().list(4, after)
        seen += [entry.id for entry in page.prompts]
        sizes.append(len(page.prompts))
        after = page.next
        if after is None:
            break
    assert seen == wanted
    assert sizes == [4, 4, 3]
    store.delete(wanted[3])
    assert [entry.id for entry in store.list(4, wanted[3]).prompts] == wanted[4:8]  # a cursor may be gone
    with pytest.raises(InvalidRequest, match="after"):
        store.list(4, "cats")


def test_a_listing_says_what_there_is(place: Place) -> None:
    put, _ = place.store().put(CLASSES)
    store = place.store()
    for _ in range(2):  # read, and remembered
        (entry,) = store.list().prompts
        assert (entry.id, entry.name, entry.created_at, entry.bytes) == (put.id, "street", put.created_at, put.bytes)
        assert (entry.kind, entry.labels, entry.examples, entry.is_damaged) == ("index", CLASSES.labels, 1, False)


def test_foreign_files_are_not_listed(place: Place) -> None:
    put, _ = place.store().put(CATS)
    for name in ("prompts/notes.txt", f"prompts/{put.id}.part", "prompts/cats.zip", "names/x", "renames/y"):
        place.write_file(name, b"hello")
    assert [entry.id for entry in place.store().list().prompts] == [put.id]


def test_a_store_that_was_never_written_is_empty(place: Place) -> None:
    store = place.store()
    assert store.list().prompts == ()
    with pytest.raises(PromptNotFound):
        store.get("cats")
    with pytest.raises(PromptNotFound):
        store.get(prompt_id(CATS))


def test_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put, _ = PromptStore("~/kept").put(CATS)
    assert (tmp_path / "kept" / "prompts" / f"{put.id}.zip").is_file()
    assert PromptStore(f"file://{tmp_path}/kept").get("cats") == put


def test_memory_keeps_no_more_than_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.prompts._KEPT_BYTES", 3000)
    store = PromptStore(str(tmp_path))
    prompts = [NewPrompt((Example(b"%d" % number * 500, b"mask"),), "binary", BINARY) for number in range(6)]
    ids = [store.put(prompt)[0].id for prompt in prompts]
    for identity, prompt in zip(ids, prompts, strict=True):
        assert store.get(identity).examples == prompt.examples
    assert 0 < store._contents._held <= 3000
    assert store._contents._held == sum(archived.bytes for _, archived in store._contents._kept.values())
