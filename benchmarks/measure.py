"""`python -m benchmarks.measure`: one measurement in a process of its own, its result as JSON on stdout.

A process of its own, because the allocator's settings are read when a process starts, and because a peak of memory is
that of a whole process.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import cores


def times(systems: Sequence[str], folder: Path, rounds: int, examples: int) -> dict[str, Any]:
    """Seconds and page faults of every system's forwards, in turn, and how far its answer is from the first's.

    Args:
        systems: names of contenders; the first is what the others' answers are compared with.
        folder: the checkpoint.
        rounds: measured forwards of each.
        examples: examples of the one input image.
    """
    import torch  # noqa: PLC0415  # only children need the networks

    from benchmarks.contenders import THEIRS, contender, question  # noqa: PLC0415
    from model.config import SegGptConfig  # noqa: PLC0415

    torch.set_num_threads(cores())
    ask = question(SegGptConfig.from_json_file(folder / "config.json"), examples)
    answers = {name: contender(name, folder) for name in systems}
    # Transformers' ensembles take minutes, so theirs warm up with a single example.
    single = question(SegGptConfig.from_json_file(folder / "config.json"))
    painted = {name: answer(single if name in THEIRS else ask) for name, answer in answers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    faults: dict[str, list[int]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, answer in answers.items():
            faults_before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            start = time.perf_counter()
            painted[name] = answer(ask)
            seconds[name].append(time.perf_counter() - start)
            faults[name].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults_before)
    truth = painted[systems[0]]
    return {
        name: {"seconds": seconds[name], "faults": faults[name], **difference(painted[name], truth)} for name in systems
    }


def difference(painted: Any, truth: Any) -> dict[str, float]:
    """How far one painted answer (3, H, W) is from another: relative rms, and IoU of the masks cut at half grey."""
    from model.colours import grey  # noqa: PLC0415

    error = (painted.double() - truth.double()).square().mean().sqrt() / truth.double().square().mean().sqrt()
    masks = [grey(answer.unsqueeze(0)) > 127.5 for answer in (painted, truth)]
    both, either = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
    return {"relative_rms": float(error), "mask_iou": float(both / either) if either else 1.0}


def memory(system: str, folder: Path) -> dict[str, Any]:
    """Peak memory of this process, in bytes: with torch imported, with the network loaded, after one forward."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(cores())
    imported = peak_bytes()
    from benchmarks.contenders import contender, made_question  # noqa: PLC0415
    from model.config import SegGptConfig  # noqa: PLC0415

    ask = made_question(SegGptConfig.from_json_file(folder / "config.json"))
    answer = contender(system, folder)
    loaded = peak_bytes()
    answer(ask)
    return {"imported_bytes": imported, "loaded_bytes": loaded, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """The most memory that this process has had at any moment since its start, the mapped files' pages included.

    By Linux's own account where there is one: there `ru_maxrss` would begin at the parent's.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure", description=__doc__)
    parser.add_argument("what", choices=("times", "memory", "profile", "peaks"))
    parser.add_argument("systems", nargs="+", help="contenders, or modes of ours for profile and peaks")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.what == "memory":
        result: dict[str, Any] = memory(options.systems[0], options.folder)
    elif options.what == "peaks":
        from benchmarks.peaks import peaks  # noqa: PLC0415

        result = peaks(tuple(options.systems))
    elif options.what == "profile":
        from benchmarks.profile import profile  # noqa: PLC0415

        result = profile(options.systems[0], options.folder, options.rounds)
    else:
        result = times(options.systems, options.folder, options.rounds, options.examples)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
