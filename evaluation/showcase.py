"""Which episodes a report shows: the best, those in the middle and the worst, by the network's own IoU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.baselines import Answer
from evaluation.judge import NETWORK, Result
from evaluation.metrics import foreground_iou
from evaluation.questions import Area, Question

SHOWN = 6  # of each kind


@dataclass(frozen=True)
class Case:
    """One episode, answered again.

    Args:
        subset: its name.
        question: with pictures.
        found: (H, W) bool, the network's answer.
        iou: of that answer.
    """

    subset: str
    question: Question
    found: Area
    iou: float


def choose(results: Sequence[Result], network: Answer, shown: int = SHOWN) -> dict[str, list[Case]]:
    """Rank all episodes and answer the chosen ones again.

    Args:
        results: all with the same number of examples.
        network: the same that was judged.
        shown: how many of each kind; fewer where there are not three times as many episodes.

    Returns:
        "best", "median" and "worst", each from high to low.
    """
    ious = np.concatenate([foreground_iou(result.counts[NETWORK]) for result in results])
    places = [(result, index) for result in results for index in range(len(result.subset.episodes))]
    order = np.argsort(-ious, kind="stable")
    count = max(1, min(shown, len(order) // 3))
    middle = (len(order) - count) // 2
    kinds = {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:]}

    def case(place: int) -> Case:
        result, index = places[place]
        question = result.subset.episodes[index].question(result.examples)
        return Case(result.subset.name, question, network(question), float(ious[place]))

    return {kind: [case(int(place)) for place in chosen] for kind, chosen in kinds.items()}
