"""`python -m benchmarks tuning`: what a tuned prompt is worth beside single examples and ensembles of them.

Made pictures: some to tune on, as `seggpt tune` does it, and others that judge. Each of the first is tried as a single
example, and some of them as feature ensembles, on the same judges. Everything is in folders, to be looked at.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.report import RESULTS, Table, cores, store, this_machine
from benchmarks.tuning_scene import write
from model.checkpoint import load, resolve
from model.tuned_prompt import name_of
from model.tuning import Tuning, TuningSettings
from model.tuning_data import Pictures, read_folder

_DRAWS: Final = 3
_DEFAULTS: Final = TuningSettings()


def curve(tuning: Tuning, judges: Pictures, settings: TuningSettings) -> list[dict[str, float]]:
    """Tune, and judge the best until then at every look; the judging does not count as time."""
    points: list[dict[str, float]] = []
    judging_s = 0.0
    for check in tuning.run():
        start = time.monotonic()
        iou = tuning.score(tuning.images, tuning.masks, judges)
        points.append(
            {"step": check.step, "seconds": check.seconds - judging_s, "held_out": check.best_iou, "iou": iou}
        )
        judging_s += time.monotonic() - start
        print(
            f"{settings.prompts} learned, step {check.step}: {points[-1]['seconds']:.0f} s, IoU {iou:.3f}", flush=True
        )
    return points


def ensembles(tuning: Tuning, shown: Pictures, judges: Pictures, sizes: Sequence[int]) -> dict[str, list[float]]:
    """IoU of ensembles of so many examples, drawn anew each time."""
    dice = np.random.default_rng(0)
    scores: dict[str, list[float]] = {}
    for size in sizes:
        draws = [torch.from_numpy(dice.permutation(len(shown))[:size]) for _ in range(_DRAWS)]
        scores[str(size)] = [tuning.score(shown.images[draw], shown.masks[draw], judges) for draw in draws]
    return scores


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it goes to disk."""
    torch.set_num_threads(options.threads)
    checkpoint = resolve(options.checkpoint)
    size = checkpoint.config.half_size
    folder = options.json.parent / "tuning-pictures"
    shown = read_folder(write(folder / "tune", options.pictures, seed=1), size)
    judges = read_folder(write(folder / "judge", options.judges, seed=2), size)
    network = load(checkpoint, torch.float32)
    plain = Tuning(network, shown, TuningSettings())
    one_by_one = [shown[slice(place, place + 1)] for place in range(len(shown))]
    single = [plain.score(one.images, one.masks, judges) for one in one_by_one]
    print(f"single examples: best {max(single):.3f}, median {statistics.median(single):.3f}", flush=True)
    together = ensembles(plain, shown, judges, [count for count in (4, 8) if count <= len(shown)])
    curves = {}
    for prompts in options.prompts:
        settings = TuningSettings(
            prompts=prompts, steps=options.steps, learning_rate=options.learning_rate, batch=options.batch
        )
        curves[str(prompts)] = curve(Tuning(network, shown, settings), judges, settings)
    return {
        "machine": this_machine().to_dict(),
        "checkpoint": name_of(checkpoint),
        "threads": options.threads,
        "pictures": len(shown),
        "judges": len(judges),
        "single": single,
        "ensembles": together,
        "curves": curves,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """What is printed and written into the documents."""
    single = result["single"]
    rows = [
        ["one example, the best of all", f"{max(single):.3f}", "-"],
        ["one example, the median", f"{statistics.median(single):.3f}", "-"],
    ]
    for size, scores in result["ensembles"].items():
        label = f"ensemble of {size} examples, median of {len(scores)} draws"
        rows.append([label, f"{statistics.median(scores):.3f}", "-"])
    for prompts, points in result["curves"].items():
        label = "tuned prompt" if prompts == "1" else f"tuned ensemble of {prompts}"
        rows.append([label, f"{points[-1]['iou']:.3f}", f"{points[-1]['seconds'] / 60:.1f}"])
    judges = f"IoU on {result['judges']} other pictures"
    return [Table([f"{result['checkpoint']}, {result['pictures']} pictures to tune on", judges, "minutes"], rows)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tuning", description=__doc__)
    parser.add_argument("--checkpoint", default="bundled", help="folder, file, hub id or bundled")
    parser.add_argument("--pictures", type=int, default=20, help="to tune on")
    parser.add_argument("--judges", type=int, default=40, help="that judge")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1], help="learned pairs; each is a tuning")
    parser.add_argument("--steps", type=int, default=_DEFAULTS.steps)
    parser.add_argument("--batch", type=int, default=_DEFAULTS.batch)
    parser.add_argument("--learning-rate", type=float, default=_DEFAULTS.learning_rate)
    parser.add_argument("--threads", type=int, default=cores(), help="torch's")
    parser.add_argument("--json", type=Path, default=RESULTS / "tuning.json", help="where the result goes")
    options = parser.parse_args(arguments)
    result = measure(options)
    print(this_machine().line())
    for table in tables(result):
        print(f"\n{table.text()}")
    print(f"\n{store(options.json.stem, result, options.json.parent)}")
    return 0
