"""The command line of `python -m training`: make the bundled checkpoint, or fine-tune one on a folder of pictures."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from model.checkpoint import Checkpoint, load, resolve
from model.config import SegGptConfig
from model.seggpt import SegGptForImageSegmentation
from training.arguments import at_least_one, existing_folder, present_device
from training.draw import Dice
from training.folder import load_folder
from training.mixtures import (
    HELD_OUT_SEED,
    bundled_mixture,
    drawn_mixture,
    folder_judge,
    folder_mixture,
    held_out_maker,
)
from training.recipe import BUNDLED, BUNDLED_ON_GPU, SHORT, Recipe, bundled_config, fine_tuning, short_config
from training.run_folder import RunFolder
from training.scenes import SceneMaker
from training.stop import Stop
from training.teacher import SOURCE, teacher_is_there
from training.train import Run

_WRONG_USAGE = 2
_NUMBERS: dict[str, type] = {
    "pairs": int,
    "minutes": float,
    "learning_rate": float,
    "taught": float,
    "seed": int,
    "report_every": int,
    "snapshot_minutes": float,
}


@dataclass(frozen=True)
class _Order:
    """What each process of a run is told."""

    given: argparse.Namespace
    start: Checkpoint | None
    recipe: Recipe
    folder: RunFolder
    stop: Stop


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        order = _order(given)
    except (OSError, ValueError) as error:
        parser.exit(_WRONG_USAGE, f"{parser.prog}: {error}\n")
    stop, snapshot = order.stop, order.folder.snapshot
    try:
        with closing(order.folder):
            _train_all(order)
    except KeyboardInterrupt:
        parser.exit(128 + signal.SIGINT, f"{parser.prog}: interrupted within a step\n")
    if stop.is_asked:
        what_next = f"--resume goes on with {snapshot}" if snapshot.is_file() else "nothing was learnt"
        parser.exit(stop.status, f"{parser.prog}: interrupted; {what_next}\n")
    print(f"the run is finished; python -m training.export {snapshot} makes a checkpoint of it", file=sys.stderr)


def _train_all(order: _Order) -> None:
    if order.given.processes == 1:
        _train(0, order, None)
        return
    with order.stop, tempfile.TemporaryDirectory() as folder:
        arguments = (order, f"file://{folder}/meeting")
        # Ctrl-C is for all of them: until they listen this one alone hears it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        started = start_processes(_train, arguments, order.given.processes, join=False, start_method="spawn")
        signal.signal(signal.SIGINT, before)
        assert started is not None
        try:
            while not started.join():
                pass
        except ProcessExitedException as error:
            if error.exit_code != _WRONG_USAGE:
                raise
            raise SystemExit(_WRONG_USAGE) from None  # it has said why


def _train(rank: int, order: _Order, meeting: str | None) -> None:
    """One process of the run; `meeting` is the address where several find each other."""
    given = order.given
    if given.threads:
        torch.set_num_threads(given.threads)
    if meeting:
        torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=given.processes)
    with order.stop:
        try:
            run = _set_up(rank, order)
        except (OSError, ValueError) as error:
            print(f"python -m training: {error}", file=sys.stderr)
            raise SystemExit(_WRONG_USAGE) from None
        run.train()
    if meeting:
        torch.distributed.barrier()  # a process whose peers have gone may abort
        torch.distributed.destroy_process_group()


def _set_up(rank: int, order: _Order) -> Run:
    given, device = order.given, torch.device(order.given.device)
    first = order.recipe.stages[0].size
    start: SegGptForImageSegmentation | SegGptConfig = bundled_config(first)
    make_scenes: Callable[[Dice], SceneMaker]
    if given.verb == "bundled":
        make_scenes, judge = partial(bundled_mixture, given.data), held_out_maker(given.data, device)
    elif given.verb == "short":
        start, make_scenes = short_config(first), drawn_mixture
        judge = drawn_mixture(Dice(0, device), drawn_seed=HELD_OUT_SEED)
    else:
        learnt, held_out = (load_folder(given.data, first, held_out=held_out) for held_out in (False, True))
        if rank == 0:
            count = len(learnt.pixels) + len(held_out.pixels)
            print(f"{count} pictures, {len(held_out.pixels)} of them held out", file=sys.stderr)
        make_scenes, judge = partial(folder_mixture, learnt), folder_judge(learnt, held_out, device)
    if order.start is not None:
        start = load(order.start, torch.float32)
    return Run(
        order.recipe,
        make_scenes,
        judge,
        order.folder,
        start=start,
        teacher=given.teacher,
        device=device,
        stop=order.stop,
    )


def _order(given: argparse.Namespace) -> _Order:
    start = resolve(given.start) if given.start is not None else None
    recipe = _recipe(given, start)
    if recipe.taught and not teacher_is_there():
        raise ValueError("the teacher's packages are missing: pip install 'seggpt-serve[teacher]', or give --taught 0")
    return _Order(given, start, recipe, RunFolder(given.out, given.existing), Stop())


def _recipe(given: argparse.Namespace, start: Checkpoint | None) -> Recipe:
    if given.verb == "bundled":
        recipe = BUNDLED_ON_GPU if torch.device(given.device).type == "cuda" else BUNDLED
    else:
        recipe = SHORT if start is None else fine_tuning(start.config, given.batch)
    if start is not None or given.taught == 0:
        recipe = recipe.painting()
    return replace(recipe, **{name: getattr(given, name) for name in _NUMBERS if getattr(given, name) is not None})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    bundled = verbs.add_parser("bundled", help="make the bundled checkpoint from nothing, or go on from one")
    bundled.add_argument("--data", type=existing_folder, default="../shared/data", help="see training/README.md")
    bundled.add_argument("--start", help="checkpoint to start from: hub id, folder, file or bundled")
    bundled.add_argument("--teacher", default=SOURCE, help="hub id or folder of a DINOv2 (default %(default)s)")
    short = verbs.add_parser("short", help="two minutes on drawn things, to see that it learns; needs no pictures")
    tuned = verbs.add_parser("finetune", help="go on training a checkpoint on a folder of pictures and masks")
    tuned.add_argument(
        "--data", type=existing_folder, required=True, help="<category>/images/* and <category>/masks/*.png"
    )
    tuned.add_argument(
        "--start", default="BAAI/seggpt-vit-large", help="hub id, folder, file or bundled (default %(default)s)"
    )
    tuned.add_argument("--batch", type=at_least_one, default=4, help="pairs per step and process (default %(default)s)")
    for verb in (bundled, short, tuned):
        verb.add_argument("--out", type=Path, required=True, help="folder for snapshot, log and sample pictures")
        verb.set_defaults(existing="refuse")
        earlier = verb.add_mutually_exclusive_group()
        add = partial(earlier.add_argument, action="store_const", dest="existing")
        add("--resume", const="resume", help="go on with the run that --out holds")
        add("--force", const="replace", help="replace the run that --out holds")
        verb.add_argument("--device", type=present_device, default="cuda" if torch.cuda.is_available() else "cpu")
        verb.add_argument("--processes", type=at_least_one, default=1, help="that share the run; best one per CPU core")
        verb.add_argument("--threads", type=at_least_one, help="torch threads of each process")
        for name, kind in _NUMBERS.items():
            verb.add_argument(f"--{name.replace('_', '-')}", type=kind, help="instead of the recipe's")
    for verb in (short, tuned):
        verb.set_defaults(teacher=SOURCE)
    short.set_defaults(start=None)
    return parser
