"""The documents' pictures, from the results on disk; what was not measured is not drawn.

SVG on no ground, in colours that are legible on white and on black.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from benchmarks.child import MALLOCS
from benchmarks.contenders import OURS, THEIRS
from benchmarks.profile import figures
from benchmarks.report import Spread, stored
from model.config import SegGptConfig

INK = "#7d8590"
COLOURS = ("#3b82f6", "#e8710a", "#1f9d55", "#c0469b", "#8b6cef", "#b58900")
STYLE: Any = {
    "svg.hashsalt": "seggpt",  # equal results give equal files
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
}
LEAST, MOST = 10, 2000  # operations per byte
BESIDE = {
    "mlp": ((-9, 0), "right", "center"),
    "qkv": ((8, -4), "left", "center"),
    "decoder linear": ((0, 5), "center", "bottom"),
    "embedding": ((0, 5), "center", "bottom"),
}
"""Where a part's name stands when not below its mark: (offset in points, horizontally, vertically)."""
MARKERS = {"float32": "o", "bfloat16": "s", "int8": "D"}


def roofline(results: dict[str, Any]) -> Figure:
    """GFLOP/s over operations per byte, each mode's parts under its roof; areas as the shares of time."""
    figure = Figure(figsize=(8, 5))
    axes = figure.add_subplot()
    peaks, config = results["peaks"], SegGptConfig()
    for (mode, result), colour in zip(results["modes"].items(), COLOURS, strict=False):
        corner = peaks[mode] / peaks["memory"]
        ridge = [LEAST, corner, MOST]
        axes.plot(ridge, [min(peaks[mode], peaks["memory"] * x) for x in ridge], color=colour, linewidth=1)
        axes.annotate(
            f"{mode}, {peaks[mode]:.0f}",
            (MOST, peaks[mode]),
            (0, 3),
            textcoords="offset points",
            ha="right",
            color=colour,
        )
        for row in figures(mode, result, peaks, config):
            if not row["gflop"]:
                continue
            place = row["flop_per_byte"], row["gflop_per_s"]
            size = max(12, 1200 * row["share"])
            axes.scatter(*place, s=size, marker=MARKERS[mode], color=colour, alpha=0.6, linewidths=0)
            offset, across, up = BESIDE.get(row["part"], ((0, -7), "center", "top"))
            axes.annotate(
                row["part"],
                place,
                offset,
                textcoords="offset points",
                fontsize=7,
                ha=across,
                va=up,
                annotation_clip=True,
            )
    axes.set(xscale="log", yscale="log", xlim=(LEAST, MOST), xlabel="operations per byte moved", ylabel="GFLOP/s")
    for axis, ticks in ((axes.xaxis, (10, 30, 100, 300, 1000)), (axes.yaxis, (100, 200, 400, 800, 1600))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())
    axes.set_title(f"Parts of one forward; area: share of its time; memory {peaks['memory']:.0f} GB/s", fontsize=10)
    return figure


def latency(rows: Sequence[dict[str, Any]]) -> Figure:
    """p50 (line) and p99 (dashes) over the offered load, per system; a cross where requests were refused."""
    figure = Figure(figsize=(8, 4.5))
    axes = figure.add_subplot()
    systems = list(dict.fromkeys(row["system"] for row in rows))
    for system, colour in zip(systems, COLOURS, strict=False):
        points = sorted((row for row in rows if row["system"] == system), key=lambda row: row["offered_per_s"])
        offered = [row["offered_per_s"] for row in points]
        for quantile, dashes in (("p50_ms", "-"), ("p99_ms", "--")):
            label = f"{system}, {quantile[:3]}"
            axes.plot(offered, [row[quantile] for row in points], dashes, color=colour, marker=".", label=label)
        refused = [row for row in points if row["refused"]]
        places = [row["offered_per_s"] for row in refused], [row["p99_ms"] for row in refused]
        axes.scatter(*places, s=60, color=colour, marker="x")
    axes.set(yscale="log", xlabel="requests offered per second", ylabel="latency, ms", xlim=(0, None))
    axes.legend(title="cross: some were refused" if any(row["refused"] for row in rows) else None)
    return figure


def seconds(results: dict[str, Any]) -> Figure:
    """Bars: seconds for one image with one example, each system under both settings of the allocator."""
    figure = Figure(figsize=(8, 3.6))
    axes = figure.add_subplot()
    names = [*THEIRS, *OURS]
    for offset, (malloc, colour) in enumerate(zip(MALLOCS, COLOURS, strict=False)):
        systems = results.get(malloc, {}).get("systems", {})
        for row, name in enumerate(names):
            if name in systems:
                spread = Spread(tuple(systems[name]["seconds"]))
                _bar(axes, row + 0.4 * offset - 0.2, spread, colour, malloc if row == 0 else None)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="seconds for one image with one example, ViT-L (median; lines: smallest to largest)")
    axes.legend(loc="lower right")
    return figure


def _bar(axes: Axes, place: float, spread: Spread, colour: str, label: str | None) -> None:
    middle = spread.median
    error = [[middle - min(spread.values)], [max(spread.values) - middle]]
    axes.barh(place, middle, 0.38, xerr=error, color=colour, ecolor=INK, label=label)
    axes.annotate(
        f"{middle:.1f}", (max(spread.values), place), (4, 0), textcoords="offset points", va="center", fontsize=8
    )


def tuning(result: dict[str, Any]) -> Figure:
    """IoU on the judging pictures over minutes, a line for each number of learned pairs; examples as level lines."""
    figure = Figure(figsize=(8, 4))
    axes = figure.add_subplot()
    for (prompts, points), colour in zip(result["curves"].items(), COLOURS, strict=False):
        minutes, scores = [point["seconds"] / 60 for point in points], [point["iou"] for point in points]
        label = "tuned prompt" if prompts == "1" else f"tuned ensemble of {prompts}"
        axes.plot(minutes, scores, color=colour, marker=".", label=label)
    single = result["single"]
    levels = {"best single example": max(single), "median single example": statistics.median(single)}
    levels |= {f"ensemble of {size}": statistics.median(scores) for size, scores in result["ensembles"].items()}
    for (label, level), dashes in zip(levels.items(), ("--", ":", "-.", (0, (1, 3))), strict=False):
        axes.axhline(level, color=INK, linewidth=1, linestyle=dashes, label=label)
    axes.set(xlabel=f"minutes, threads: {result['threads']}", ylabel="IoU on other pictures", xlim=(0, None))
    axes.legend(loc="lower right", ncols=2)
    return figure


def draw(folder: Path) -> list[Path]:
    """Draw what there are results for, into this folder."""
    profile, cpu, service, tuned = (stored(name) for name in ("profile", "cpu", "service", "tuning"))
    with mpl.rc_context(STYLE):
        drawn: dict[str, Figure] = {}
        if profile.get("modes"):
            drawn["roofline"] = roofline(profile)
        if cpu.keys() & MALLOCS.keys():
            drawn["seconds"] = seconds(cpu)
        if service.get("load"):
            drawn["latency"] = latency(service["load"])
        if tuned.get("curves"):
            drawn["tuning"] = tuning(tuned)
        for name, figure in drawn.items():
            figure.savefig(folder / f"{name}.svg", transparent=True, metadata={"Date": None})
    return [folder / f"{name}.svg" for name in drawn]
