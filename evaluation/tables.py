"""Results as Markdown, for terminals and model cards."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.bootstrap import Estimate
from evaluation.judge import ANSWERS, NETWORK, Line
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
    """A row per line and metric; each cell is a mean with its 95 % interval.

    Where the same questions were asked with several numbers of examples, a last column has what more examples than the
    fewest gain, question by question.
    """
    fewest = min(line.examples for line in lines)
    base = {line.name: line.scores[NETWORK] for line in lines if line.examples == fewest}
    more = (
        (f"network over {fewest} example{'s' * (fewest > 1)}",) if any(line.examples > fewest for line in lines) else ()
    )
    columns = COLUMNS + more
    rows = [columns, ("---",) * len(columns)]
    for line in lines:
        gains = [line.gain, *([line.scores[NETWORK] - base[line.name]] if more else [])]
        for title, metric in shown_metrics(line).items():
            scores = [estimate_of(each, metric) for each in (*(line.scores[name] for name in ANSWERS), *gains)]
            facts = (line.name, line.examples, line.categories, line.episodes, title)
            rows.append((*map(str, facts), *map(str, scores)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
