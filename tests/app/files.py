"""Pictures and masks without symmetry, as files, for the tests of decoding."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from app.images import Limits, decode_mask

LIMITS = Limits(max_pixels=1_000_000, max_side=2000)
ORIENTATION = 0x0112


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, transparent: bytes | None = None) -> bytes:
    """A PNG of any depth and colour type; rows begin with their filter's byte, `transparent` is the chunk tRNS."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    clear = b"" if transparent is None else chunk(b"tRNS", transparent)
    body = header + clear + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def raw_tiff(
    height: int, width: int, *planes: bytes, tags: Mapping[int, int | tuple[int, ...]], order: str = "<"
) -> bytes:
    """A TIFF with any tags; without them 8-bit grey. Each plane is a strip, its bytes in `order`, "<" or ">"."""
    single = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height, 273: 0, 279: 0} | tags
    values = {tag: value if isinstance(value, tuple) else (value,) for tag, value in sorted(single.items())}
    values[279] = tuple(map(len, planes))
    where = 8 + 2 + 12 * len(values) + 4
    first = where + 4 * sum(len(value) for tag, value in values.items() if len(value) > 1 and tag != 273)
    first += 4 * len(planes) if len(planes) > 1 else 0
    values[273] = tuple(first + sum(map(len, planes[:place])) for place in range(len(planes)))
    entries, elsewhere = b"", b""
    for tag, value in values.items():
        numbers = struct.pack(f"{order}{len(value)}I", *value)
        content = numbers if len(value) == 1 else struct.pack(order + "I", where + len(elsewhere))
        elsewhere += numbers if len(value) > 1 else b""
        entries += struct.pack(order + "HHI", tag, 4, len(value)) + content
    magic = b"II" if order == "<" else b"MM"
    head = magic + struct.pack(order + "HIH", 42, 8, len(values)) + entries + bytes(4)
    return head + elsewhere + b"".join(planes)


def scene(height: int = 12, width: int = 16) -> Image.Image:
    """A smooth RGB picture without symmetry; red grows rightwards, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 60)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def blob(height: int = 12, width: int = 16) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A mask without symmetry."""
    truth = np.zeros((height, width), dtype=bool)
    truth[1 : height // 2, 2 : width // 3] = True
    return truth


def exif(orientation: int) -> Image.Exif:
    """EXIF data that says no more than this."""
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def object_of(data: bytes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which pixels a mask file marks."""
    mask = decode_mask(data, LIMITS)
    assert mask.mode == "L"
    pixels = np.asarray(mask)
    assert set(np.unique(pixels)) <= {0, 255}
    return pixels == 255
