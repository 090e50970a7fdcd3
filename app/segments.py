"""Which class is where -> the segments of a JSON answer: area, box, score, run lengths, polygons.

The mask of full size is never made. Nearest upsampling makes of each row and column of the small answer a band of
rows and columns, so everything follows exactly from the small answer and the places where its bands begin ("edges").
Sizes are (height, width); boxes are (left, top, width, height).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from app.classes import ClassMap
from app.labels import Label, Labels, hexadecimal
from app.schemas import LabelBody, Rle, Segment, SegmentationBody
from app.upsampling import source_indices

MOST_INSTANCES: Final = 10_000
"""Of more connected objects only the largest so many are answered: what breaks into more is noise."""

_STRIP_ROWS: Final = 256
_CORNERS: Final = 4

Box = tuple[int, int, int, int]
Ring = NDArray[np.int32]


@dataclass(frozen=True)
class _Grid:
    """The part of a small answer that the picture of full size shows: each row and column is at least one pixel there.

    Args:
        index, score: (r, c) uint8; of a `ClassMap`, without rows and columns that downsampling leaves out.
        rows, columns: which of the `ClassMap`'s they are.
        row_edges, column_edges: (r + 1,) and (c + 1,) where each begins at full size; the last are H and W.
    """

    index: NDArray[np.uint8]
    score: NDArray[np.uint8]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    row_edges: NDArray[np.int64]
    column_edges: NDArray[np.int64]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture of full size."""
        return int(self.row_edges[-1]), int(self.column_edges[-1])


@dataclass(frozen=True)
class _Part:
    """Pixels of the grid that make one segment: those where the parts' numbers are `number`.

    Args:
        number: in the numbers that came along with it.
        box: around it, on the grid.
        area: pixels at full size.
        score: their mean, in [0, 1].
    """

    label: Label
    number: int
    box: Box
    area: int
    score: float


def body(
    classes: ClassMap,
    size: tuple[int, int],
    *,
    instances: bool = False,
    min_area: int = 0,
    tolerance: float = 1.0,
    timings_ms: Mapping[str, float],
) -> SegmentationBody:
    """The whole JSON answer; arguments as in `find_segments`, and how long each stage took."""
    return SegmentationBody(
        height=size[0],
        width=size[1],
        labels=[
            LabelBody(index=label.index, name=label.name, colour=hexadecimal(label.colour)) for label in classes.labels
        ],
        segments=find_segments(classes, size, instances=instances, min_area=min_area, tolerance=tolerance),
        timings_ms=dict(timings_ms),
    )


def find_segments(
    classes: ClassMap,
    size: tuple[int, int],
    *,
    instances: bool = False,
    min_area: int = 0,
    tolerance: float = 1.0,
) -> list[Segment]:
    """What is where.

    Args:
        classes: the answer at the network's size.
        size: (H, W) of the input image.
        instances: one segment for each connected object (pixels that touch at corners are connected) rather than one
            for each class. Objects are numbered from 1 on through all classes, as `instance_map` shows them.
        min_area: with `instances`, objects of fewer pixels at full size are left out. Otherwise it means nothing.
        tolerance: polygons may be so many pixels of the full size off the mask's outline; at 0 they are the outline.

    Returns:
        By rising class index, and objects by falling area. Classes that are nowhere have none.
    """
    grid = _visible(classes, size)
    numbers, parts = _parts(grid, classes.labels, instances, min_area)
    segments = []
    for instance, part in enumerate(parts, start=1):
        left, top, width, height = part.box
        mask = numbers[top : top + height, left : left + width] == part.number
        y, x = grid.row_edges[top : top + height + 1], grid.column_edges[left : left + width + 1]
        segments.append(
            Segment(
                index=part.label.index,
                label=part.label.name,
                instance=instance if instances else None,
                area=part.area,
                bbox=(int(x[0]), int(y[0]), int(x[-1] - x[0]), int(y[-1] - y[0])),
                score=part.score,
                rle=Rle(size=size, counts=_compressed(_run_lengths(mask, y, x, size), size)),
                polygons=list(_polygons(mask, y, x, tolerance)),
            )
        )
    return segments


def instance_map(classes: ClassMap, size: tuple[int, int], min_area: int) -> NDArray[np.uint16]:
    """Which object is where: (h, w) of `classes`, 0 or the `instance` of `find_segments`, for `encode_index`."""
    grid = _visible(classes, size)
    numbers, parts = _parts(grid, classes.labels, True, min_area)
    renamed = np.zeros(int(numbers.max()) + 1, np.uint16)
    for instance, part in enumerate(parts, start=1):
        renamed[part.number] = instance
    shown = np.zeros(classes.index.shape, np.uint16)
    shown[np.ix_(grid.rows, grid.columns)] = renamed[numbers]
    return shown


def _visible(classes: ClassMap, size: tuple[int, int]) -> _Grid:
    (rows, row_edges), (columns, column_edges) = (
        _bands(inner, outer) for inner, outer in zip(classes.index.shape, size, strict=True)
    )
    # Usually every row and column is visible, and nothing need be copied.
    whole = (len(rows), len(columns)) == classes.index.shape
    index, score = (
        pixels if whole else pixels[np.ix_(rows, columns)] for pixels in (classes.index, classes.score)
    )  # fmt: skip
    return _Grid(index, score, rows, columns, row_edges, column_edges)


def _bands(inner: int, outer: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Which of `inner` rows or columns are visible among `outer`, and where each begins there."""
    visible, first = np.unique(source_indices(inner, outer), return_index=True)
    return visible, np.append(first, outer).astype(np.int64)


def _parts(grid: _Grid, labels: Labels, connected: bool, min_area: int) -> tuple[NDArray[Any], list[_Part]]:
    """The grid's pixels numbered by parts, (r, c) with 0 = in none, and the parts in the answer's order."""
    numbers: NDArray[Any] = np.zeros(grid.index.shape, np.int32) if connected else grid.index
    found: list[tuple[Label, int, Box]] = []
    for label in labels:
        mask = (grid.index == label.index).view(np.uint8)
        box = _box(cv2.boundingRect(mask))
        if not box[2]:
            continue
        if not connected:
            found.append((label, label.index, box))
            continue
        # Classes do not overlap, so all their parts can be numbered in one picture.
        count, own, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_32S)
        before = len(found)
        np.add(own, before, out=numbers, where=mask.view(np.bool_))
        found.extend((label, before + number, _box(stats[number])) for number in range(1, count))
    most = max((number for _, number, _ in found), default=0)
    areas, scores = _sums(grid, numbers, most)
    parts = [
        _Part(label, number, box, round(areas[number]), scores[number] / areas[number] / 255)
        for label, number, box in found
        if not connected or areas[number] >= min_area
    ]
    if connected:
        parts = sorted(parts, key=lambda part: -part.area)[:MOST_INSTANCES]
        parts.sort(key=lambda part: part.label.index)  # stable: within a class still by falling area
    return numbers, parts


def _box(values: Any) -> Box:
    left, top, width, height = (int(value) for value in values[:_CORNERS])
    return left, top, width, height


def _sums(grid: _Grid, numbers: NDArray[Any], most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each number from 0 to `most`, its pixels at full size and the sum of their scores; exact below 2 ** 53."""
    areas, scores = np.zeros(most + 1), np.zeros(most + 1)
    heights, widths = np.diff(grid.row_edges), np.diff(grid.column_edges)
    for top in range(0, len(heights), _STRIP_ROWS):
        strip = slice(top, top + _STRIP_ROWS)
        inside = np.flatnonzero(numbers[strip])
        chosen = numbers[strip].ravel()[inside]
        weights = np.outer(heights[strip], widths).ravel()[inside]
        areas += np.bincount(chosen, weights, most + 1)[: most + 1]
        scores += np.bincount(chosen, weights * grid.score[strip].ravel()[inside], most + 1)[: most + 1]
    return areas, scores


def _run_lengths(
    mask: NDArray[np.bool_], y: NDArray[np.int64], x: NDArray[np.int64], size: tuple[int, int]
) -> NDArray[np.int64]:
    """How many pixels of full size are outside, inside, outside and so on, counted down the columns as COCO does.

    Args:
        mask: (r, c), at least one pixel of it True.
        y, x: (r + 1,) and (c + 1,) where its rows and columns begin at full size.
        size: (H, W).
    """
    height, width = size
    rows, columns = mask.shape
    framed = np.zeros((columns, rows + 2), np.bool_)
    framed[:, 1:-1] = mask.T
    column, row = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), rows + 1)
    begins, ends = y[row[::2]], y[row[1::2]]
    runs = np.bincount(column[::2], minlength=columns)
    # Each column's runs come as often as it is wide at full size.
    repeated = np.repeat(np.arange(columns), np.diff(x))
    runs_of = runs[repeated]
    first_of = (np.cumsum(runs) - runs)[repeated]
    place = np.arange(runs_of.sum()) + np.repeat(first_of - (np.cumsum(runs_of) - runs_of), runs_of)
    offset = np.repeat(np.arange(x[0], x[-1]) * height, runs_of)
    begin, end = offset + begins[place], offset + ends[place]
    # A run at the foot of one column goes on at the head of the next.
    parted = begin[1:] != end[:-1]
    begin, end = begin[np.append(True, parted)], end[np.append(parted, True)]
    bounds = np.zeros(2 * len(begin) + 2, np.int64)
    bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = begin, end, height * width
    lengths = np.diff(bounds)
    return lengths if lengths[-1] else lengths[:-1]


def _compressed(lengths: NDArray[np.int64], size: tuple[int, int]) -> str:
    counts: bytes = coco.frPyObjects({"size": list(size), "counts": lengths}, *size)["counts"]
    return counts.decode("ascii")


def _polygons(
    mask: NDArray[np.bool_], y: NDArray[np.int64], x: NDArray[np.int64], tolerance: float
) -> Iterator[list[list[int]]]:
    """Outlines along the edges of pixels, the largest part first; arguments as in `_run_lengths`."""
    # OpenCV walks from pixel centre to pixel centre. With every pixel doubled, the walk's odd coordinates are right
    # and lower edges and the even ones left and upper edges, and both of (n + 1) // 2 give the corner they stand at.
    doubled = np.repeat(np.repeat(mask.view(np.uint8), 2, axis=0), 2, axis=1)
    walks, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outlines: dict[int, list[Ring]] = {}
    for place, (walk, (_, _, _, parent)) in enumerate(zip(walks, tree[0], strict=True)):
        corners = (walk[:, 0] + 1) // 2
        ring = np.stack([x[corners[:, 0]], y[corners[:, 1]]], axis=1).astype(np.int32)
        outlines.setdefault(place if parent < 0 else int(parent), []).append(ring)
    for rings in sorted(outlines.values(), key=lambda rings: -cv2.contourArea(rings[0])):
        yield [_simplified(ring, tolerance).ravel().tolist() for ring in rings]


def _simplified(ring: Ring, tolerance: float) -> Ring:
    """(n, 2) without repeated points, and without those that may go; a ring that would become a line stays whole."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    if tolerance <= 0:
        return ring
    simple = np.asarray(cv2.approxPolyDP(ring, tolerance, True)[:, 0], np.int32)
    return simple if len(simple) > 2 and cv2.contourArea(simple) > 0 else ring
