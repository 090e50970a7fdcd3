"""Two minutes of training on drawn things: repeatable code is not enough, it must learn."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.baselines import BASELINES
from evaluation.metrics import intersection_over_union
from evaluation.pairs import made_pairs
from training.command import main
from training.draw import Dice
from training.mixtures import HELD_OUT_SEED, drawn_mixture


@pytest.mark.slow
def test_two_minutes_of_training_beat_every_baseline_on_things_never_seen(tmp_path: Path) -> None:
    main(["short", "--out", str(tmp_path), "--device", "cpu"])
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    reached = float(rows[-1]["held_out_iou"])
    [source] = drawn_mixture(Dice(0), drawn_seed=HELD_OUT_SEED).sources
    questions = [pair.question(1) for pair in made_pairs(source, 100, seed=1)]
    for name, answer in BASELINES.items():
        baseline = np.mean([intersection_over_union(answer(question), question.area) for question in questions])
        assert reached > baseline + 0.1, name
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])


@pytest.mark.slow
def test_the_short_run_is_the_same_every_time(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    for name in ("one", "again"):
        main(["short", "--out", str(tmp_path / name), "--device", "cpu", "--pairs", "1280", "--report-every", "10"])
    torch.set_num_threads(threads)
    one, again = ((tmp_path / name / "log.csv").read_text().splitlines() for name in ("one", "again"))
    # All but the seconds, the second column.
    assert [line.split(",")[2:] for line in one] == [line.split(",")[2:] for line in again]
