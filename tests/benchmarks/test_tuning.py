"""The made pictures of the tuning benchmark, and how its result is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plots, tuning
from benchmarks.tuning_scene import SIDE, make, write
from model.tuning_data import read_folder

RESULT: dict[str, Any] = {
    "checkpoint": "mini",
    "threads": 2,
    "pictures": 20,
    "judges": 40,
    "single": [0.25, 0.5, 0.375],
    "ensembles": {"4": [0.5, 0.25, 0.375]},
    "curves": {"1": [{"step": 0, "seconds": 0.0, "iou": 0.5}, {"step": 20, "seconds": 90.0, "iou": 0.75}]},
}


def test_every_picture_shows_the_thing_and_a_seed_gives_the_same_again() -> None:
    pictures = make(12, seed=3)
    for (image, mask), (again, _) in zip(pictures, make(12, seed=3), strict=True):
        assert image.size == mask.size == (SIDE, SIDE)
        share = (np.asarray(mask) > 0).mean()
        assert 0.003 < share < 0.4
        assert image.tobytes() == again.tobytes()
    assert make(1, seed=4)[0][0].tobytes() != pictures[0][0].tobytes()


def test_they_are_written_as_tuning_reads_them_in_place_of_older_ones(tmp_path: Path) -> None:
    write(tmp_path, 6, seed=0)
    assert len(read_folder(write(tmp_path, 5, seed=1), (48, 64))) == 5


def test_the_table_has_the_best_and_the_median_and_what_was_tuned() -> None:
    (table,) = tuning.tables(RESULT)
    assert [row[1] for row in table.rows] == ["0.500", "0.375", "0.375", "0.750"]
    assert table.rows[-1] == ["tuned prompt", "0.750", "1.5"]
    assert "40 other pictures" in table.head[1]


def test_the_curve_is_drawn() -> None:
    (axes,) = plots.tuning(RESULT).axes
    assert axes.get_lines()[0].get_xdata().tolist() == [0, 1.5]
    assert len(axes.get_lines()) == 4
