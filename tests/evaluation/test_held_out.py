"""The sets of the model card: pairs that no training run has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.collages import make_collages
from evaluation.command import main
from evaluation.datasets.folder import load_folder
from evaluation.held_out import held_out_sets
from evaluation.judge import judge, lines_of
from evaluation.network import Network
from evaluation.pairs import real_pairs
from tests.training.conftest import data  # noqa: F401  # a fixture


def test_real_pairs_are_two_photos_of_one_thing(data: Path) -> None:  # noqa: F811
    pairs = real_pairs(data / "coco_by")
    assert {pair.category for pair in pairs} == {"airplane", "dog"}  # snow has no shape of its own
    assert len(pairs) == 3 * 2 + 2
    for pair in pairs:
        assert pair.image.size[::-1] == pair.area.shape
        assert not np.array_equal(np.asarray(pair.image), np.asarray(pair.prompt_image))


def test_network_and_baselines_are_scored_on_every_set(data: Path, network: Network) -> None:  # noqa: F811
    for subset in held_out_sets(data, made=4):
        result = judge(network, subset)
        [line] = lines_of([result])
        assert line.episodes == len(subset.episodes)
        assert 0 <= line.scores["network"].pair_iou.mean <= 1
        marked = np.mean([episode.question(1).area.mean() for episode in subset.episodes])
        assert line.scores["everything"].pair_iou.mean == pytest.approx(marked, abs=0.15)


def test_without_a_word_the_held_out_sets_are_judged(data: Path, checkpoint: Path, capsys) -> None:  # noqa: F811
    main(["--data", str(data), "--checkpoint", str(checkpoint), "--made", "3"])
    table = capsys.readouterr().out
    assert "| unseen emoji alone on unseen photos | 1 | 3 | 3 | FB-IoU |" in table
    assert "| real photos of single objects | 1 | 2 | 8 | mIoU |" in table


def test_collages_are_a_folder_of_categories_and_the_same_again(data: Path, tmp_path: Path) -> None:  # noqa: F811
    for name in ("one", "two"):
        make_collages(data, tmp_path / name, categories=2, pictures=3)
    [subset] = load_folder(tmp_path / "one", examples=2)
    assert len(subset.episodes) == 6
    shares = [episode.question(1).area.mean() for episode in subset.episodes]
    assert all(0.01 < share < 0.4 for share in shares)
    for file in (tmp_path / "one").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes()
    with pytest.raises(ValueError, match=r"has \d+ held-out emoji and \d+ photos; 99 categories of 1 need at least 99"):
        make_collages(data, tmp_path, categories=99)


def test_a_category_may_have_several_looks(data: Path, tmp_path: Path) -> None:  # noqa: F811
    make_collages(data, tmp_path / "two", categories=1, pictures=4, looks=2)
    [category] = (tmp_path / "two").iterdir()
    # The drawn emoji are discs of one colour each: what is marked has the colour of its look, more or less (JPEG).
    colours = []
    for index in range(4):
        with (
            Image.open(category / "images" / f"{index:02d}.jpg") as image,
            Image.open(category / "masks" / f"{index:02d}.png") as mask,
        ):
            colours.append(np.median(np.asarray(image)[np.asarray(mask) > 127], axis=0))
    assert np.abs(colours[0] - colours[2]).max() < 10
    assert np.abs(colours[1] - colours[3]).max() < 10
    assert np.abs(colours[0] - colours[1]).max() > 20
