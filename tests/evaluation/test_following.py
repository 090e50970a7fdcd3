"""Prompt-following: which answers are right, and the pictures that are asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.following import ABSENT, absent_things, follow, made_two_things, main, photo_two_things
from evaluation.questions import Area, Question
from tests.training.conftest import data  # noqa: F401  # a fixture
from training.photos import Photos, load_clothing
from training.sprites import Bank, load_emoji


@pytest.fixture
def photos(data: Path) -> Photos:  # noqa: F811
    return load_clothing(data / "clothing", held_out=True)


@pytest.fixture
def bank(data: Path) -> Bank:  # noqa: F811
    return Bank.joined([(1.0, load_emoji([data / "emoji"], held_out=True))])


def test_both_things_are_there_and_differ(bank: Bank, photos: Photos) -> None:
    for two in [*made_two_things(bank, photos, 6), *photo_two_things(photos, 6)]:
        first, second = two.questions
        assert not (first.area & second.area).any()
        assert not (first.examples[0].area & second.examples[0].area).any()
        assert first.area.any()
        assert second.area.any()
        assert np.array_equal(np.asarray(first.image), np.asarray(second.image))


def test_following_the_prompt_is_right_and_ignoring_it_is_right_once(bank: Bank, photos: Photos) -> None:
    def knows(question: Question) -> Area:
        return question.area

    pictures = made_two_things(bank, photos, 6)
    first_areas = {id(two.questions[1]): two.questions[0].area for two in pictures}

    def ignores(question: Question) -> Area:
        return first_areas.get(id(question), question.area)

    assert follow(knows, "all", pictures) == "| all | 6 | 1.000 | 1.000 |"
    assert follow(ignores, "one", pictures) == "| one | 6 | 0.000 | 0.500 |"


@pytest.mark.parametrize("shown", sorted(ABSENT))
def test_absent_things_are_wanted_nowhere(bank: Bank, photos: Photos, shown: str) -> None:
    for question in absent_things(bank, photos, 5, ABSENT[shown]):
        assert question.examples[0].area.any()
        assert not question.area.any()


def test_the_command_prints_its_table(data: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    main(["--data", str(data), "--checkpoint", str(checkpoint), "--pictures", "3"])
    printed = capsys.readouterr().out
    assert "| unseen emoji on unseen photos | 3 |" in printed
    assert all(f"| {shown} | 3 | " in printed for shown in ABSENT)
