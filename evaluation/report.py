"""A result as one HTML page that needs nothing beside it: figures, plots and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from evaluation.bootstrap import Estimate
from evaluation.judge import ANSWERS, COPIED, NETWORK, Line, Result
from evaluation.metrics import METRICS
from evaluation.pictures import GREEN, ORANGE, outlined, shown_size
from evaluation.plots import COLOURS, bars, curve
from evaluation.questions import Area
from evaluation.showcase import Case
from evaluation.style import STYLE
from evaluation.tables import COLUMNS, estimate_of, shown_metrics

_KINDS = {
    "best": "Where it does best",
    "median": "Ordinary ones: around the median",
    "worst": "Where it fails",
}
_METRIC_NOTES = (
    "<b>mIoU</b>: intersections and unions summed over a category's episodes, then divided; mean over categories. "
    "<b>FB-IoU</b>: the same of foreground and of background over all episodes; mean of the two. "
    "<b>pair IoU</b>: mean of the episodes' own IoU in a category; mean over categories."
)
_INTERVAL_NOTES = (
    "Under each mean its 95 % bootstrap interval: categories are drawn anew, and episodes in each; in the folds of a "
    "benchmark the episodes alone. The last column is resampled in pairs."
)


def report(
    title: str,
    facts: Mapping[str, str],
    results: Sequence[Result],
    lines: Sequence[Line],
    cases: Mapping[str, Sequence[Case]],
) -> str:
    """The page.

    Args:
        title: what was measured.
        facts: how, by name: checkpoint, data, seed, ...
        results: of every subset and number of examples.
        lines: the table's, from `lines_of(results)`.
        cases: pictures to show, from `choose`.
    """
    named = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    body = [
        f"<header><h1>{escape(title)}</h1><dl>{named}</dl></header>",
        f"<section><h2>Scores</h2>{_table(lines)}<p class='note'>{_METRIC_NOTES}</p>",
        f"<p class='note'>{_INTERVAL_NOTES}</p></section>",
        _curves(lines),
        _categories(results),
        *(_gallery(kind, shown) for kind, shown in cases.items()),
    ]
    return (
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _cell(estimate: Estimate, mark: str = "") -> str:
    return f"<td{mark}>{estimate.mean:.3f}<small>{estimate.low:.3f} to {estimate.high:.3f}</small></td>"


def _table(lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        metrics = shown_metrics(line)
        span = f" rowspan='{len(metrics)}'"
        facts = (line.examples, line.categories, line.episodes)
        start = f"<th scope='rowgroup'{span}>{escape(line.name)}</th>" + "".join(f"<td{span}>{n}</td>" for n in facts)
        for title, metric in metrics.items():
            scores = {name: estimate_of(line.scores[name], metric) for name in ANSWERS}
            best = max(one.mean for one in scores.values())
            cells = "".join(_cell(one, " class='best'" if one.mean == best else "") for one in scores.values())
            gain = _cell(estimate_of(line.gain, metric))
            rows.append(f"<tr>{start}<th scope='row'>{title}</th>{cells}{gain}</tr>")
            start = ""
        rows[-len(metrics)] = rows[-len(metrics)].replace("<tr>", "<tr class='first'>", 1)
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in COLUMNS)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def curves_of(lines: Sequence[Line], metric: str) -> dict[str, str]:
    """An SVG for each set that was asked with several numbers of examples, by the set's name.

    Args:
        lines: the table's.
        metric: "miou", "fb_iou" or "pair_iou".
    """
    drawn = {}
    title = next(title for title, name in METRICS.items() if name == metric)
    for name in dict.fromkeys(line.name for line in lines):
        own = [line for line in lines if line.name == name]
        if len(own) > 1:
            series = {
                answer: {line.examples: estimate_of(line.scores[answer], metric) for line in own} for answer in ANSWERS
            }
            drawn[name] = curve(series, f"{title} of {name} over the number of examples", title)
    return drawn


def _curves(lines: Sequence[Line]) -> str:
    figures = [
        f"<figure class='plot'>{svg}<figcaption>{escape(name)}</figcaption></figure>"
        for name, svg in curves_of(lines, "miou").items()
    ]
    return f"<section><h2>Over the number of examples</h2>{''.join(figures)}</section>" if figures else ""


def _categories(results: Sequence[Result]) -> str:
    figures = []
    for result in results:
        values = result.by_category(NETWORK)
        if 1 < len(values) < len(result.categories):  # bars of categories with one episode each say little
            title = f"{result.subset.name}, {result.examples} example{'s' * (result.examples > 1)}"
            svg = bars(values, result.by_category(COPIED), f"IoU by category: {title}")
            figures.append(
                f"<figure class='plot'><figcaption>{escape(title)}</figcaption><div class='tall'>{svg}</div></figure>"
            )
    if not figures:
        return ""
    legend = (
        f"<p class='note'>IoU with intersections and unions summed: <b style='color:{COLOURS[0]}'>bar</b> network, "
        f"<b style='color:{COLOURS[1]}'>tick</b> prompt mask copied.</p>"
    )
    return f"<section><h2>By category</h2>{legend}<div class='plots'>{''.join(figures)}</div></section>"


def _picture(case: Case, label: str, area: Area | None, colour: tuple[int, int, int] = GREEN) -> str:
    return _figure(label, outlined(case.question.image, area, colour), *shown_size(case.question.image))


def _figure(label: str, source: str, height: int, width: int) -> str:
    return (
        f"<figure><img src='{source}' width='{width}' height='{height}' alt='{escape(label, quote=True)}' "
        f"loading='lazy'><figcaption>{escape(label)}</figcaption></figure>"
    )


def _gallery(kind: str, cases: Sequence[Case]) -> str:
    rows = []
    for case in cases:
        prompts = "".join(
            _figure("example", outlined(example.image, example.area), *shown_size(example.image))
            for example in case.question.examples
        )
        rows.append(
            f"<article><h3><span class='iou'>{case.iou:.3f}</span> {escape(case.question.category)} "
            f"<small>{escape(case.subset)}</small></h3><div class='row'>{prompts}<span class='arrow'>→</span>"
            f"{_picture(case, 'input', None)}{_picture(case, 'wanted', case.question.area)}"
            f"{_picture(case, 'found', case.found, ORANGE)}</div></article>"
        )
    return f"<section class='gallery'><h2>{_KINDS[kind]}</h2>{''.join(rows)}</section>"
