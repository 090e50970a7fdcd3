"""Intersection over union, and what can be said of a mean of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def intersection_over_union(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Of two (H, W) masks; 1 where both are empty."""
    either = int(np.count_nonzero(found | wanted))
    return 1.0 if either == 0 else int(np.count_nonzero(found & wanted)) / either


@dataclass(frozen=True)
class ClassMean:
    """Mean over categories of the mean over their pairs, in [0, 1], with a 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f}-{self.high:.3f})"


def class_mean(categories: Sequence[str], values: Sequence[float], draws: int = 2000, seed: int = 0) -> ClassMean:
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
    if not values or len(values) != len(categories):
        raise ValueError(f"got {len(values)} values in {len(categories)} categories; both must be equal and not 0")
    by_name: dict[str, list[float]] = {}
    for name, value in zip(categories, values, strict=True):
        by_name.setdefault(name, []).append(value)
    groups = [np.array(group) for group in by_name.values()]
    dice = np.random.default_rng(seed)
    within = np.stack([group[dice.integers(len(group), size=(draws, len(group)))].mean(1) for group in groups], 1)
    chosen = dice.integers(len(groups), size=(draws, len(groups)))
    low, high = np.percentile(np.take_along_axis(within, chosen, 1).mean(1), [2.5, 97.5])
    return ClassMean(float(np.mean([group.mean() for group in groups])), float(low), float(high))
