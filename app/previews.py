"""What a registered prompt looks like: its first examples side by side, the masks laid over them in their colours."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image

from app.examples import Example
from app.images import Limits, decode_colour_mask, decode_image, decode_index_mask, decode_mask
from app.labels import BINARY, Colour, Labels, PromptKind

MOST_EXAMPLES: Final = 4
MOST_HEIGHT: Final = 512
_MOST_WIDTH: Final = 1024  # of each example
_GAP: Final = 8
_TINT: Final = 0.55
# White, which the network is shown for the one class of binary masks, would not be seen on most photographs.
_BINARY_TINT: Final[Colour] = (255, 40, 90)
_MIDDLE_GREY: Final = 127.5
_DECODERS: Final = {
    "binary": decode_mask,
    "index": decode_index_mask,
    "colour": decode_colour_mask,
    "tuned": decode_image,
}


def preview(examples: Sequence[Example], kind: PromptKind, labels: Labels, limits: Limits) -> bytes:
    """Draw at most 4 examples in one row; decodes them one after the other.

    Args:
        examples: encoded; their masks are of this kind and have these labels.
        kind: how the masks show classes.
        labels: the classes.
        limits: what a picture may measure.

    Returns:
        An RGB PNG at most 512 pixels high.

    Raises:
        ImageProblem: a picture is over the limits, which were others when it was registered.
    """
    drawn = [_draw(example, number, kind, labels, limits) for number, example in enumerate(examples[:MOST_EXAMPLES])]
    width = sum(picture.width for picture in drawn) + _GAP * (len(drawn) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in drawn)), "white")
    left = 0
    for picture in drawn:
        row.paste(picture, (left, (row.height - picture.height) // 2))
        left += picture.width + _GAP
    buffer = BytesIO()
    row.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _draw(example: Example, number: int, kind: PromptKind, labels: Labels, limits: Limits) -> Image.Image:
    """One example, scaled down to its place, with its mask."""
    picture = decode_image(example.image, limits, f"prompt_image[{number}]")
    picture.thumbnail((_MOST_WIDTH, MOST_HEIGHT), Image.Resampling.BICUBIC)
    decode = _DECODERS[kind]
    full = decode(example.mask, limits, f"prompt_mask[{number}]")
    mask = np.asarray(full.resize(picture.size, Image.Resampling.NEAREST))  # (h, w), or (h, w, 3) of colours
    pixels = np.array(picture)
    for label in labels:
        is_one = kind in {"binary", "tuned"}
        colour = _BINARY_TINT if is_one and label.colour == BINARY[0].colour else label.colour
        if kind == "colour":
            where = (mask == np.array(label.colour, np.uint8)).all(axis=2)
        elif kind == "tuned":
            where = mask.mean(axis=2) > _MIDDLE_GREY
        else:
            where = mask > 0 if kind == "binary" else mask == label.index
        tinted = pixels[where] * (1 - _TINT) + np.array(colour) * _TINT
        pixels[where] = tinted.astype(np.uint8)
    return Image.fromarray(pixels)
