"""The command line of `python -m training`: train the small checkpoint, in one process or in several."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import fields
from pathlib import Path

import torch
import torch.distributed
from torch.multiprocessing.spawn import start_processes

from training.scenes import NATURAL, Mixture
from training.train import Recipe, Run

_SETTINGS = (
    "size",
    "batch",
    "minutes",
    "pairs",
    "learning_rate",
    "warm_up_steps",
    "fall",
    "balance",
    "seed",
    "report_every",
    "optimiser",
)
_MIXTURES = {"varied": Mixture(), "natural": NATURAL}


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train the small checkpoint.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with emoji/ and clothing/")
    parser.add_argument("--out", type=Path, required=True, help="folder for snapshot, log and sample pictures")
    parser.add_argument("--resume", type=Path, help="a snapshot.pt, of this or another canvas size")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the run; best one per CPU core")
    parser.add_argument("--threads", type=int, help="torch threads of each process")
    defaults = {entry.name: entry.default for entry in fields(Recipe)}
    for name in _SETTINGS:
        kind = type(defaults[name])
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=defaults[name], help="default %(default)s"
        )
    parser.add_argument("--scenes", choices=sorted(_MIXTURES), default="varied", help="default %(default)s")
    given = parser.parse_args()
    settings = {name: getattr(given, name) for name in _SETTINGS}
    recipe = Recipe(**settings, mixture=_MIXTURES[given.scenes])
    if given.processes == 1:
        _train(0, given, recipe, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        start_processes(_train, (given, recipe, meeting), nprocs=given.processes, start_method="spawn")


def _train(rank: int, given: argparse.Namespace, recipe: Recipe, meeting: str | None) -> None:
    """One process of the run; `meeting` is the address where several find each other."""
    if given.threads:
        torch.set_num_threads(given.threads)
    if meeting:
        torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=given.processes)
    Run(recipe, given.data, given.out, given.resume, torch.device(given.device)).train()
    if meeting:
        torch.distributed.destroy_process_group()
