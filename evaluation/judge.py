"""Ask a network and the baselines the same questions, and keep what they got right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from evaluation.baselines import BASELINES, Answer
from evaluation.metrics import Counts, Scores, average_scores, count_pixels, foreground_iou, score
from evaluation.questions import Subset

NETWORK = "network"
COPIED = "prompt mask copied"
ANSWERS = (NETWORK, *BASELINES)


@dataclass(frozen=True)
class Result:
    """What was found in one subset with so many examples.

    Args:
        subset: what was asked.
        examples: per question.
        counts: (episodes, 4) pixel counts of each answer, by its name.
    """

    subset: Subset
    examples: int
    counts: Mapping[str, Counts]

    @property
    def categories(self) -> list[str]:
        """Of each episode."""
        return [episode.category for episode in self.subset.episodes]

    def scores(self, answer: str) -> Scores:
        """How well the answers of that name fit."""
        return score(self.categories, self.counts[answer], fixed_categories=self.subset.fixed_categories)

    def by_category(self, answer: str) -> dict[str, float]:
        """Each category's IoU, intersections and unions summed."""
        sums: dict[str, Counts] = {}
        for category, counts in zip(self.categories, self.counts[answer], strict=True):
            sums[category] = sums.get(category, np.zeros(4, dtype=np.int64)) + counts
        return {category: float(foreground_iou(counts)) for category, counts in sums.items()}


def judge(network: Answer, subset: Subset, examples: int = 1) -> Result:
    """Ask everything in a subset; shows its progress where somebody watches.

    Args:
        network: takes a question, returns the marked area.
        subset: what to ask.
        examples: per question.

    Raises:
        DataError: a picture does not fit.
        ValueError: an answer is not of its input image's size.
    """
    answers: dict[str, Callable[..., object]] = {NETWORK: network, **BASELINES}
    counts: dict[str, list[Counts]] = {name: [] for name in answers}
    shown = tqdm(subset.episodes, desc=f"{subset.name}, {examples} example(s)", disable=None)
    for episode in shown:
        question = episode.question(examples)
        for name, answer in answers.items():
            found = np.asarray(answer(question))
            counts[name].append(count_pixels(found, question.area, question.ignored))
    return Result(subset, examples, {name: np.stack(rows) for name, rows in counts.items()})


@dataclass(frozen=True)
class Line:
    """What a table shows of one subset, or of several together.

    Args:
        name: of the subset; "mean of ..." for several.
        examples: per question.
        categories, episodes: how many.
        scores: by answer.
        is_mean: of several subsets.
    """

    name: str
    examples: int
    categories: int
    episodes: int
    scores: Mapping[str, Scores]
    is_mean: bool = False

    @property
    def gain(self) -> Scores:
        """Of the network over the copied prompt mask, episode by episode."""
        return self.scores[NETWORK] - self.scores[COPIED]


def lines_of(results: Sequence[Result]) -> list[Line]:
    """A line per result, and the mean over the folds of a benchmark for each number of examples."""
    lines = [
        Line(
            result.subset.name,
            result.examples,
            len(set(result.categories)),
            len(result.categories),
            {name: result.scores(name) for name in ANSWERS},
        )
        for result in results
    ]
    for examples in dict.fromkeys(result.examples for result in results):
        folds = [
            line
            for line, result in zip(lines, results, strict=True)
            if line.examples == examples and result.subset.fixed_categories
        ]
        if len(folds) > 1:
            lines.append(_mean(folds, examples))
    return lines


def _mean(folds: Sequence[Line], examples: int) -> Line:
    return Line(
        f"mean of {len(folds)} folds",
        examples,
        sum(line.categories for line in folds),
        sum(line.episodes for line in folds),
        {name: average_scores([line.scores[name] for line in folds]) for name in ANSWERS},
        is_mean=True,
    )
