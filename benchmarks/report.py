"""What every measurement has in common: spreads, the machine, tables, results on disk and in the documents."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "runs" / "benchmarks"


@dataclass(frozen=True)
class Spread:
    """Figures of several rounds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def text(self, digits: int = 2) -> str:
        """The median, and the smallest and largest in brackets if there are several."""
        if len(self.values) == 1:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({min(self.values):.{digits}f} to {max(self.values):.{digits}f})"


def ratios(of: Sequence[float], over: Sequence[float]) -> Spread:
    """Quotients of what was measured in the same rounds."""
    return Spread(tuple(mine / theirs for mine, theirs in zip(of, over, strict=True)))


@dataclass(frozen=True)
class Machine:
    """Where and when something was measured, and by which command."""

    date: str
    processor: str
    cores: int
    memory_gb: float
    torch: str
    command: str

    def line(self) -> str:
        """One line for the head of a report."""
        memory = f"{self.memory_gb:.0f} GB"
        return f"{self.date}, {self.processor}, {self.cores} cores, {memory}, torch {self.torch}; `{self.command}`"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def this_machine(command: str | None = None) -> Machine:
    """This one, now; `command` is by default the one that runs."""
    if command is None:
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    return Machine(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        processor=_processor(),
        cores=cores(),
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        torch=torch.__version__,
        command=command,
    )


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """The maker's name, family and model: cloud machines often hide the rest of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = known.get("model name", platform.machine())
    if "cpu family" in known and "model" in known:
        name += f" (family {known['cpu family']}, model {known['model']})"
    return name


@dataclass(frozen=True)
class Table:
    """Rows of text under a head; the first column is aligned left, the others right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """For a terminal."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        lines.insert(1, ["-" * width for width in widths])
        return "\n".join("  ".join(_aligned(line, widths)).rstrip() for line in lines)

    def markdown(self) -> str:
        """For the documents."""
        marks = ["---", *["---:"] * (len(self.head) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (self.head, marks, *self.rows))


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]


def store(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result as JSON and give its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def stored(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The result of that name from an earlier run; empty if there is none."""
    path = folder / f"{name}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return result


def write_block(document: Path, name: str, content: str) -> None:
    """Replace what stands between a document's `<!-- begin NAME -->` and `<!-- end NAME -->`.

    Raises:
        ValueError: the document has no such block, or several.
    """
    text = document.read_text()
    pattern = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
    written, count = pattern.subn(lambda block: f"{block[1]}{content.strip()}\n{block[2]}", text)
    if count != 1:
        raise ValueError(f"{document} has {count} blocks named {name!r}; it must have one")
    document.write_text(written)
