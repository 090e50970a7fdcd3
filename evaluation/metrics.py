"""Pixel counts, and the means of intersection over union that few-shot segmentation reports.

Source of mIoU and FB-IoU: Min et al., "Hypercorrelation Squeeze for Few-Shot Segmentation", arXiv:2104.01538, s. 5,
and its public code: counts are summed before they are divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.bootstrap import DRAWS, Estimate, Floats, average, resampled_sums
from evaluation.questions import Area

Counts = NDArray[np.int64]  # (..., 4): hits, extra, missed, rest


def count_pixels(found: Area, wanted: Area, ignored: Area | None = None) -> Counts:
    """Compare two (H, W) masks.

    Args:
        found: the answer.
        wanted: the truth.
        ignored: pixels that count neither way.

    Returns:
        (4,): found and wanted, found alone, wanted alone, neither.

    Raises:
        ValueError: their sizes differ.
    """
    if found.shape != wanted.shape or (ignored is not None and ignored.shape != wanted.shape):
        sizes = [mask.shape for mask in (found, wanted, ignored) if mask is not None]
        raise ValueError(f"masks have sizes {sizes}; they must be equal")
    if ignored is not None:
        found, wanted = found[~ignored], wanted[~ignored]
    hits = int(np.count_nonzero(found & wanted))
    extra, missed = int(np.count_nonzero(found)) - hits, int(np.count_nonzero(wanted)) - hits
    return np.array([hits, extra, missed, found.size - hits - extra - missed])


def _ratio(intersection: Floats, union: Floats) -> Floats:
    """1 where both are empty: nothing was wanted, and nothing found."""
    return np.divide(intersection, union, out=np.ones_like(union), where=union > 0)


def foreground_iou(counts: Counts | Floats) -> Floats:
    """(..., 4) counts -> (...) intersection over union of what is marked."""
    counts = np.asarray(counts, dtype=np.float64)
    return _ratio(counts[..., 0], counts[..., :3].sum(axis=-1))


def background_iou(counts: Counts | Floats) -> Floats:
    """(..., 4) counts -> (...) intersection over union of what is not marked."""
    counts = np.asarray(counts, dtype=np.float64)
    return _ratio(counts[..., 3], counts[..., 1:].sum(axis=-1))


def intersection_over_union(found: Area, wanted: Area) -> float:
    """Of two (H, W) masks; 1 where both are empty."""
    return float(foreground_iou(count_pixels(found, wanted)))


@dataclass(frozen=True)
class Scores:
    """How well some answers fit, each in [0, 1].

    Args:
        miou: per category, the intersections of its episodes over their unions, both summed; mean over categories.
        fb_iou: the same of foreground and of background over all episodes; mean of the two.
        pair_iou: per category the mean of its episodes' own IoU; mean over categories. Small objects weigh as much as
            large ones, unlike in the other two.
    """

    miou: Estimate
    fb_iou: Estimate
    pair_iou: Estimate

    def __sub__(self, other: Scores) -> Scores:
        """What these answers are better by, episode by episode."""
        return Scores(self.miou - other.miou, self.fb_iou - other.fb_iou, self.pair_iou - other.pair_iou)


METRICS = {"mIoU": "miou", "FB-IoU": "fb_iou", "pair IoU": "pair_iou"}


def score(
    categories: Sequence[str], counts: Counts, *, fixed_categories: bool = False, draws: int = DRAWS, seed: int = 0
) -> Scores:
    """Score answers.

    Args:
        categories: one name per episode.
        counts: (episodes, 4) from `count_pixels`.
        fixed_categories, draws, seed: of the bootstrap, as in `resampled_sums`.

    Raises:
        ValueError: there are no episodes, or not as many as categories.
    """
    rows = counts.reshape(-1, 4)
    values = np.column_stack([rows, foreground_iou(rows), np.ones(len(rows))])
    observed, resampled = resampled_sums(categories, values, fixed_categories=fixed_categories, draws=draws, seed=seed)

    def estimate(metric: str) -> Estimate:
        return Estimate.of(float(_METRICS[metric](observed)), _METRICS[metric](resampled))

    return Scores(estimate("miou"), estimate("fb_iou"), estimate("pair_iou"))


def _miou(sums: Floats) -> Floats:
    return np.asarray(foreground_iou(sums[..., :4]).mean(axis=-1))


def _fb_iou(sums: Floats) -> Floats:
    whole = sums[..., :4].sum(axis=-2)
    return (foreground_iou(whole) + background_iou(whole)) / 2


def _pair_iou(sums: Floats) -> Floats:
    return np.asarray((sums[..., 4] / sums[..., 5]).mean(axis=-1))


_METRICS = {"miou": _miou, "fb_iou": _fb_iou, "pair_iou": _pair_iou}


def average_scores(scores: Sequence[Scores]) -> Scores:
    """The mean over a benchmark's folds.

    Raises:
        ValueError: there are none.
    """
    return Scores(
        average([one.miou for one in scores]),
        average([one.fb_iou for one in scores]),
        average([one.pair_iou for one in scores]),
    )


def class_mean(categories: Sequence[str], values: Sequence[float], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Average by category, so that a common one does not drown the others.

    The interval resamples categories and, within each, its pairs. With one pair per category it is the ordinary mean's.

    Args:
        categories: one name per value.
        values: one score per pair.
        draws: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        ValueError: there are no values, or not as many as categories.
    """
    columns = np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])
    observed, resampled = resampled_sums(categories, columns, fixed_categories=False, draws=draws, seed=seed)
    means = (resampled[..., 0] / resampled[..., 1]).mean(axis=-1)
    return Estimate.of(float((observed[:, 0] / observed[:, 1]).mean()), means)
