"""`python -m benchmarks document`: the results on disk into docs/performance.md and docs/tuning.md, and their pictures.

So no figure there is written by hand. What has no result keeps what stands there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cpu, doors, gpu, profile, service, stages, tiles, tuning
from benchmarks.plots import draw
from benchmarks.report import ROOT, Machine, Table, stored, write_block

DOCUMENT = ROOT / "docs" / "performance.md"


def _tables(result: dict[str, Any], tables: Sequence[Table]) -> str:
    head = f"Measured {Machine(**result['machine']).line()}."
    return "\n\n".join([head, *(table.markdown() for table in tables)])


BLOCKS: dict[str, Callable[[dict[str, Any]], str]] = {
    "cpu": cpu.markdown,
    "profile": profile.markdown,
    "service": lambda result: _tables(result, service.tables(result)),
    "stages": lambda result: _tables(result, stages.tables(result)),
    "doors": lambda result: _tables(result, doors.tables(result)),
    "tiles": lambda result: _tables(result, tiles.tables(result)),
    "gpu": gpu.markdown,
    "tuning": lambda result: _tables(result, tuning.tables(result)),
}
"""What is written into the block of each name, from the result of that name."""

ELSEWHERE = {"tuning": "tuning.md"}
"""The blocks that stand in another document, beside the first."""


PICTURES = {
    "cpu": ("seconds", "Seconds for one image with one example, both sides, both settings of the allocator"),
    "profile": ("roofline", "Roofline: GFLOP/s of each part over its operations per byte, under the measured roofs"),
    "service": ("latency", "p50 and p99 latency over the offered load, both servers"),
    "tuning": ("tuning", "IoU of the tuned prompt over minutes, and lines for single examples and ensembles"),
}
"""The picture that stands in the block of a result, and what it shows to those who cannot see it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write blocks and pictures, and say which."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks document", description=__doc__)
    parser.add_argument("--path", type=Path, default=DOCUMENT)
    options = parser.parse_args(arguments)
    drawn = {path.stem for path in draw(options.path.parent)}
    for name, content in BLOCKS.items():
        result = stored(name)
        if result:
            picture, shows = PICTURES.get(name, ("", ""))
            image = f"\n\n![{shows}]({picture}.svg)" if picture in drawn else ""
            path = options.path.with_name(ELSEWHERE.get(name, options.path.name))
            write_block(path, name, content(result) + image)
        print(f"{name}: {'written' if result else 'no result'}")
    return 0
