"""Large pictures in overlapping tiles: where each is cut out, and how their answers become one again. Numbers only.

The network sees pictures at its own size, say 448x448, and in a large picture made that small, small things are gone.
So each tile is seen at that size, and the painted answers are blended on one canvas that shows the whole picture. The
canvas comes first: it consists of whole network pixels, and each tile's box in the input image follows from it, in
fractions of pixels. Sizes are (height, width).

Examples are not cut: they should show the thing about as large in its picture as it is in a tile.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidRequest, TooManyTiles

TileSize = Literal["auto"] | tuple[int, int]
Painted = NDArray[np.uint8]

AUTO_TILES: Final = 256
"""Most tiles of "auto", which makes them larger before there are more: at 448 pixels, 6000x4000 has 216 natively."""

LEAST_SIDE: Final = 16
"""Pixels of the input image; smaller tiles would show the network nothing but colours."""

_OVERLAP_SHARE: Final = 4  # neighbours share one quarter of a cell
_SIDES: Final = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")
_ONE: Final = 256  # the sum of the weights of all tiles in one direction


@dataclass(frozen=True, slots=True)
class Tile:
    """One part of the input image.

    Args:
        row, column: which one, from 0.
        box: left, top, right, bottom in pixels of the input image, as Pillow's `resize` takes it.
        place: (top, left) of its answer on the canvas.
    """

    row: int
    column: int
    box: tuple[float, float, float, float]
    place: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TilePlan:
    """How an input image is cut.

    Args:
        size: of the input image, in its pixels.
        cell: of each tile as the network sees it.
        canvas: of all answers together; it shows the whole input image, edge to edge.
        tiles: row by row.
    """

    size: tuple[int, int]
    cell: tuple[int, int]
    canvas: tuple[int, int]
    tiles: tuple[Tile, ...]

    @property
    def overlap(self) -> tuple[int, int]:
        """Rows and columns of the canvas that neighbours share."""
        return _overlap(self.cell[0]), _overlap(self.cell[1])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return self.tiles[-1].row + 1, self.tiles[-1].column + 1


def parse_tile(text: str) -> TileSize:
    """Read the form field `tile`: "auto", or width x height in pixels of the input image as in "640x480".

    Returns:
        "auto" or (height, width).

    Raises:
        InvalidRequest: it is something else, or a side is shorter than `LEAST_SIDE`.
    """
    if text == "auto":
        return "auto"
    sides = _SIDES.fullmatch(text)
    if sides is None:
        raise InvalidRequest(
            f'tile: got {text[:80]!r}; allowed is "auto" or width x height in pixels, such as "640x480"', field="tile"
        )
    tile = int(sides[2]), int(sides[1])
    _check_sides(tile)
    return tile


def plan(size: tuple[int, int], cell: tuple[int, int], tile: TileSize, max_tiles: int) -> TilePlan:
    """Cut a picture into tiles that overlap by a quarter; a picture that is not larger than a tile stays whole.

    Args:
        size: of the input image, at least (1, 1).
        cell: of the pictures that the network sees.
        tile: pixels of the input image that one tile shows at most. "auto": as many as the cell has, so that the
            network sees every pixel; larger ones of the cell's aspect where more than `AUTO_TILES` or `max_tiles`
            would be needed.
        max_tiles: at least 1.

    Raises:
        InvalidRequest: a side of `tile` is shorter than `LEAST_SIDE`.
        TooManyTiles: the sizes given need more than `max_tiles`.
    """
    if tile == "auto":
        tile = _auto(size, cell, min(max_tiles, AUTO_TILES))
    else:
        _check_sides(tile)
    rows, columns = grid = _grid(size, cell, tile)
    if rows * columns > max_tiles:
        raise TooManyTiles(
            f"tile: got {columns}x{rows} = {rows * columns} tiles of {tile[1]}x{tile[0]} pixels (width x height) for a "
            f'picture of {size[1]}x{size[0]}; allowed are {max_tiles}: choose larger tiles, or "auto"',
            field="tile",
            got=rows * columns,
            limit=max_tiles,
        )
    (tops, height), (lefts, width) = (_places(*axis) for axis in zip(cell, grid, strict=True))
    vertical, horizontal = _edges(tops, cell[0], size[0], height), _edges(lefts, cell[1], size[1], width)
    tiles = tuple(
        Tile(row, column, (left, top, right, bottom), (tops[row], lefts[column]))
        for row, (top, bottom) in enumerate(vertical)
        for column, (left, right) in enumerate(horizontal)
    )
    return TilePlan(size, cell, (height, width), tiles)


class Blend:
    """The tiles' answers, coming in any order, as one. Not for several threads at the same time.

    Where tiles overlap, each one's weight falls towards its edge. The weights are whole numbers, so their sum is exact
    and the order leaves no trace. Only what is not finished is kept in more than a byte for each value: one row of
    tiles or two, if they come row by row.
    """

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan
        rows, columns = plan.grid
        self._vertical = [_weights(plan.cell[0], row > 0, row < rows - 1) for row in range(rows)]
        self._horizontal = [_weights(plan.cell[1], column > 0, column < columns - 1) for column in range(columns)]
        # Band k of the canvas begins with tile row k and ends where the next begins: rows k - 1 and k lie in it.
        self._tops = [plan.tiles[row * columns].place[0] for row in range(rows)]
        self._bottoms = [*self._tops[1:], plan.canvas[0]]
        self._missing = [columns * (1 if row == 0 else 2) for row in range(rows)]
        self._sums: dict[int, NDArray[np.uint32]] = {}
        self._added: set[tuple[int, int]] = set()
        self._canvas: Painted = np.empty((*plan.canvas, 4), np.uint8)

    @property
    def added(self) -> int:
        """How many tiles have come."""
        return len(self._added)

    def add(self, tile: Tile, painted: Painted) -> None:
        """Take one tile's answer: (h, w, 4) uint8 of the plan's cell. Each tile comes once."""
        assert painted.shape == (*self._plan.cell, 4), f"{painted.shape} for cells of {self._plan.cell}"
        assert painted.dtype == np.uint8, f"{painted.dtype} is not uint8"
        assert (tile.row, tile.column) not in self._added, f"tile {tile.row}, {tile.column} came twice"
        self._added.add((tile.row, tile.column))
        weights = np.outer(self._vertical[tile.row], self._horizontal[tile.column])  # (h, w)
        weighted = painted * weights[:, :, None]
        top, left = tile.place
        for band in range(tile.row, min(tile.row + 2, len(self._tops))):
            start, end = self._tops[band], min(self._bottoms[band], top + len(painted))
            columns = slice(left, left + painted.shape[1])
            self._sums_of(band)[: end - start, columns] += weighted[start - top : end - top]
            self._missing[band] -= 1
            if self._missing[band] == 0:
                self._finish(band)

    def result(self) -> Painted:
        """(H', W', 4) uint8, the whole canvas, as soon as all tiles have come."""
        assert not any(self._missing), f"{len(self._added)} of {len(self._plan.tiles)} tiles have come"
        return self._canvas

    def _sums_of(self, band: int) -> NDArray[np.uint32]:
        if band not in self._sums:
            shape = (self._bottoms[band] - self._tops[band], *self._canvas.shape[1:])
            self._sums[band] = np.zeros(shape, np.uint32)
        return self._sums[band]

    def _finish(self, band: int) -> None:
        sums = self._sums.pop(band)
        sums += _ONE * _ONE // 2  # rounds to the nearest
        sums //= _ONE * _ONE
        self._canvas[self._tops[band] : self._bottoms[band]] = sums


def _check_sides(tile: tuple[int, int]) -> None:
    if min(tile) < LEAST_SIDE:
        raise InvalidRequest(
            f"tile: got {tile[1]}x{tile[0]} pixels (width x height); allowed are sides of at least {LEAST_SIDE}",
            field="tile",
        )


def _overlap(cell: int) -> int:
    return cell // _OVERLAP_SHARE


def _grid(size: tuple[int, int], cell: tuple[int, int], tile: tuple[int, int]) -> tuple[int, int]:
    return _count(size[0], cell[0], tile[0]), _count(size[1], cell[1], tile[1])


def _count(side: int, cell: int, tile: int) -> int:
    """The fewest tiles in one direction that show no more than `tile` pixels each; in whole numbers, so exact."""
    if side <= tile:
        return 1
    # side / canvas <= tile / cell, where the canvas is one cell and a stride for each further tile.
    stride = cell - _overlap(cell)
    return 1 - (cell * (tile - side)) // (tile * stride)


def _auto(size: tuple[int, int], cell: tuple[int, int], limit: int) -> tuple[int, int]:
    """The smallest tile of the cell's aspect, no smaller than the cell, of which no more than `limit` are needed."""

    def tile(height: int) -> tuple[int, int]:
        return height, -(-height * cell[1] // cell[0])

    def is_enough(height: int) -> bool:
        rows, columns = _grid(size, cell, tile(height))
        return rows * columns <= limit

    # The largest shows the whole picture, so there always is one.
    heights = range(cell[0], max(cell[0], size[0], -(-size[1] * cell[0] // cell[1])) + 1)
    return tile(heights[bisect_left(heights, True, key=is_enough)])


def _places(cell: int, count: int) -> tuple[list[int], int]:
    """Where the tiles begin on the canvas, and how long it is, in one direction."""
    stride = cell - _overlap(cell)
    return [index * stride for index in range(count)], stride * (count - 1) + cell


def _edges(places: list[int], cell: int, side: int, canvas: int) -> list[tuple[float, float]]:
    """Where the tiles begin and end in the input image, in one direction; the last one exactly at its edge."""
    return [(place * side / canvas, (place + cell) * side / canvas) for place in places]


def _weights(cell: int, has_before: bool, has_after: bool) -> NDArray[np.uint32]:
    """How much a tile counts at each of its (cell,) pixels in one direction; with its neighbour's it sums to `_ONE`."""
    overlap = _overlap(cell)
    weights = np.full(cell, _ONE, np.uint32)
    rising = ((2 * np.arange(overlap, dtype=np.uint32) + 1) * _ONE + overlap) // max(1, 2 * overlap)
    if has_before:
        weights[:overlap] = rising
    if has_after:
        weights[cell - overlap :] = _ONE - rising
    return weights
