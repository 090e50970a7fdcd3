"""Results as Markdown, for terminals and model cards."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.bootstrap import Estimate
from evaluation.judge import ANSWERS, Line
from evaluation.metrics import METRICS, Scores

COLUMNS = ("set", "examples", "categories", "episodes", "metric", *ANSWERS, "network over copied")


def shown_metrics(line: Line) -> dict[str, str]:
    """Metrics of a line by title; where every episode is its own category, mIoU is the pair IoU and is left out."""
    return {title: name for title, name in METRICS.items() if name != "miou" or line.categories < line.episodes}


def estimate_of(scores: Scores, metric: str) -> Estimate:
    """One metric of several."""
    estimate = getattr(scores, metric)
    assert isinstance(estimate, Estimate)
    return estimate


def markdown(lines: Sequence[Line]) -> str:
    """A row per line and metric; each cell is a mean with its 95 % interval."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for line in lines:
        for title, metric in shown_metrics(line).items():
            scores = [estimate_of(line.scores[name], metric) for name in ANSWERS]
            facts = (line.name, line.examples, line.categories, line.episodes, title)
            rows.append((*map(str, facts), *map(str, scores), str(estimate_of(line.gain, metric))))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
