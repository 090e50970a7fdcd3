"""Damaged prompts, and storage that does not work."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app import objects
from app.errors import NameTaken, PromptDamaged, PromptNotFound, PromptStoreUnavailable
from app.prompts import PromptStore
from tests.app.conftest import ROOT
from tests.app.store.conftest import CATS, DOGS, Place


@pytest.mark.parametrize("how", ["half", "nothing", "foreign", "bit", "another's"])
def test_a_damaged_prompt_is_reported_never_served_and_can_be_replaced(place: Place, how: str) -> None:
    put, _ = place.store().put(CATS)
    other, _ = place.store().put(DOGS)
    store = place.store()
    assert store.get("cats") == put
    data = place.read(put.id)
    changed = {
        "half": data[: len(data) // 2],
        "nothing": b"",
        "foreign": b"hello",
        "bit": data[:99] + bytes([data[99] ^ 4]) + data[100:],
        "another's": place.read(other.id),
    }[how]
    place.write(put.id, changed)
    for lookup in (put.id, "cats"):
        with pytest.raises(PromptDamaged, match=put.id):
            store.get(lookup)
        with pytest.raises(PromptDamaged):
            store.rename(lookup, "felines")
    entries = {entry.id: entry for entry in store.list().prompts}
    assert entries[put.id].is_damaged
    assert entries[put.id].bytes == len(changed)
    assert not entries[other.id].is_damaged
    again, is_new = store.put(CATS)
    assert is_new
    assert place.store().get("cats") == again
    assert not any(entry.is_damaged for entry in store.list().prompts)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_damaged_prompt_can_be_deleted_which_frees_its_name(place: Place, by_name: bool) -> None:
    put, _ = place.store().put(CATS)
    place.write(put.id, place.read(put.id)[:-1])
    with pytest.raises(NameTaken):
        place.store().put(replace(DOGS, name="cats"))
    place.store().delete("cats" if by_name else put.id)
    with pytest.raises(PromptNotFound):
        place.store().get(put.id)
    assert place.store().list().prompts == ()


def test_a_folder_that_cannot_be_written_is_unavailable_but_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PromptStoreUnavailable, match="cannot be written now: not a directory") as caught:
        PromptStore(str(tmp_path / "file" / "prompts")).put(CATS)
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.headers["Retry-After"]


def test_a_full_disk_is_unavailable_and_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import resource, sys, signal\n"
        "from app.prompts import PromptStore\n"
        "from app.labels import BINARY\n"
        "from app.prompt_archive import NewPrompt\n"
        "from app.examples import Example\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "PromptStore(sys.argv[1]).put(NewPrompt((Example(bytes(50_000), b'mask'),), 'binary', BINARY, 'cats'))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "PromptStoreUnavailable: the prompt store cannot be written now: file too large" in ended.stderr
    place = Place(str(tmp_path))
    assert place.files("prompts") == place.files("incoming") == []
    dogs, _ = place.store().put(replace(DOGS, name="cats"))
    assert dogs.name == "cats"


def test_a_storage_that_refuses_or_is_not_there_is_unavailable(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PromptStoreUnavailable, match="there is no such bucket"):
        PromptStore("s3://nobody-has-this-one/prompts").put(CATS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    store = PromptStore(bucket)
    for call in (lambda: store.put(CATS), store.list, lambda: store.get("cats"), lambda: store.delete("cats")):
        with pytest.raises(PromptStoreUnavailable, match=r"the prompt store cannot be (read|written) now") as caught:
            call()
        assert "127.0.0.1" not in str(caught.value)
        assert "very-secret" not in str(caught.value)


def test_an_unknown_protocol_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="nothing://"):
        PromptStore("nothing://user:password@host/prompts")


def test_a_missing_package_is_a_clear_error() -> None:
    script = (
        "import sys\n"
        "sys.modules['s3fs'] = None\n"
        "from app.prompts import PromptStore\n"
        "PromptStore('s3://key:very-secret@bucket/prompts')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    last = ended.stderr.strip().splitlines()[-1]
    assert last == "ValueError: s3:// needs a package that is not installed: pip install 'seggpt-serve[s3]'"


def test_a_folder_needs_no_package_of_object_storage(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from app.prompts import PromptStore\n"
        "PromptStore(sys.argv[1]).list()\n"
        "assert not {'s3fs', 'botocore', 'aiohttp', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True)


def test_a_writer_that_hangs_makes_others_give_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_LOCK_WAIT_S", 0.1)
    store = PromptStore(str(tmp_path))
    put, _ = store.put(CATS)
    with objects.Folder(tmp_path).changing():
        with pytest.raises(PromptStoreUnavailable, match="did not answer in time"):
            store.put(DOGS)
        assert store.get("cats") == put  # readers wait for nobody
    store.put(DOGS)


def test_what_killed_writers_left_is_swept_away_by_the_next(tmp_path: Path) -> None:
    store = PromptStore(str(tmp_path))
    store.put(CATS)
    (tmp_path / "incoming" / "left-over").write_bytes(b"half")
    assert len(store.list().prompts) == 1
    store.put(DOGS)
    assert list((tmp_path / "incoming").iterdir()) == []
