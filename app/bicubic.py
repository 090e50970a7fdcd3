"""Bicubic resizing of pictures, bit for bit as Pillow does it, in a quarter of the time.

Pillow goes from pixel to pixel; here 32 rows are worked on side by side, which fills the vector registers of any
processor. Its arithmetic is kept as it is, so that no pixel comes out another way: weights as whole numbers, one side
after the other, rounded to 8 bits in between.

Pictures are read where Pillow keeps them, four bytes a pixel, through its Arrow interface: copying a photo of 12
megapixels to numpy takes as long as resizing it did.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions have no annotations: numba infers types, for each kind of array anew.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import nanoarrow
import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image

# Arrow shows memory that lies in one piece; by default Pillow cuts pictures of more than 16 MB. For the whole process.
Image.core.set_use_block_allocator(1)  # type: ignore[attr-defined]

_BYTES: Final = 4  # of a pixel in Pillow's memory
_ROWS: Final = 32  # side by side; their window of a photo's columns stays in the second cache
_LANES: Final = _ROWS * _BYTES
_COLUMNS: Final = 16  # transposed at a time: the lines of both sides then stay in the first cache
_TOGETHER: Final = 4  # weights a sum takes at a time, for fewer loads and stores of the sum
_PRECISION: Final = 22  # bits behind a weight's point: 32, less 8 of the pixel and 2 for what the cubic overshoots
_SUPPORT: Final = 2.0  # how far the cubic reaches, in pixels of the coarser side
_STEEPNESS: Final = -0.5  # the cubic's free parameter
_LARGEST: Final = 255
_KEPT_WEIGHTS: Final = 64

Box = tuple[float, float, float, float]


def bicubic(image: Image.Image, size: tuple[int, int], box: Box | None = None) -> NDArray[np.uint8]:
    """Resize a picture; the interpreter lock is free meanwhile.

    Args:
        image: mode "RGB".
        size: (h, w) of the result.
        box: left, top, right, bottom of the part that is meant, in pixels; None is the whole.

    Returns:
        (h, w, 3) uint8, equal to `image.resize((w, h), Image.Resampling.BICUBIC, box)`.

    Raises:
        ValueError: another mode, or a box that is empty or not within the picture.
    """
    if image.mode != "RGB":
        raise ValueError(f"got a picture of mode {image.mode}; allowed is RGB")
    left, top, right, bottom = box or (0, 0, image.width, image.height)
    # Compiled code reads where it is told to, so nothing may lie outside.
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise ValueError(f"got the box {box} of a picture of {image.width}x{image.height} pixels (width x height)")
    height, width = size
    across = _weights(image.width, width, left, right)
    down = _weights(image.height, height, top, bottom)
    resized = np.empty((height, width, 3), np.uint8)
    # Pillow's rule since version 13. The order shows in the answer, because what the first pass gives is rounded.
    columns_first = image.height - height > max(0, 2 * (image.width - width))
    _resize(_memory(image), across.first, across.values, down.first, down.values, columns_first, resized)
    return resized


def prepare() -> None:
    """Compile, which takes seconds where nothing has kept it from an earlier start; else the first call does it."""
    bicubic(Image.new("RGB", (8, 8)), (4, 4))


def _memory(image: Image.Image) -> NDArray[np.uint32]:
    """(H, W) pixels of four bytes, the picture's own memory, kept as long as the array is."""
    pixels = nanoarrow.c_array(image).child(0).view().buffer(1)
    return np.frombuffer(pixels, np.uint32).reshape(image.height, image.width)


@dataclass(frozen=True, slots=True)
class _Weights:
    """What each pixel of one side of the result is made of.

    Args:
        first: (n,) int32, the first pixel of each one's window; rising.
        values: (n, k) int32, the window's weights with `_PRECISION` bits behind the point. All windows have the same
            width and lie within the picture, so some have weights of 0 at an end.
    """

    first: NDArray[np.int32]
    values: NDArray[np.int32]


@lru_cache(_KEPT_WEIGHTS)
def _weights(inner: int, outer: int, start: float, end: float) -> _Weights:
    """The weights of `outer` pixels that show `start` to `end` of `inner`, each step rounded as Pillow rounds it."""
    scale = float(np.float32(end) - np.float32(start)) / outer
    coarseness = max(scale, 1.0)
    reach = _SUPPORT * coarseness
    centres = float(np.float32(start)) + (np.arange(outer) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int32), 0)
    counts = np.minimum((centres + reach + 0.5).astype(np.int32), inner) - first
    places = np.arange(int(counts.max()))
    values = _cubic((places + first[:, None] - centres[:, None] + 0.5) * (1.0 / coarseness))
    values[places >= counts[:, None]] = 0.0
    # One after the other, as Pillow adds them up: numpy's own sum takes another order.
    total = np.add.accumulate(values, axis=1)[:, -1:]
    values = np.divide(values, total, out=values, where=total != 0.0) * (1 << _PRECISION)
    whole = np.trunc(values + np.where(values < 0.0, -0.5, 0.5)).astype(np.int32)
    within = np.minimum(first, inner - len(places))
    origin = places - (first - within)[:, None]
    moved = np.where(origin >= 0, np.take_along_axis(whole, np.maximum(origin, 0), axis=1), np.int32(0))
    return _Weights(within, moved)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    x, a = np.abs(distance), _STEEPNESS
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < _SUPPORT, far, 0.0))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code on the first call, kept on disk where there is a place for it."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        result: Callable[..., Any] = njit(cache=True, **options)(function)
    except RuntimeError:  # neither the source's folder nor the user's cache can be written to
        result = njit(**options)(function)
    return result


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Part of the compiled function that calls it."""
    result: Callable[..., Any] = njit(inline="always", error_model="numpy")(function)
    return result


# Each step is cast: numba widens integers to 64 bits, which halves the vectors.


@_inlined
def _weigh(sums, lines, first, weights, lanes):
    """Add up lines of bytes, each times its weight."""
    whole = len(weights) // _TOGETHER * _TOGETHER
    sums[:] = np.int32(1 << (_PRECISION - 1))  # a half, for rounding
    for place in range(0, whole, _TOGETHER):
        line = first + place
        a, b, c, d = lines[line], lines[line + 1], lines[line + 2], lines[line + 3]
        of_a, of_b, of_c, of_d = weights[place], weights[place + 1], weights[place + 2], weights[place + 3]
        for lane in range(lanes):
            ab = np.int32(np.int32(np.int32(a[lane]) * of_a) + np.int32(np.int32(b[lane]) * of_b))
            cd = np.int32(np.int32(np.int32(c[lane]) * of_c) + np.int32(np.int32(d[lane]) * of_d))
            sums[lane] = np.int32(sums[lane] + np.int32(ab + cd))
    for place in range(whole, len(weights)):
        a, of_a = lines[first + place], weights[place]
        for lane in range(lanes):
            sums[lane] = np.int32(sums[lane] + np.int32(np.int32(a[lane]) * of_a))


@_inlined
def _round(sums, line, lanes):
    """Sums as bytes."""
    for lane in range(lanes):
        value = sums[lane] >> np.int32(_PRECISION)
        line[lane] = np.uint8(min(max(value, np.int32(0)), np.int32(_LARGEST)))


@_compiled
def _across(picture, top, first, weights, narrow):
    """Rows of a picture, from `top` on, made as wide as `narrow`."""
    left, right = first[0], first[-1] + weights.shape[1]
    columns = np.empty((right - left, _ROWS), np.uint32)
    lines = columns.view(np.uint8)
    sums = np.empty(_LANES, np.int32)
    pixels32 = np.empty(_ROWS, np.uint32)
    pixels = pixels32.view(np.uint8)
    for start in range(0, len(narrow), _ROWS):
        rows = min(_ROWS, len(narrow) - start)
        for corner in range(left, right, _COLUMNS):
            for row in range(rows):
                source = picture[top + start + row]
                for column in range(corner, min(corner + _COLUMNS, right)):
                    columns[column - left, row] = source[column]
        for column in range(len(first)):
            _weigh(sums, lines, first[column] - left, weights[column], _LANES)
            _round(sums, pixels, _LANES)
            for row in range(rows):
                narrow[start + row, column] = pixels32[row]


@_compiled
def _down(picture, top, first, weights, low):
    """A picture, whose first row is the whole one's row `top`, made as high as `low`."""
    lines, results = picture.view(np.uint8), low.view(np.uint8)
    sums = np.empty(lines.shape[1], np.int32)
    for row in range(len(first)):
        _weigh(sums, lines, first[row] - top, weights[row], len(sums))
        _round(sums, results[row], len(sums))


@_compiled
def _without_fourth(picture, resized):
    lines = picture.view(np.uint8)
    for row in range(len(resized)):
        source, target = lines[row], resized[row]
        for column in range(len(target)):
            for channel in range(3):
                target[column, channel] = source[column * _BYTES + channel]


@_compiled
def _resize(picture, across_first, across, down_first, down, columns_first, resized):
    small = np.empty(resized.shape[:2], np.uint32)
    if columns_first:
        low = np.empty((resized.shape[0], picture.shape[1]), np.uint32)
        _down(picture, 0, down_first, down, low)
        _across(low, 0, across_first, across, small)
    else:
        top, bottom = down_first[0], down_first[-1] + down.shape[1]
        narrow = np.empty((bottom - top, resized.shape[1]), np.uint32)
        _across(picture, top, across_first, across, narrow)
        _down(narrow, top, down_first, down, small)
    _without_fourth(small, resized)
