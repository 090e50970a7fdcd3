"""The network's grey answer -> PNG bytes at the input image's size: mask, soft mask, overlay.

An answer is small (say 448x448) and the input image may be large: nearest upsampling repeats rows and
columns, so only the few distinct rows are ever made, and the PNG says "as above" for the others. Outputs
carry no metadata. Sizes are (height, width).
"""

import struct
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.uint8]

OVERLAY_DARKNESS: Final = 0.4
"""What the original's overlay leaves of the background's brightness."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY: Final = 0
_RGB: Final = 2
_FILTER_SUB: Final = 1
_FILTER_UP: Final = 2
_STRIP_ROWS: Final = 64
_ZLIB_HEADER: Final = b"\x78\x01"
_ADLER: Final = 65521
_MOST_AT_ONCE: Final = 32
# From about so many bytes for each distinct row on, putting the stream together is faster than compressing all of it.
_WORTH_REPEATING_BYTES: Final = 16_000


def binarise(grey: Grey, threshold: float) -> Grey:
    """The pixels that belong to the mask: strictly brighter than threshold * 255.

    Args:
        grey: (h, w) uint8, 255 = surely the object.
        threshold: in [0, 1]; 0 keeps all that is not black, 1 nothing, 0.5 is the reference's mean > 127.5.

    Returns:
        (h, w) uint8, 0 and 255.
    """
    return np.where(grey > threshold * 255, np.uint8(255), np.uint8(0))


def upsample_nearest(grey: Grey, size: tuple[int, int]) -> Grey:
    """Nearest resize with torch's floor rule (not Pillow's pixel centres), both up and down.

    Args:
        grey: (h, w) uint8.
        size: (H, W) of the result.

    Returns:
        (H, W) uint8, equal to `torch.nn.functional.interpolate(mode="nearest")`.
    """
    rows, columns = (_source_indices(inner, outer) for inner, outer in zip(grey.shape, size, strict=True))
    return grey[:, columns][rows]


def encode_mask(grey: Grey, size: tuple[int, int], threshold: float) -> bytes:
    """The mask as an 8-bit grey PNG of 0 and 255.

    Args:
        grey: (h, w) uint8 answer.
        size: (H, W) of the input image.
        threshold: see `binarise`.
    """
    return _encode_upsampled(binarise(grey, threshold), size)


def encode_soft(grey: Grey, size: tuple[int, int]) -> bytes:
    """The answer itself as an 8-bit grey PNG, 255 = surely the object; arguments as in `encode_mask`."""
    return _encode_upsampled(grey, size)


def encode_overlay(image: Image.Image, grey: Grey, threshold: float) -> bytes:
    """The input image with all but the mask darkened, as an RGB PNG.

    Args:
        image: mode "RGB", upright, at its full size.
        grey: (h, w) uint8 answer.
        threshold: see `binarise`.

    Source:
        The original's picture, `input * (0.6 * output / 255 + 0.4)` cut to whole numbers; output is the mask.
    """
    height, width = image.height, image.width
    rows, columns = _source_indices(grey.shape[0], height), _source_indices(grey.shape[1], width)
    mask = binarise(grey, threshold)[:, columns]
    dark = [int(value * OVERLAY_DARKNESS) for value in range(256)] * 3
    deflate = _deflate()
    parts = []
    # In strips: each stays in the processor's cache, and no second picture of full size is made.
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        strip = image.crop((0, top, width, bottom))
        overlay = strip.point(dark)
        overlay.paste(strip, mask=Image.fromarray(mask[rows[top:bottom]]))
        pixels = np.frombuffer(overlay.tobytes(), np.uint8).reshape(bottom - top, 3 * width)
        scanlines = np.empty((bottom - top, 1 + 3 * width), np.uint8)
        scanlines[:, 0] = _FILTER_SUB
        scanlines[:, 1:4] = pixels[:, :3]
        np.subtract(pixels[:, 3:], pixels[:, :-3], out=scanlines[:, 4:])
        parts.append(deflate.compress(scanlines.data))
    return _png((height, width), _RGB, b"".join(parts) + deflate.flush())


def _source_indices(inner: int, outer: int) -> NDArray[np.intp]:
    """Which of `inner` pixels each of `outer` pixels shows; in float32, as torch reckons it."""
    scale = np.float32(inner) / np.float32(outer)
    indices = (np.arange(outer, dtype=np.float32) * scale).astype(np.intp)
    return np.minimum(indices, inner - 1)


def _encode_upsampled(grey: Grey, size: tuple[int, int]) -> bytes:
    """Upsample and encode in one go: a row that repeats the one above is all zeros under PNG's filter "up"."""
    height, width = size
    rows, columns = _source_indices(grey.shape[0], height), _source_indices(grey.shape[1], width)
    # The answer's own rows repeat as well: above and below a thing all are black.
    kinds = np.cumsum(np.concatenate(([False], (grey[1:] != grey[:-1]).any(axis=1))))
    is_new = np.flatnonzero(np.diff(kinds[rows], prepend=-1))
    distinct = np.zeros((len(is_new), 1 + width), dtype=np.uint8)  # a filter byte, then the pixels
    distinct[:, 1:] = grey[rows[is_new]][:, columns]
    if height * width > _WORTH_REPEATING_BYTES * len(is_new):
        repeats = np.diff(is_new, append=height) - 1
        return _png(size, _GREY, _deflated_repeats(distinct, repeats.tolist()))
    scanlines = np.zeros((height, 1 + width), dtype=np.uint8)
    scanlines[:, 0] = _FILTER_UP
    scanlines[is_new] = distinct
    deflate = _deflate()
    return _png(size, _GREY, deflate.compress(scanlines.data) + deflate.flush())


def _deflated_repeats(distinct: Grey, repeats: list[int]) -> bytes:
    """The zlib stream of rows and their repetitions, without passing over the repetitions.

    Between two full flushes a deflate stream refers to nothing before it, so n repetitions, which are always the same
    bytes, are compressed once and put in wherever they are needed. Source: RFC 1950, RFC 1951.

    Args:
        distinct: (rows, 1 + width) uint8 scanlines.
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


def _deflate(*, raw: bool = False) -> "zlib._Compress":
    """Run-length only: masks are runs, and photographs under a filter compress as well and twice as fast."""
    return zlib.compressobj(level=1, wbits=-15 if raw else 15, memLevel=9, strategy=zlib.Z_RLE)


def _png(size: tuple[int, int], colour_type: int, pixels: bytes) -> bytes:
    """A file of deflated scanlines, 8 bits per channel, without metadata."""
    height, width = size
    # bit depth 8, deflate, adaptive filters, not interlaced
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
