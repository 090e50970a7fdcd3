"""Two plots as SVG, written by hand: bars of categories, and the score over the number of examples.

On no ground and in colours that are legible on white and on black, so that they serve a report and a README alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from evaluation.bootstrap import Estimate

INK = "#7d8590"
COLOURS = ("#3b82f6", "#e8710a", "#1f9d55", "#c0469b")
FONT = "font-family='system-ui, sans-serif' font-size='12'"
_ROW, _LABEL, _BAR = 20, 190, 420
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 660, 340, 46, 190, 16, 44


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' width='{width:g}' "
        f"height='{height:g}' role='img' {FONT}><title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = INK) -> str:
    return f"<text x='{x:g}' y='{y:g}' text-anchor='{anchor}' fill='{colour}'>{escape(text)}</text>"


def _line(start: tuple[float, float], end: tuple[float, float], colour: str = INK, more: str = "") -> str:
    (x1, y1), (x2, y2) = start, end
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' {more}/>"


def bars(values: Mapping[str, float], beside: Mapping[str, float], title: str) -> str:
    """A horizontal bar for each category, longest first, with a tick where a baseline is.

    Args:
        values: in [0, 1], by category.
        beside: the baseline's, of the same categories.
        title: for those who cannot see it.
    """
    parts = []
    for row, (category, value) in enumerate(sorted(values.items(), key=lambda item: (-item[1], item[0]))):
        top = row * _ROW
        short = category if len(category) <= 28 else category[:27] + "…"
        tick = _LABEL + _BAR * beside[category]
        parts += [
            _text(_LABEL - 8, top + 14, short, "end"),
            f"<rect x='{_LABEL}' y='{top + 3}' width='{_BAR}' height='14' rx='3' fill='{INK}' fill-opacity='.15'/>",
            f"<rect x='{_LABEL}' y='{top + 3}' width='{_BAR * value:.1f}' height='14' rx='3' fill='{COLOURS[0]}'/>",
            _line((tick, top + 2), (tick, top + 18), COLOURS[1], "stroke-width='3'"),
            _text(_LABEL + _BAR + 8, top + 14, f"{value:.3f}"),
        ]
    return _svg(_LABEL + _BAR + 56, len(values) * _ROW, title, parts)


def curve(series: Mapping[str, Mapping[int, Estimate]], title: str, metric: str) -> str:
    """A line for each answer over the number of examples, with its interval.

    Args:
        series: by name, then by number of examples.
        title: for those who cannot see it.
        metric: the vertical axis.
    """
    ticks = sorted({count for points in series.values() for count in points})
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    step = (right - _LEFT) / max(1, len(ticks) - 1)

    def place(count: int, value: float) -> tuple[float, float]:
        return _LEFT + ticks.index(count) * step, bottom - max(0.0, min(1.0, value)) * (bottom - _TOP)

    parts = [_text(_LEFT, _HEIGHT - 6, f"examples (steps evenly apart); {metric} with 95 % intervals")]
    for fifth in range(6):
        height = place(ticks[0], fifth / 5)[1]
        parts += [_line((_LEFT, height), (right, height), INK, "stroke-opacity='.3'")]
        parts += [_text(_LEFT - 8, height + 4, f"{fifth / 5:.1f}", "end")]
    parts += [_text(place(count, 0)[0], bottom + 18, str(count), "middle") for count in ticks]
    ends = _apart({name: place(max(points), points[max(points)].mean)[1] for name, points in series.items()})
    for colour, (name, points) in zip(COLOURS, series.items(), strict=True):
        ordered = sorted(points.items())
        path = " ".join("{:.1f},{:.1f}".format(*place(count, one.mean)) for count, one in ordered)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        for count, one in ordered:
            x, y = place(count, one.mean)
            parts.append(_line(place(count, one.low), place(count, one.high), colour, "stroke-width='1.5'"))
            parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>")
        parts.append(_text(right + 12, ends[name] + 4, f"{name} {points[max(points)].mean:.3f}", "start", colour))
    return _svg(_WIDTH, _HEIGHT, title, parts)


def _apart(heights: Mapping[str, float], least: float = 15) -> dict[str, float]:
    """Move labels that would overlap down until they do not."""
    placed: dict[str, float] = {}
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        above = max(placed.values(), default=-least)
        placed[name] = max(height, above + least)
    return placed
