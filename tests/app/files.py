"""Pictures and masks without symmetry, as files, for the tests of decoding."""

from __future__ import annotations

import io
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
