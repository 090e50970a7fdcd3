"""Names of prompts: one's own, changeable, and never half true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app import prompt_names
from app.errors import InvalidRequest, NameTaken, PromptNotFound
from app.prompts import PromptStore
from tests.app.store.conftest import CATS, DOGS, Place


def test_an_unnamed_prompt_gets_the_name_that_it_is_put_with_again(place: Place) -> None:
    first, _ = place.store().put(replace(CATS, name=None))
    assert first.name is None
    second, is_new = place.store().put(CATS)
    assert not is_new
    assert second.name == "cats"
    assert place.store().get("cats").id == first.id


def test_a_named_prompt_keeps_its_name_when_it_is_put_with_another(place: Place) -> None:
    place.store().put(CATS)
    with pytest.raises(NameTaken, match="'cats'"):
        place.store().put(replace(CATS, name="felines"))
    assert place.store().get("cats").name == "cats"
    with pytest.raises(PromptNotFound):
        place.store().get("felines")


def test_a_name_is_one_prompt_s(place: Place) -> None:
    cats, _ = place.store().put(CATS)
    with pytest.raises(NameTaken, match=cats.id):
        place.store().put(replace(DOGS, name="cats"))
    assert [entry.id for entry in place.store().list().prompts] == [cats.id]
    dogs, _ = place.store().put(DOGS)
    with pytest.raises(NameTaken, match=cats.id):
        place.store().rename(dogs.id, "cats")
    assert place.store().get("cats").id == cats.id
    assert place.store().get(dogs.id).name is None


def test_renaming_frees_the_former_name_and_changes_nothing_else(place: Place) -> None:
    cats, _ = place.store().put(CATS)
    renamed = place.store().rename("cats", "felines")
    assert renamed == replace(cats, name="felines")
    assert place.store().get("felines") == renamed
    with pytest.raises(PromptNotFound, match="cats"):
        place.store().get("cats")
    dogs, _ = place.store().put(replace(DOGS, name="cats"))
    assert place.store().get("cats").id == dogs.id
    assert place.store().rename("felines", None).name is None
    with pytest.raises(PromptNotFound):
        place.store().get("felines")
    names = {entry.id: entry.name for entry in place.store().list().prompts}
    assert names == {cats.id: None, dogs.id: "cats"}
    assert place.store().rename(cats.id, "felines").name == "felines"
    assert place.store().rename("felines", "felines").name == "felines"


def test_a_name_has_one_spelling(place: Place) -> None:
    put, _ = place.store().put(replace(CATS, name=" Kaffeebohne e\u0301 "))
    assert put.name == "Kaffeebohne \u00e9"
    assert place.store().get("Kaffeebohne e\u0301").id == put.id
    longest = "ä" * 100
    assert place.store().rename(put.id, longest).name == longest
    assert place.store().get(longest).id == put.id


@pytest.mark.parametrize(
    "name", ["", "  ", "a/b", "a\nb", "a\0b", "x" * 101, ".", "..", "0123456789abcdef" * 2, "0123456789ABCDEF" * 2]
)
def test_a_name_that_is_not_allowed(tmp_path: Path, name: str) -> None:
    store = PromptStore(str(tmp_path))
    with pytest.raises(InvalidRequest, match="name: got"):
        store.put(replace(CATS, name=name))
    assert store.list().prompts == ()
    put, _ = store.put(CATS)
    with pytest.raises(InvalidRequest, match="name: got"):
        store.rename(put.id, name)
    with pytest.raises(PromptNotFound):
        store.get(name)


def test_a_rename_does_not_outlive_its_registration(place: Place) -> None:
    put, _ = place.store().put(CATS)
    place.store().rename("cats", "felines")
    place.remove(put.id)  # what a kill in the middle of deleting leaves: the rename and the claim
    again, is_new = place.store().put(CATS)
    assert is_new
    assert again.name == place.store().get(put.id).name == "cats"
    with pytest.raises(PromptNotFound):
        place.store().get("felines")


def test_a_folder_frees_the_name_of_a_prompt_that_is_gone(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    put, _ = place.store().put(CATS)
    place.remove(put.id)
    dogs, _ = place.store().put(replace(DOGS, name="cats"))
    assert place.store().get("cats").id == dogs.id


def test_object_storage_respects_a_claim_whose_writer_may_not_be_done(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(bucket)
    put, _ = place.store().put(CATS)
    place.remove(put.id)
    with pytest.raises(NameTaken):
        place.store().put(replace(DOGS, name="cats"))
    monkeypatch.setattr(prompt_names, "_GRACE_S", 0)
    dogs, _ = place.store().put(replace(DOGS, name="cats"))
    assert place.store().get("cats").id == dogs.id
