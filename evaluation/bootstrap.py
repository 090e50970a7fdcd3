"""Intervals by resampling: what else could the mean have been, had other pictures been drawn?

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 13 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
INTERVAL = (2.5, 97.5)  # percentiles

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval.

    Args:
        mean: of what was observed.
        low, high: ends of the interval.
        samples: (draws,) the resampled means. Two estimates over the same categories with the same seed are resampled
            alike, so their differences are paired.
    """

    mean: float
    low: float
    high: float
    samples: Floats = field(repr=False, compare=False)

    @classmethod
    def of(cls, mean: float, samples: Floats) -> Estimate:
        """The percentile interval of resampled means."""
        low, high = np.percentile(samples, INTERVAL)
        return cls(float(mean), float(low), float(high), samples)

    def __sub__(self, other: Estimate) -> Estimate:
        """The paired difference."""
        return Estimate.of(self.mean - other.mean, self.samples - other.samples)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def average(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, such as those of a benchmark's folds.

    Raises:
        ValueError: there are none.
    """
    if not estimates:
        raise ValueError("got no estimates; there must be at least one")
    # All were resampled with the same seed: the same draws of each would go up and down together.
    samples = [np.roll(one.samples, place) for place, one in enumerate(estimates)]
    return Estimate.of(float(np.mean([one.mean for one in estimates])), np.mean(samples, axis=0))


def resampled_sums(
    categories: Sequence[str], values: Floats, *, fixed_categories: bool, draws: int, seed: int
) -> tuple[Floats, Floats]:
    """Sums by category, as observed and as resampled.

    Each draw takes as many categories as there are, with replacement (unless they are fixed), and within each as many
    of its episodes as it has, with replacement.

    Args:
        categories: one name per episode.
        values: (episodes, K) numbers of each.
        fixed_categories: take every category once in each draw.
        draws: how often to resample.
        seed: the same seed resamples the same way whatever the values are.

    Returns:
        (C, K) observed, categories by name; (draws, C, K) resampled.

    Raises:
        ValueError: there are no episodes, or not as many as categories.
    """
    if not len(values) or len(values) != len(categories):
        raise ValueError(f"got {len(values)} values in {len(categories)} categories; both must be equal and not 0")
    names, which = np.unique(np.array(categories), return_inverse=True)
    groups = [values[which == index] for index in range(len(names))]
    dice = np.random.default_rng(seed)
    # How often each episode is drawn; the sums are then one product per category.
    within = np.stack(
        [dice.multinomial(len(group), np.full(len(group), 1 / len(group)), size=draws) @ group for group in groups], 1
    )
    if not fixed_categories:
        chosen = dice.integers(len(groups), size=(draws, len(groups)))
        within = np.take_along_axis(within, chosen[..., None], axis=1)
    return np.stack([group.sum(axis=0) for group in groups]), within
