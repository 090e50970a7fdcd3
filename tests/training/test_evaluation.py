"""The judge: metrics, the pairs it takes, and both baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.held_out import copied, find, held_out_sets, judge
from evaluation.metrics import class_mean, intersection_over_union
from evaluation.pairs import real_pairs
from training.initialise import new_network
from training.train import small_config


def test_overlap_of_masks_is_shared_over_all() -> None:
    one, two = np.zeros((2, 2), bool), np.zeros((2, 2), bool)
    assert intersection_over_union(one, two) == 1.0
    one[0], two[:, 0] = True, True
    assert intersection_over_union(one, two) == pytest.approx(1 / 3)


def test_every_category_counts_once_however_many_pairs_it_has() -> None:
    result = class_mean(["dog"] * 9 + ["cat"], [1.0] * 9 + [0.0])
    assert result.mean == 0.5
    assert result.low <= 0.5 <= result.high


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 values in 0 categories"):
        class_mean([], [])


def test_real_pairs_are_two_photos_of_one_thing(data: Path) -> None:
    pairs = real_pairs(data / "coco_by")
    assert {pair.category for pair in pairs} == {"airplane", "dog"}  # snow has no shape of its own
    assert len(pairs) == 3 * 2 + 2
    for pair in pairs:
        assert pair.image.size[::-1] == pair.area.shape
        assert not np.array_equal(np.asarray(pair.image), np.asarray(pair.prompt_image))


def test_the_judge_scores_network_and_baselines_on_every_set(data: Path) -> None:
    network = new_network(small_config(64), seed=0).eval()
    for name, pairs in held_out_sets(data, made=4).items():
        row = judge(network, name, pairs)
        assert row.pairs == len(pairs)
        assert 0 <= row.network.mean <= 1
        assert row.everything.mean == pytest.approx(np.mean([pair.area.mean() for pair in pairs]), abs=0.15)


def test_answers_and_copies_have_the_size_of_the_input_image(data: Path) -> None:
    pair = real_pairs(data / "coco_by")[0]
    assert find(new_network(small_config(64), seed=0).eval(), pair).shape == pair.area.shape
    assert copied(pair).shape == pair.area.shape
