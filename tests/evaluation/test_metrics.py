"""Scores, against cases counted by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from evaluation.bootstrap import Estimate, average, resampled_sums
from evaluation.metrics import (
    background_iou,
    class_mean,
    count_pixels,
    foreground_iou,
    intersection_over_union,
    score,
)


def mask(*rows: str) -> np.ndarray:
    return np.array([[sign == "#" for sign in row] for row in rows])


FOUND, WANTED = mask("##..", "##..", "....", "...."), mask(".##.", ".##.", ".##.", "....")


def test_overlap_of_masks_is_shared_over_all():
    one, two = np.zeros((2, 2), bool), np.zeros((2, 2), bool)
    assert intersection_over_union(one, two) == 1.0
    one[0], two[:, 0] = True, True
    assert intersection_over_union(one, two) == pytest.approx(1 / 3)


def test_pixels_are_counted_as_by_hand():
    assert count_pixels(FOUND, WANTED).tolist() == [2, 2, 4, 8]
    assert foreground_iou(count_pixels(FOUND, WANTED)) == 2 / 8
    assert background_iou(count_pixels(FOUND, WANTED)) == 8 / 14


def test_ignored_pixels_count_neither_way():
    ignored = mask("#.#.", "....", "....", "...#")
    assert count_pixels(FOUND, WANTED, ignored).tolist() == [2, 1, 3, 7]


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"masks have sizes \[\(4, 4\), \(2, 4\)\]; they must be equal"):
        count_pixels(FOUND, WANTED[:2])


def test_nothing_wanted_and_nothing_found_is_right():
    nothing = np.zeros((3, 3), bool)
    assert intersection_over_union(nothing, nothing) == 1
    assert background_iou(count_pixels(~nothing, ~nothing)) == 1
    assert intersection_over_union(~nothing, nothing) == 0


def test_scores_are_as_by_hand():
    counts = np.array([[2, 2, 4, 8], [6, 0, 2, 8], [4, 0, 4, 8]])
    scores = score(["cup", "cup", "leaf"], counts)
    assert scores.miou.mean == pytest.approx((8 / 16 + 4 / 8) / 2)  # sums first
    assert scores.fb_iou.mean == pytest.approx((12 / 24 + 24 / 36) / 2)
    assert scores.pair_iou.mean == pytest.approx(((2 / 8 + 6 / 8) / 2 + 4 / 8) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_counts_and_ious_equal_scikit_learns_on_random_masks(seed: int):
    dice = np.random.default_rng(seed)
    found, wanted, ignored = (dice.random((31, 17)) < share for share in (dice.random(), dice.random(), 0.2))
    counts = count_pixels(found, wanted, ignored)
    truth, answer = wanted[~ignored], found[~ignored]
    (rest, extra), (missed, hits) = confusion_matrix(truth, answer, labels=[False, True])
    assert counts.tolist() == [hits, extra, missed, rest]
    assert foreground_iou(counts) == pytest.approx(jaccard_score(truth, answer))
    assert background_iou(counts) == pytest.approx(jaccard_score(~truth, ~answer))


def test_scores_of_a_set_equal_scikit_learns_on_random_masks():
    dice = np.random.default_rng(9)
    categories = [str(name) for name in dice.choice(["cup", "leaf", "shoe"], 40)]
    found, wanted = dice.random((40, 12, 9)) < 0.4, dice.random((40, 12, 9)) < 0.5
    counts = np.stack([count_pixels(*pair) for pair in zip(found, wanted, strict=True)])
    scores = score(categories, counts)
    own = {name: [index for index, one in enumerate(categories) if one == name] for name in set(categories)}

    per_category = [jaccard_score(wanted[at].ravel(), found[at].ravel()) for at in own.values()]
    assert scores.miou.mean == pytest.approx(np.mean(per_category))
    both = jaccard_score(wanted.ravel(), found.ravel(), average="macro", labels=[False, True])
    assert scores.fb_iou.mean == pytest.approx(both)
    pairs = [np.mean([jaccard_score(wanted[i].ravel(), found[i].ravel()) for i in at]) for at in own.values()]
    assert scores.pair_iou.mean == pytest.approx(np.mean(pairs))
    values = [intersection_over_union(*pair) for pair in zip(found, wanted, strict=True)]
    assert class_mean(categories, values).mean == pytest.approx(scores.pair_iou.mean)


def test_every_category_counts_once_however_many_pairs_it_has():
    result = class_mean(["dog"] * 9 + ["cat"], [1.0] * 9 + [0.0])
    assert result.mean == 0.5
    assert result.low <= 0.5 <= result.high


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="got 0 values in 0 categories"):
        class_mean([], [])
    with pytest.raises(ValueError, match="got 1 values in 2 categories"):
        score(["cup", "leaf"], np.ones((1, 4), dtype=np.int64))


# Intervals.


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    counts = np.random.default_rng(0).integers(1, 50, (30, 4))
    names = ["cup", "leaf", "shoe"] * 10
    assert score(names, counts) == score(names, counts)
    assert score(names, counts).miou.low != score(names, counts, seed=1).miou.low


def test_an_interval_of_many_pairs_is_the_normal_one():
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    estimate = class_mean(["cup"] * 400, values.tolist())
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_fixed_categories_are_all_in_every_draw():
    values = np.array([[0.0], [0.0], [1.0], [1.0]])
    names = ["cup", "cup", "leaf", "leaf"]
    _, fixed = resampled_sums(names, values, fixed_categories=True, draws=50, seed=0)
    assert np.array_equal(fixed[:, :, 0], np.tile([0.0, 2.0], (50, 1)))
    _, drawn = resampled_sums(names, values, fixed_categories=False, draws=50, seed=0)
    assert set(drawn.sum(axis=(1, 2))) == {0.0, 2.0, 4.0}


def test_differences_are_paired():
    counts = np.random.default_rng(2).integers(1, 50, (30, 4))
    scores = score(["cup"] * 30, counts)
    gain = scores - scores
    assert (gain.miou.mean, gain.miou.low, gain.miou.high) == (0, 0, 0)


def test_the_mean_of_folds_is_narrower_than_each():
    folds = [class_mean(["cup"] * 50, np.random.default_rng(seed).random(50).tolist(), seed=seed) for seed in range(4)]
    mean = average(folds)
    assert mean.mean == pytest.approx(np.mean([fold.mean for fold in folds]))
    assert mean.high - mean.low < min(fold.high - fold.low for fold in folds)
    with pytest.raises(ValueError, match="got no estimates"):
        average([])


def test_folds_are_resampled_independently():
    values = np.random.default_rng(3).random(50).tolist()
    alike = [class_mean(["cup"] * 50, values)] * 4  # with one and the same seed
    mean = average(alike)
    assert mean.high - mean.low == pytest.approx((alike[0].high - alike[0].low) / 2, rel=0.1)
    gain = mean - average(alike)
    assert (gain.low, gain.high) == (0, 0)


def test_an_interval_with_negative_ends_can_be_read():
    assert str(Estimate.of(-0.02, np.array([-0.03, -0.01]))) == "-0.020 (-0.029 to -0.011)"
