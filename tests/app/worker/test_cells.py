"""The shared memory: cells and planes do not overlap, both sides see the same bytes, no cell has two owners."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from app.worker.cells import CellMemory, Cells, memory_bytes

SHAPE = (4, 6)


@pytest.fixture
def cells() -> Iterator[Cells]:
    cells = Cells(5, SHAPE)
    yield cells
    cells.close()


def test_cells_and_answer_planes_do_not_overlap(cells: Cells):
    for index in range(cells.count):
        cells.pixels[index] = index + 1
        cells.answers[index] = index + 101
    for index in range(cells.count):
        assert (cells.pixels[index] == index + 1).all()
        assert (cells.answers[index] == index + 101).all()
    assert cells.pixels.shape == (5, 4, 6, 3)
    assert cells.answers.shape == (5, 4, 6, 4)


def test_another_mapping_of_the_same_file_sees_the_same_pixels(cells: Cells):
    other = CellMemory(cells.fd, cells.count, SHAPE)
    cells.pixels[3] = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    other.answers[2] = 9
    assert (other.pixels[3] == cells.pixels[3]).all()
    assert (cells.answers[2] == 9).all()


def test_the_file_has_no_name_and_takes_memory_only_where_it_was_touched(cells: Cells):
    big = Cells(1000, (448, 448))
    try:
        big.pixels[0] = 1
        status = os.fstat(big.fd)
        assert status.st_nlink == 0
        assert status.st_size == memory_bytes(1000, (448, 448))
        assert status.st_blocks * 512 < 2_000_000
    finally:
        big.close()


def test_taking_more_than_is_free_takes_nothing(cells: Cells):
    assert cells.take(6) is None
    assert cells.free == 5
    taken = cells.take(5)
    assert taken is not None
    assert sorted(taken) == [0, 1, 2, 3, 4]
    assert cells.take(1) is None


def test_cells_that_were_given_back_can_be_taken_again(cells: Cells):
    taken = cells.take(3)
    assert taken is not None
    cells.give_back(taken)
    assert cells.free == 5
    assert set(cells.take(3) or []) == set(taken)


def test_giving_a_cell_back_twice_is_an_error(cells: Cells):
    taken = cells.take(2)
    assert taken is not None
    cells.give_back(taken)
    with pytest.raises(ValueError, match="nobody owns it"):
        cells.give_back(taken)
    assert cells.free == 5


def test_a_file_that_is_too_small_is_refused(cells: Cells):
    with pytest.raises(ValueError, match="mmap length"):
        CellMemory(cells.fd, cells.count + 1, SHAPE)


def test_closing_again_does_nothing_and_views_stay_valid(cells: Cells):
    view = cells.pixels[0]
    cells.close()
    cells.close()
    view[:] = 3
    assert (cells.pixels[0] == 3).all()
