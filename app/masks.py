"""The network's answer -> PNG bytes at the input image's size: mask, soft mask, class indices, colours.

An answer is small (say 448x448) and the input image may be large: nearest upsampling repeats rows and
columns, which `app.png` makes use of. Outputs carry no metadata. Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app import png
from app.labels import Labels, palette
from app.levels import above, kept
from app.upsampling import source_indices, upsample_nearest

__all__ = [
    "OVERLAY_DARKNESS",
    "Grey",
    "binarise",
    "colour_table",
    "encode_colour",
    "encode_index",
    "encode_mask",
    "encode_overlay",
    "encode_soft",
    "upsample_nearest",
]

Grey = NDArray[np.uint8]

OVERLAY_DARKNESS: Final = 0.4
"""What the original's overlay leaves of the background's brightness."""


def binarise(grey: Grey, threshold: float) -> Grey:
    """The pixels that belong to the mask: strictly brighter than threshold * 255.

    Args:
        grey: (h, w) uint8, 255 = surely the object.
        threshold: in [0, 1]; 0 keeps all that is not black, 1 nothing, 0.5 is the reference's mean > 127.5.

    Returns:
        (h, w) uint8, 0 and 255.
    """
    return kept(above(grey, threshold), np.uint8(255))


def encode_mask(grey: Grey, size: tuple[int, int], threshold: float) -> bytes:
    """The mask as an 8-bit grey PNG of 0 and 255.

    Args:
        grey: (h, w) uint8 answer.
        size: (H, W) of the input image.
        threshold: see `binarise`.
    """
    return _encode_upsampled(binarise(grey, threshold), size, png.GREY)


def encode_soft(grey: Grey, size: tuple[int, int]) -> bytes:
    """The answer itself as an 8-bit grey PNG, 255 = surely the object; arguments as in `encode_mask`."""
    return _encode_upsampled(grey, size, png.GREY)


def encode_index(index: NDArray[np.uint8] | NDArray[np.uint16], size: tuple[int, int], labels: Labels | None) -> bytes:
    """The numbers themselves: pixel values are class indices, or the numbers of connected objects.

    Args:
        index: (h, w) uint8 class indices, 0 = background; or uint16 numbers of `app.segments.instance_map`.
        size: (H, W) of the input image.
        labels: the classes; None for numbers that are not classes.

    Returns:
        An 8-bit PNG whose palette shows the labels' colours (colours that are far apart for numbers without a label),
        or a 16-bit grey PNG where a number is above 255.
    """
    highest = int(index.max())
    if highest > 255:
        return _encode_upsampled(index, size, png.GREY)
    highest = max(highest, *(label.index for label in labels or ()), 1)
    colours = palette(highest)
    for label in labels or ():
        colours[label.index] = label.colour
    return _encode_upsampled(index.astype(np.uint8, copy=False), size, png.PALETTE, colours)


def encode_colour(index: Grey, size: tuple[int, int], labels: Labels) -> bytes:
    """Each class in its colour on black, as an RGB PNG.

    Args:
        index: (h, w) uint8 class indices, 0 = background.
        size: (H, W) of the input image.
        labels: the classes.
    """
    return _encode_upsampled(index, size, png.RGB, colour_table(labels))


def colour_table(labels: Labels) -> Grey:
    """The colour of each class index: (256, 3) uint8, black where there is no label."""
    table = np.zeros((256, 3), np.uint8)
    for label in labels:
        table[label.index] = label.colour
    return table


def encode_overlay(image: Image.Image, grey: Grey, threshold: float) -> bytes:
    """The input image with all but the mask darkened, as an RGB PNG.

    Args:
        image: mode "RGB", upright, at its full size.
        grey: (h, w) uint8 answer.
        threshold: see `binarise`.

    Source:
        The original's picture, `input * (0.6 * output / 255 + 0.4)` cut to whole numbers; output is the mask.
    """
    height, width = size = image.height, image.width
    rows, columns = source_indices(grey.shape[0], height), source_indices(grey.shape[1], width)
    mask = binarise(grey, threshold)[:, columns]
    dark = [int(value * OVERLAY_DARKNESS) for value in range(256)] * 3

    def strips() -> Iterator[Grey]:
        for top in range(0, height, png.STRIP_ROWS):
            bottom = min(top + png.STRIP_ROWS, height)
            strip = image.crop((0, top, width, bottom))
            overlay = strip.point(dark)
            overlay.paste(strip, mask=Image.fromarray(mask[rows[top:bottom]]))
            yield np.frombuffer(overlay.tobytes(), np.uint8).reshape(bottom - top, -1)

    return png.encode_strips(size, strips())


def _encode_upsampled(pixels: NDArray[Any], size: tuple[int, int], kind: int, colours: Grey | None = None) -> bytes:
    rows, columns = (source_indices(inner, outer) for inner, outer in zip(pixels.shape, size, strict=True))
    return png.encode_repeated(pixels, rows, columns, kind, colours)
