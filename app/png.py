"""Pixels -> PNG bytes, written without metadata.

Pictures made by nearest upsampling repeat their rows: only the few distinct rows are ever made, and the file says "as
above" for the others. Sizes are (height, width).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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
_ZLIB_HEADER: Final = b"\x78\x01"
_ADLER: Final = 65521
_MOST_AT_ONCE: Final = 32
# From about so many bytes for each distinct row on, putting the stream together is faster than compressing all of it.
_WORTH_REPEATING_BYTES: Final = 16_000


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
    new_rows = np.flatnonzero(is_new)
    row_bytes = len(columns) * (3 if kind == RGB else depth // 8)
    if height * row_bytes > _WORTH_REPEATING_BYTES * len(new_rows):
        repeats = np.diff(new_rows, append=height) - 1
        distinct = _scanlines(pixels, rows[new_rows], columns, table)
        return _png(size, kind, _deflated_repeats(distinct, repeats.tolist()), depth, palette)
    deflate = _deflate()
    parts = []
    for top in range(0, height, STRIP_ROWS):
        news = is_new[top : top + STRIP_ROWS]
        scanlines = np.zeros((len(news), 1 + row_bytes), np.uint8)
        scanlines[:, 0] = _FILTER_UP
        if news.any():
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


def _deflated_repeats(distinct: Bytes, repeats: list[int]) -> bytes:
    """The zlib stream of rows and their repetitions, without passing over the repetitions.

    Between two full flushes a deflate stream refers to nothing before it, so n repetitions, which are always the same
    bytes, are compressed once and put in wherever they are needed. Source: RFC 1950, RFC 1951.

    Args:
        distinct: (rows, 1 + bytes of a row) uint8 scanlines.
        repeats: after each of them, how many scanlines repeat it.
    """
    deflate = _deflate(raw=True)
    same = (bytes([_FILTER_UP]) + bytes(distinct.shape[1] - 1)) * _MOST_AT_ONCE
    known: dict[int, tuple[bytes, int, int]] = {}
    stream, checksum = [_ZLIB_HEADER], 1
    for row, count in zip(distinct, repeats, strict=True):
        stream.append(deflate.compress(row.data) + deflate.flush(zlib.Z_FULL_FLUSH))
        checksum = _joined_checksum(checksum, zlib.adler32(row.data), len(row))
        for number in [_MOST_AT_ONCE] * (count // _MOST_AT_ONCE) + [count % _MOST_AT_ONCE]:
            if number not in known:
                part = same[: number * len(row)]
                other = _deflate(raw=True)
                compressed = other.compress(part) + other.flush(zlib.Z_FULL_FLUSH)
                known[number] = compressed, zlib.adler32(part), len(part)
            compressed, adler, length = known[number]
            stream.append(compressed)
            checksum = _joined_checksum(checksum, adler, length)
    return b"".join([*stream, deflate.flush(), struct.pack(">I", checksum)])


def _joined_checksum(first: int, second: int, second_length: int) -> int:
    """Adler-32 of two pieces of data from those of each. Source: RFC 1950, section 8.2."""
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % _ADLER
    high = ((first >> 16) + (second >> 16) + second_length * ((first & 0xFFFF) - 1)) % _ADLER
    return high << 16 | low


def _deflate(*, raw: bool = False) -> zlib._Compress:
    """Run-length only: masks are runs, and photographs under a filter compress as well and twice as fast."""
    return zlib.compressobj(level=1, wbits=-15 if raw else 15, memLevel=9, strategy=zlib.Z_RLE)


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
    checksum = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
