"""The network's grey answer -> PNG bytes at the input image's size: mask, soft mask, overlay.

An answer is small (say 448x448) and the input image may be large: nearest upsampling repeats rows and
columns, so only the few distinct rows are ever made, and the PNG says "as above" for the others. Outputs
carry no metadata. Sizes are (height, width).
"""

import struct
import zlib
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.uint8]

OVERLAY_DARKNESS: Final = 0.4
"""What the original's overlay leaves of the background's brightness."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_FILTER_NONE: Final = 0
_FILTER_UP: Final = 2


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
    mask = upsample_nearest(binarise(grey, threshold), (image.height, image.width))
    overlay = image.point([int(value * OVERLAY_DARKNESS) for value in range(256)] * 3)
    overlay.paste(image, mask=Image.fromarray(mask))
    overlay.info.clear()
    buffer = BytesIO()
    overlay.save(buffer, "PNG", compress_level=1)  # higher levels take four times as long and save a tenth
    return buffer.getvalue()


def _source_indices(inner: int, outer: int) -> NDArray[np.intp]:
    """Which of `inner` pixels each of `outer` pixels shows; in float32, as torch reckons it."""
    scale = np.float32(inner) / np.float32(outer)
    indices = (np.arange(outer, dtype=np.float32) * scale).astype(np.intp)
    return np.minimum(indices, inner - 1)


def _encode_upsampled(grey: Grey, size: tuple[int, int]) -> bytes:
    """Upsample and encode in one go, without the full-size picture.

    A row that repeats the one above is all zeros under PNG's filter "up"; zlib's run-length strategy then
    passes over it at memory speed, and finds the runs within the other rows, too.
    """
    height, width = size
    rows, columns = _source_indices(grey.shape[0], height), _source_indices(grey.shape[1], width)
    is_new = np.flatnonzero(np.diff(rows, prepend=-1))
    scanlines = np.zeros((height, 1 + width), dtype=np.uint8)  # a filter byte, then the pixels
    scanlines[:, 0] = _FILTER_UP
    scanlines[is_new, 0] = _FILTER_NONE
    scanlines[is_new, 1:] = grey[rows[is_new]][:, columns]
    deflate = zlib.compressobj(level=1, memLevel=9, strategy=zlib.Z_RLE)
    pixels = deflate.compress(scanlines.data) + deflate.flush()
    # bit depth 8, colour type 0 (grey), deflate, adaptive filters, not interlaced
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
