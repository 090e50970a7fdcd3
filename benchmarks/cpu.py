"""`python -m benchmarks cpu`: this project's CPU modes beside transformers, same weights, same run.

ViT-L shape with random weights, one input image and one example that is known already unless said. Each setting of the
allocator has a process of its own, in which all systems answer in turn; figures are medians (smallest to largest).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.child import MALLOCS, in_child
from benchmarks.contenders import NEW_PROMPT, OURS, THEIRS, vit_large
from benchmarks.flops import Request, forward_gflop, reference_gflop
from benchmarks.report import Machine, Spread, Table, ratios, store, stored, this_machine
from model.checkpoint import BUNDLED
from model.config import SegGptConfig
from model.inference import native_precision

BASE = "transformers float32"
PARTS = ("default malloc", "tuned malloc", "memory", "bundled", "ensembles")
ENSEMBLE_MODES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Goal:
    """A figure that is to be reached.

    Args:
        name: what it is about.
        wanted: the bound.
        of: finds the figure in the results; KeyError when it was not measured.
        is_lower_better: whether the bound is one from above.
    """

    name: str
    wanted: float
    of: Callable[[dict[str, Any]], float]
    is_lower_better: bool = False


def _faster(mode: str, over: str, malloc: str) -> Callable[[dict[str, Any]], float]:
    def of(results: dict[str, Any]) -> float:
        systems = results[malloc]["systems"]
        return ratios(systems[over]["seconds"], systems[f"ours {mode}"]["seconds"]).median

    return of


def _error(mode: str, malloc: str = "tuned malloc") -> Callable[[dict[str, Any]], float]:
    return lambda results: float(results[malloc]["systems"][f"ours {mode}"]["relative_rms"])


def _goals() -> list[Goal]:
    goals = []
    for mode, default, tuned in (("float32", 3.0, 2.2), ("bfloat16", 6.0, 4.3), ("int8", 8.0, 6.0)):
        goals.append(Goal(f"{mode} over {BASE}, default malloc", default, _faster(mode, BASE, "default malloc")))
        goals.append(Goal(f"{mode} over {BASE}, tuned malloc", tuned, _faster(mode, BASE, "tuned malloc")))
    for mode in ("bfloat16", "int8"):
        theirs = f"transformers {mode}"
        goals += [Goal(f"{mode} over {theirs}, {malloc}", 2.2, _faster(mode, theirs, malloc)) for malloc in MALLOCS]
    for mode, error in (("float32", 1e-5), ("bfloat16", 1e-2), ("int8", 4e-2)):
        goals.append(Goal(f"{mode}, relative rms of the answer", error, _error(mode), is_lower_better=True))
    for mode, iou in (("bfloat16", 0.99), ("int8", 0.97)):
        goals.append(Goal(f"{mode}, mask IoU, bundled checkpoint", iou, _iou(mode)))
    peak = Goal("bfloat16, peak memory in GB", 1.2, _peak("ours bfloat16"), is_lower_better=True)
    goals.append(peak)
    for examples, wanted in ((2, 1.6), (4, 1.9), (8, 2.2)):
        goals.append(Goal(f"{examples} examples, fewer operations", wanted, _fewer_of(examples)))
        goals.append(Goal(f"{examples} examples, float32, less time", wanted, _ensemble(examples)))
    return goals


def _iou(mode: str) -> Callable[[dict[str, Any]], float]:
    return lambda results: float(results["bundled"]["systems"][f"ours {mode}"]["mask_iou"])


def _peak(system: str) -> Callable[[dict[str, Any]], float]:
    return lambda results: float(results["memory"]["systems"][system]["default malloc"]["peak_bytes"]) / 1e9


def _ensemble(examples: int, mode: str = "float32") -> Callable[[dict[str, Any]], float]:
    def of(results: dict[str, Any]) -> float:
        systems = results["ensembles"][str(examples)]
        return ratios(systems[BASE]["seconds"], systems[f"ours {mode}"]["seconds"]).median

    return of


def _fewer_of(examples: int) -> Callable[[dict[str, Any]], float]:
    return lambda _: _fewer(examples)


def _ours_gflop(examples: int) -> float:
    request = Request(pairs=examples, known_prompt=True, shared_input=True)
    return sum(forward_gflop(SegGptConfig(), request).values())


def _fewer(examples: int) -> float:
    return reference_gflop(SegGptConfig(), examples) / _ours_gflop(examples)


def measurable(native: str) -> tuple[str, ...]:
    """THEIRS that answer within seconds: where bfloat16 is emulated, one forward of transformers takes minutes.

    Args:
        native: the fastest precision of this processor, by `model.inference.native_precision`.
    """
    return tuple(name for name in THEIRS if native == "bfloat16" or not name.endswith("bfloat16"))


def measure(parts: Sequence[str], rounds: int, examples: Sequence[int], results: dict[str, Any]) -> None:
    """Run the parts that are asked for, and keep each result as soon as it is there."""
    large = str(vit_large())
    theirs = measurable(native_precision(torch.device("cpu")))
    if left_out := set(THEIRS) - set(theirs):
        print(f"left out, since this processor has no products in bfloat16: {', '.join(left_out)}", flush=True)
    new = tuple(name + NEW_PROMPT for name in OURS)
    for part in parts:
        print(f"measuring: {part}", flush=True)
        result: dict[str, Any] = {"machine": this_machine().to_dict()}
        if part in MALLOCS:
            asked = ("times", *theirs, *OURS, *new, "--folder", large, "--rounds", str(rounds))
            result["systems"] = in_child(part, *asked)
        elif part == "bundled":
            asked = ("times", *theirs, *OURS, "--folder", str(BUNDLED), "--rounds", str(5 * rounds))
            result["systems"] = in_child("tuned malloc", *asked)
        elif part == "memory":
            result["systems"] = {
                name: {
                    malloc: in_child(malloc, "memory", name, "--folder", large)
                    for malloc in (MALLOCS if name in OURS else ("default malloc",))
                }
                for name in (*OURS, *theirs)
            }
        else:
            result |= {name: value for name, value in results.get(part, {}).items() if name != "machine"}
            systems = (BASE, *(f"ours {mode}" for mode in ENSEMBLE_MODES))
            for count in examples:
                asked = ("times", *systems, "--folder", large, "--rounds", "1", "--examples", str(count))
                result[str(count)] = in_child("tuned malloc", *asked)
        results[part] = result
        store("cpu", results)


def speed_table(results: dict[str, Any]) -> Table:
    """Seconds of each system and how many times faster it is than transformers in float32."""
    names = [*THEIRS, *(name + end for name in OURS for end in ("", NEW_PROMPT))]
    rows = []
    for name in names:
        row = [name]
        for malloc in MALLOCS:
            systems = results.get(malloc, {}).get("systems", {})
            if name not in systems:
                row += ["not measured", ""]
                continue
            seconds = systems[name]["seconds"]
            row += [Spread(tuple(seconds)).text(), f"{ratios(systems[BASE]['seconds'], seconds).median:.2f}x"]
        rows.append(row)
    heads = [head for malloc in MALLOCS for head in (f"{malloc}, s", "faster")]
    return Table(["one image, one example", *heads], rows)


def quality_table(results: dict[str, Any]) -> Table:
    """Errors and memory of each system."""
    rows = []
    for name in (*THEIRS, *OURS):
        large = results.get("tuned malloc", results.get("default malloc", {})).get("systems", {}).get(name)
        small = results.get("bundled", {}).get("systems", {}).get(name)
        memory = results.get("memory", {}).get("systems", {}).get(name)
        row = [name]
        for system in (large, small):
            row += [f"{system['relative_rms']:.1e}", f"{system['mask_iou']:.4f}"] if system else ["not measured", ""]
        for malloc in MALLOCS:
            peak = (memory or {}).get(malloc)
            row.append(f"{peak['peak_bytes'] / 1e9:.2f}" if peak else "not measured")
        rows.append(row)
    heads = ["ViT-L: rms error", "mask IoU", "bundled: rms error", "mask IoU"]
    return Table([f"against {BASE}", *heads, *(f"peak GB, {malloc}" for malloc in MALLOCS)], rows)


def ensemble_table(results: dict[str, Any]) -> Table:
    """Operations and seconds over the number of examples."""
    heads = ["examples", "transformers GFLOP", "ours GFLOP", "fewer", "transformers float32, s"]
    heads += [head for mode in ENSEMBLE_MODES for head in (f"ours {mode}, s", "faster")]
    rows = []
    for count in (2, 4, 8):
        row = [str(count), f"{reference_gflop(SegGptConfig(), count):.0f}", f"{_ours_gflop(count):.0f}"]
        row.append(f"{_fewer(count):.2f}x")
        systems = results.get("ensembles", {}).get(str(count))
        if systems is None:
            rows.append([*row, "not measured", *([""] * 2 * len(ENSEMBLE_MODES))])
            continue
        base = systems[BASE]["seconds"]
        row.append(Spread(tuple(base)).text())
        for mode in ENSEMBLE_MODES:
            seconds = systems[f"ours {mode}"]["seconds"]
            row += [Spread(tuple(seconds)).text(), f"{ratios(base, seconds).median:.2f}x"]
        rows.append(row)
    return Table(heads, rows)


def operations_table() -> Table:
    """What one image with one example asks for; counted, not measured."""
    config = SegGptConfig()
    counts = {"as published, and in transformers": reference_gflop(config, 1)}
    for prompt, known in (("new", False), ("known", True)):
        needed = Request(known_prompt=known, known_first_keys=known, whole_queries=False)
        counts[f"what the answer needs, {prompt} prompt"] = sum(forward_gflop(config, needed).values())
        done = forward_gflop(config, Request(known_prompt=known))
        counts[f"what ours computes, {prompt} prompt"] = sum(done.values())
    return Table(["one image, one example, ViT-L", "GFLOP"], [[name, f"{count:.0f}"] for name, count in counts.items()])


def goal_table(results: dict[str, Any]) -> Table:
    """What was to be reached and what was."""
    rows = []
    for goal in _goals():
        bound = f"{'<=' if goal.is_lower_better else '>='} {goal.wanted:g}"
        try:
            got = goal.of(results)
        except KeyError:
            rows.append([goal.name, bound, "not measured", ""])
            continue
        is_met = got <= goal.wanted if goal.is_lower_better else got >= goal.wanted
        rows.append([goal.name, bound, f"{got:.3g}", "yes" if is_met else "no"])
    return Table(["goal", "wanted", "got", "reached"], rows)


def tables(results: dict[str, Any]) -> list[Table]:
    """All of them, in the order in which they are read."""
    return [
        speed_table(results),
        quality_table(results),
        operations_table(),
        ensemble_table(results),
        goal_table(results),
    ]


def markdown(results: dict[str, Any]) -> str:
    """For docs/performance.md."""
    machines = [Machine(**results[part]["machine"]) for part in PARTS if part in results]
    measured = [f"Measured {line}." for line in dict.fromkeys(machine.line() for machine in machines)]
    return "\n\n".join(["\n".join(measured), *(table.markdown() for table in tables(results))])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks cpu", description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="the others keep their results")
    parser.add_argument("--rounds", type=int, default=3, help="of each system, after one that is not counted")
    parser.add_argument("--examples", type=int, nargs="*", default=[2, 4, 8], help="of the ensembles")
    options = parser.parse_args(arguments)
    results = stored("cpu")
    measure(options.parts, options.rounds, options.examples, results)
    for table in tables(results):
        print(f"\n{table.text()}")
    return 0
