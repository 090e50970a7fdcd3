"""`python -m benchmarks profile`: where the time of one forward goes, and how near each part comes to what is possible.

Modules are timed by hooks around their calls, the inside of the attention kernel by wrappers around its product and its
pass; both cost microseconds where a part takes milliseconds, and the table says what the forward took without them.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from benchmarks.child import MALLOCS, in_child
from benchmarks.contenders import MODES, network, ours, question, vit_large
from benchmarks.flops import Request, forward_gflop, forward_gigabytes
from benchmarks.report import Machine, Table, cores, store, stored, this_machine
from model.config import SegGptConfig
from model.kernels import linear

PLACES = (
    (r"model\.embeddings\.patch_embeddings", "embedding"),
    (r"model\.encoder\.(layers\.\d+\.)?layernorm\w*", "layernorm and sum"),
    (r"model\.encoder\.layers\.\d+\.attention\.qkv", "qkv"),
    (r"model\.encoder\.layers\.\d+\.attention\.proj", "proj"),
    (r"model\.encoder\.layers\.\d+\.attention", "attention, rest"),
    (r"model\.encoder\.layers\.\d+\.(mlp|lin1|lin2)", "mlp"),
    (r"decoder\.(decoder_embed|lowest_embed)", "decoder linear"),
    (r"decoder\.decoder_pred\.conv", "decoder convolution"),
    (r"decoder\.decoder_pred", "decoder norm, gelu, colours"),
    (r"", "rest"),
)
"""Modules by name, and the part that their own time, without that of modules within them, belongs to."""
INSIDE = {"products": "attention products", "softmax": "softmax pass"}
"""What a kernel's module calls its products and its pass. The position terms are products among the others."""
PASSES = {"quantise_rows": "int8 to and fro", "rescale_rows": "int8 to and fro"}
"""What linear layers call beside their product, by its name in `model.kernels.linear`."""
PARTS = tuple(dict.fromkeys((*(part for _, part in PLACES), *INSIDE.values(), *PASSES.values())))
_IN_MODE = {"qkv", "proj", "mlp", "decoder linear"}  # int8 is the linear layers' precision only


@dataclass
class Stopwatch:
    """Seconds per part; a part within a part is not counted twice."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _open: list[list[float]] = field(default_factory=list)

    def begin(self) -> None:
        """Enter a part."""
        self._open.append([time.perf_counter(), 0.0])

    def end(self, part: str) -> float:
        """Leave the part that was entered last; gives its seconds with those of the parts within it."""
        start, within = self._open.pop()
        took = time.perf_counter() - start
        self.seconds[part] += took - within
        if self._open:
            self._open[-1][1] += took
        return took


def part_of(name: str) -> str | None:
    """The part that a module of this name belongs to; None for modules that are not timed by themselves."""
    return next((part for pattern, part in PLACES if re.fullmatch(pattern, name)), None)


@contextmanager
def watched(model: nn.Module, watch: Stopwatch) -> Iterator[None]:
    """Time the model's parts, until the context ends."""
    with ExitStack() as undo:
        for name, module in model.named_modules():
            part = part_of(name)
            if part is None:
                continue
            undo.callback(module.register_forward_pre_hook(lambda *_: watch.begin()).remove)
            undo.callback(module.register_forward_hook(lambda *_, part=part: watch.end(part) and None).remove)
        attentions: list[Any] = [module for module in model.modules() if getattr(module, "kernel", None) is not None]
        kernels = {type(module.kernel).__module__ for module in attentions}
        inside: dict[str, list[float]] = defaultdict(list)
        for name in kernels:
            _watch_inside(sys.modules[name], inside, undo)
        for name, part in PASSES.items():
            undo.callback(setattr, linear, name, getattr(linear, name))
            setattr(linear, name, _timed_pass(getattr(linear, name), watch, part))
        for module in attentions:
            undo.callback(setattr, module, "kernel", module.kernel)
            module.kernel = _TimedKernel(module.kernel, watch, inside)
        yield


def _timed_pass(function: Callable[..., Any], watch: Stopwatch, part: str) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        watch.begin()
        result = function(*arguments, **named)
        watch.end(part)
        return result

    return call


class _TimedKernel:
    """A kernel whose time is divided among what it calls; it may call that on several threads at once."""

    def __init__(self, kernel: Callable[..., Any], watch: Stopwatch, inside: dict[str, list[float]]) -> None:
        self._kernel, self._watch, self._inside = kernel, watch, inside
        self.name = getattr(kernel, "name", type(kernel).__name__)

    def __call__(self, *arguments: Any) -> Any:
        for spans in self._inside.values():
            spans.clear()
        self._watch.begin()
        result = self._kernel(*arguments)
        took = self._watch.end("attention, rest")
        threads = sum(self._inside["whole"]) or 1.0
        for part in INSIDE.values():
            share = took * sum(self._inside[part]) / threads
            self._watch.seconds[part] += share
            self._watch.seconds["attention, rest"] -= share
        return result


def _watch_inside(module: ModuleType, inside: dict[str, list[float]], undo: ExitStack) -> None:
    """Replace a kernel module's products, passes and thread pool by ones that note their seconds."""

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            inside[part].append(time.perf_counter() - start)  # appending is safe from several threads
            return result

        return call

    for name, part in INSIDE.items():
        known = getattr(module, name, None)
        if known is not None:
            undo.callback(setattr, module, name, known)
            setattr(module, name, timed(known, part))
    run_all = getattr(module, "run_all", None)
    if run_all is not None:
        undo.callback(setattr, module, "run_all", run_all)
        module.run_all = lambda piece, count: run_all(timed(piece, "whole"), count)  # type: ignore[attr-defined]


def profile(mode: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds per part of a known prompt's forward: the median round of those that were watched.

    Args:
        mode: float32, bfloat16 or int8.
        folder: the checkpoint.
        rounds: forwards that are watched; as many more run unwatched, in turn with them.
    """
    torch.set_num_threads(cores())
    model = network(folder, mode)
    ask, answer = question(model.config), ours(folder, mode)
    answer(ask)
    plain: list[float] = []
    spread: list[tuple[float, dict[str, float]]] = []
    for _ in range(rounds):
        start = time.perf_counter()
        answer(ask)
        plain.append(time.perf_counter() - start)
        watch = Stopwatch()
        with watched(model, watch):
            start = time.perf_counter()
            answer(ask)
            spread.append((time.perf_counter() - start, dict(watch.seconds)))
    took, parts = sorted(spread, key=lambda one: one[0])[(rounds - 1) // 2]
    return {"plain_s": sorted(plain)[(rounds - 1) // 2], "watched_s": took, "parts": parts}


def figures(
    mode: str, result: dict[str, Any], peaks: Mapping[str, float], config: SegGptConfig
) -> list[dict[str, Any]]:
    """Per part: seconds, share, GFLOP, GFLOP/s, operations per byte, and the roof there; the largest share first."""
    request = Request(known_prompt=True, shared_input=True)
    gflop = _of_profile(forward_gflop(config, request))
    traffic = {size: _of_profile(forward_gigabytes(config, request, size)) for size in (1, 2, 4)}
    found = []
    for part in PARTS:
        seconds = result["parts"].get(part, 0.0)
        if seconds <= 0:
            continue
        precision = mode if mode != "int8" or part in _IN_MODE else "bfloat16"
        row = {"part": part, "seconds": seconds, "share": seconds / result["watched_s"], "gflop": gflop.get(part, 0.0)}
        if row["gflop"]:
            row["gflop_per_s"] = row["gflop"] / seconds
            size = {"float32": 4, "bfloat16": 2, "int8": 1}[precision]
            row["flop_per_byte"] = row["gflop"] / traffic[size][part]
            row["roof_gflop_per_s"] = min(peaks[precision], peaks["memory"] * row["flop_per_byte"])
        found.append(row)
    return sorted(found, key=lambda row: -row["seconds"])


def _of_profile(parts: Mapping[str, float]) -> dict[str, float]:
    """Counts by the parts that are timed: a kernel's position terms are among its products."""
    merged = dict(parts)
    merged["attention products"] += merged.pop("position terms")
    return merged


def table(mode: str, result: dict[str, Any], peaks: Mapping[str, float], config: SegGptConfig) -> Table:
    """One mode's profile."""
    rows = []
    for row in figures(mode, result, peaks, config):
        cells = [row["part"], f"{1000 * row['seconds']:.0f}", f"{100 * row['share']:.1f} %"]
        if row["gflop"]:
            rate, roof = row["gflop_per_s"], row["roof_gflop_per_s"]
            cells += [f"{row['gflop']:.1f}", f"{rate:.0f}", f"{row['flop_per_byte']:.0f}", f"{100 * rate / roof:.0f} %"]
        rows.append([*cells, *[""] * (7 - len(cells))])
    gflop = sum(forward_gflop(config, Request(known_prompt=True, shared_input=True)).values())
    whole = result["watched_s"]
    rows.append(["whole forward", f"{1000 * whole:.0f}", "100 %", f"{gflop:.1f}", f"{gflop / whole:.0f}", "", ""])
    rows.append(
        ["the same, not watched", f"{1000 * result['plain_s']:.0f}", "", "", f"{gflop / result['plain_s']:.0f}", "", ""]
    )
    return Table([mode, "ms", "share", "GFLOP", "GFLOP/s", "FLOP/byte", "of the roof"], rows)


def markdown(results: dict[str, Any]) -> str:
    """For docs/performance.md."""
    peaks = results["peaks"]
    rates = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in peaks.items() if name != "memory")
    lines = [
        f"Measured {Machine(**results['machine']).line()}.",
        f"The machine's roofs: {rates}, memory {peaks['memory']:.0f} GB/s.",
    ]
    tables = [table(mode, result, peaks, SegGptConfig()).markdown() for mode, result in results["modes"].items()]
    return "\n\n".join(["\n".join(lines), *tables])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks profile", description=__doc__)
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    parser.add_argument("--malloc", choices=list(MALLOCS), default="tuned malloc")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    folder = str(vit_large())
    results = {"modes": {}, **stored("profile"), "machine": this_machine().to_dict()}
    peaks = in_child(options.malloc, "peaks", *MODES, "--folder", folder)
    for mode in options.modes:
        asked = ("profile", mode, "--folder", folder, "--rounds", str(options.rounds))
        results["modes"][mode] = in_child(options.malloc, *asked)
    # Before and after, because other work on the machine can only make it look slower than it is.
    again = in_child(options.malloc, "peaks", *MODES, "--folder", folder)
    results["peaks"] = {name: max(peaks[name], again[name]) for name in peaks}
    store("profile", results)
    for mode in options.modes:
        print(f"\n{table(mode, results['modes'][mode], results['peaks'], SegGptConfig()).text()}")
    return 0
