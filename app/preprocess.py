"""Pictures and masks -> cells, the small pictures that the network takes. Sizes are (height, width).

numpy sees only what is small already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bicubic import bicubic
from app.errors import InvalidLabels
from app.labels import Labels, hexadecimal, palette

_STRIP_ROWS: Final = 64
_VOID: Final = 255  # what PASCAL VOC and its followers write around things


def to_cell(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> NDArray[np.uint8]:
    """Resize a picture for the network, bicubic, as the reference does it (the aspect is not kept).

    Args:
        image: mode "RGB".
        size: (h, w) of the cell.
        box: left, top, right, bottom of the part that is meant, in pixels; None is the whole.

    Returns:
        (h, w, 3) uint8, RGB in [0, 255].
    """
    # Neither Pillow's reducing_gap nor its draft: both are faster and change pixels.
    return bicubic(image, size, box)


def mask_to_cell(mask: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a mask for the network, nearest pixel centre, white on black.

    Args:
        mask: mode "L", 0 and 255.
        size: (h, w) of the cell.

    Returns:
        (h, w, 3) uint8, 0 and 255.
    """
    height, width = size
    grey = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))
    return np.repeat(grey[:, :, None], 3, axis=2)


def class_mask_to_cell(
    mask: Image.Image, size: tuple[int, int], labels: Labels, field: str = "prompt_mask"
) -> tuple[NDArray[np.uint8], frozenset[int]]:
    """Resize a mask for the network, nearest pixel centre, in the colours of `labels.palette`.

    Args:
        mask: mode "L" with the labels' indices, or mode "RGB" with their colours. 0, 255 and black are the background
            unless they are a label's.
        size: (h, w) of the cell.
        labels: the classes.
        field: the form field, for problems.

    Returns:
        (h, w, 3) uint8 RGB, and the indices of the labels that it shows.

    Raises:
        InvalidLabels: a pixel has an index or a colour that is no label's, however small its region.
    """
    if mask.mode == "RGB":
        known = {0: 0, **{_code(label.colour): place for place, label in enumerate(labels, start=1)}}
    else:
        known = {0: 0, _VOID: 0, **{label.index: place for place, label in enumerate(labels, start=1)}}
    _check_classes(mask, known, labels, field)
    height, width = size
    small = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))
    if mask.mode == "RGB":
        small = (small.astype(np.uint32) * np.array([1 << 16, 1 << 8, 1], np.uint32)).sum(axis=2, dtype=np.uint32)
    values, inverse = np.unique(small, return_inverse=True)
    places = [known[int(value)] for value in values]
    shown = frozenset(labels[place - 1].index for place in places if place)
    return palette(len(labels))[np.array(places)[inverse.reshape(height, width)]], shown


def _check_classes(mask: Image.Image, known: Mapping[int, int], labels: Labels, field: str) -> None:
    """Look for unknown classes at full size: the network's size may show nothing of a small region.

    In strips, since Pillow holds the GIL while it counts.
    """
    for top in range(0, mask.height, _STRIP_ROWS):
        strip = mask.crop((0, top, mask.width, min(top + _STRIP_ROWS, mask.height)))
        # Counting is fast with room for few.
        counts = strip.getcolors(len(known)) or strip.getcolors(strip.width * strip.height)
        assert counts is not None
        unknown = {_code(value) for _, value in counts} - known.keys()
        if unknown:
            shown, allowed = (
                (f"the colour #{min(unknown):06x}", [hexadecimal(label.colour) for label in labels])
                if mask.mode == "RGB"
                else (f"the index {min(unknown)}", [str(label.index) for label in labels])
            )
            raise InvalidLabels(f"{field}: got {shown}; `labels` has {', '.join(allowed)}", field=field)


def _code(value: float | tuple[int, ...]) -> int:
    """An index as it is, 0xrrggbb of a colour."""
    return int.from_bytes(bytes(value)) if isinstance(value, tuple) else int(value)


def stitched(pictures: Sequence[NDArray[np.uint8]], *, are_masks: bool) -> NDArray[np.uint8]:
    """Several pictures as the tiles of one, for the spatial ensemble: the smallest square grid, filled from the first.

    Args:
        pictures: (h, w, 3) uint8 each.
        are_masks: resize to the nearest pixel, so that colours stay what they mean; else bicubic.

    Returns:
        (h, w, 3) uint8.

    Source:
        SegGPT, arXiv:2304.03284, section 3.3: "multiple examples are concatenated in n x n grid and then subsampled to
        the same size as a single example".
    """
    side = math.isqrt(len(pictures) - 1) + 1
    if side == 1:
        return pictures[0]
    height, width = pictures[0].shape[:2]
    filled = [pictures[number % len(pictures)] for number in range(side * side)]
    rows = [np.concatenate(filled[row * side : (row + 1) * side], axis=1) for row in range(side)]
    whole = Image.fromarray(np.concatenate(rows))
    if not are_masks:
        return bicubic(whole, (height, width))
    return np.asarray(whole.resize((width, height), Image.Resampling.NEAREST))
