"""Pixels -> PNG bytes, written without metadata.

Pictures made by nearest upsampling repeat their rows: only the few distinct rows are ever made, and the file says "as
above" for the others. Sizes are (height, width).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

Bytes = NDArray[np.uint8]

GREY: Final = 0
RGB: Final = 2
PALETTE: Final = 3

STRIP_ROWS: Final = 64
"""Pictures of full size are worked on in strips of so many rows, which stay in the processor's cache."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_FILTER_NONE: Final = 0
_FILTER_SUB: Final = 1
_FILTER_UP: Final = 2


def encode_repeated(
    pixels: NDArray[Any],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    kind: int,
    colours: Bytes | None = None,
) -> bytes:
    """A picture whose pixel (y, x) shows `pixels[rows[y], columns[x]]`.

    Args:
        pixels: (h, w) uint8, or uint16 for 16-bit grey.
        rows: (H,), never falling.
        columns: (W,).
        kind: GREY, or PALETTE or RGB with `colours`.
        colours: (n, 3) uint8, what the values of `pixels` look like: the file's palette, or what RGB pixels become.
    """
    size = height, _ = len(rows), len(columns)
    # The answer's own rows repeat as well: above and below a thing all are black.
    kinds = np.cumsum(np.concatenate(([False], (pixels[1:] != pixels[:-1]).any(axis=1))))
    is_new = np.diff(kinds[rows], prepend=-1) != 0
    table = colours if kind == RGB else None
    palette = colours if kind == PALETTE else None
    depth = 8 * pixels.dtype.itemsize
    row_bytes = len(columns) * (3 if kind == RGB else depth // 8)
    deflate = _deflate()
    parts = []
    as_above = np.zeros((STRIP_ROWS, 1 + row_bytes), np.uint8)
    as_above[:, 0] = _FILTER_UP
    for top in range(0, height, STRIP_ROWS):
        news = is_new[top : top + STRIP_ROWS]
        scanlines = as_above[: len(news)]
        if news.any():
            scanlines = scanlines.copy()
            scanlines[news] = _scanlines(pixels, rows[top : top + STRIP_ROWS][news], columns, table)
        parts.append(deflate.compress(scanlines.data))
    return _png(size, kind, b"".join(parts) + deflate.flush(), depth, palette)


def encode_strips(size: tuple[int, int], strips: Iterable[Bytes]) -> bytes:
    """An RGB picture that comes in strips from the top, so that no second picture of full size is made.

    Args:
        size: (H, W) of the whole.
        strips: each (n, W, 3) or (n, 3 W) uint8.
    """
    deflate = _deflate()
    parts = [deflate.compress(_subtracted(strip.reshape(len(strip), -1), 3).data) for strip in strips]
    return _png(size, RGB, b"".join(parts) + deflate.flush())


def _scanlines(pixels: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp], table: Bytes | None) -> Bytes:
    """(rows, 1 + bytes of a row): a filter byte, then the pixels."""
    chosen = pixels[rows][:, columns]
    if table is not None:
        return _subtracted(table[chosen].reshape(len(rows), -1), 3)
    if chosen.dtype == np.uint16:
        return _subtracted(chosen.astype(">u2", order="C").view(np.uint8), 2)
    # Of one byte per pixel runs are runs as they are.
    scanlines = np.empty((len(rows), 1 + len(columns)), np.uint8)
    scanlines[:, 0] = _FILTER_NONE
    scanlines[:, 1:] = chosen
    return scanlines


def _subtracted(samples: Bytes, pixel_bytes: int) -> Bytes:
    """Scanlines of differences to the pixel on the left: runs of one colour become runs of zeros."""
    scanlines = np.empty((len(samples), 1 + samples.shape[1]), np.uint8)
    scanlines[:, 0] = _FILTER_SUB
    scanlines[:, 1 : 1 + pixel_bytes] = samples[:, :pixel_bytes]
    np.subtract(samples[:, pixel_bytes:], samples[:, :-pixel_bytes], out=scanlines[:, 1 + pixel_bytes :])
    return scanlines


def _deflate() -> zlib_ng._Compress:
    """Run-length only: masks are runs, and photographs under a filter hardly compress better any other way."""
    return zlib_ng.compressobj(level=1, memLevel=9, strategy=zlib_ng.Z_RLE)


def _png(size: tuple[int, int], kind: int, pixels: bytes, depth: int = 8, palette: Bytes | None = None) -> bytes:
    """A file of deflated scanlines, without metadata."""
    height, width = size
    # deflate, adaptive filters, not interlaced
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    if palette is not None:
        chunks.append(_chunk(b"PLTE", palette.tobytes()))
    return b"".join([_SIGNATURE, *chunks, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")])


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib_ng.crc32(content, zlib_ng.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
