"""Input images with classes drawn over them, and a legend that says which colour is what. Sizes are (height, width)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from app import png
from app.labels import Colour, Label, Labels
from app.masks import colour_table
from app.upsampling import source_indices

BACKGROUND_DARKNESS: Final = 0.55
"""What is left of the brightness where no class is, so that light colours show on light pictures."""

TINT: Final = 0.5
"""The colour's share of a tinted pixel."""

LEAST_LEGEND_WIDTH: Final = 48
"""Narrower pictures get no legend: nothing could be read."""

_OUTLINES: Final = 350  # an outline is as wide as the shorter side is long, divided by this
_TEXTS: Final = 32  # so is the legend's text high
_TEXT_PIXELS: Final = (12, 96)  # but not lower and not higher than this
_PAPER: Final = (22, 24, 28)
_INK: Final = (238, 238, 240)
_FRAME: Final = (120, 122, 128)
_NOTHING: Final = "nothing found"


def encode_classes_overlay(image: Image.Image, index: NDArray[np.uint8], labels: Labels) -> bytes:
    """The input image with each class tinted and outlined in its colour and all else darkened, as an RGB PNG.

    Args:
        image: mode "RGB", upright, at its full size.
        index: (h, w) uint8 class indices, 0 = background.
        labels: the classes.

    Returns:
        A picture as wide as the image and higher: below the image stands a strip with the names of the classes that are
        in it, so that the legend hides nothing. Pictures narrower than `LEAST_LEGEND_WIDTH` have none.
    """
    present = np.bincount(index.ravel(), minlength=256)
    legend = _legend((image.height, image.width), tuple(label for label in labels if present[label.index]))
    size = image.height + len(legend), image.width

    def strips() -> Iterator[NDArray[np.uint8]]:
        yield from _tinted(image, index, labels)
        if len(legend):
            yield legend

    return png.encode_strips(size, strips())


def _tinted(image: Image.Image, index: NDArray[np.uint8], labels: Labels) -> Iterator[NDArray[np.uint8]]:
    height, width = image.height, image.width
    columns = source_indices(index.shape[1], width)
    rows = source_indices(index.shape[0], height)
    colours = colour_table(labels)
    dark = [int(value * BACKGROUND_DARKNESS) for value in range(256)] * 3
    line = max(1, min(height, width) // _OUTLINES)
    for top in range(0, height, png.STRIP_ROWS):
        bottom = min(top + png.STRIP_ROWS, height)
        # Outlines look at the rows around the strip as well; beyond the picture its own edge goes on.
        around = index[rows[np.arange(top - line, bottom + line).clip(0, height - 1)]][:, columns]
        shown = around[line:-line]
        strip = image.crop((0, top, width, bottom))
        colour = Image.fromarray(colours[shown])
        drawn = strip.point(dark)
        drawn.paste(Image.blend(strip, colour, TINT), mask=_as_mask(shown > 0))
        drawn.paste(colour, mask=_as_mask(_edges(around, line) & (shown > 0)))
        yield np.frombuffer(drawn.tobytes(), np.uint8).reshape(bottom - top, -1)


def _edges(around: NDArray[np.uint8], line: int) -> NDArray[np.bool_]:
    """Which pixels are within `line` of another class, for all but the first and last `line` rows."""
    shown = around[line:-line]
    edges: NDArray[np.bool_] = (shown != around[2 * line :]) | (shown != around[: -2 * line])
    differ = shown[:, line:] != shown[:, :-line]
    edges[:, line:] |= differ
    edges[:, :-line] |= differ
    return edges


def _as_mask(chosen: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(chosen.view(np.uint8) * np.uint8(255))


def _legend(size: tuple[int, int], labels: Labels) -> NDArray[np.uint8]:
    """Chips and names in rows: (n, W, 3) uint8, n = 0 where the picture is too narrow."""
    height, width = size
    if width < LEAST_LEGEND_WIDTH:
        return np.zeros((0, width, 3), np.uint8)
    text = min(max(min(height, width) // _TEXTS, _TEXT_PIXELS[0]), _TEXT_PIXELS[1])
    font = ImageFont.load_default(text)
    gap, pitch = text // 2, round(1.6 * text)
    entries: list[tuple[Colour | None, str]] = [(label.colour, _drawable(label)) for label in labels]
    places: list[tuple[int, int, Colour | None, str]] = []
    x = y = gap
    for colour, called in entries or [(None, _NOTHING)]:
        before = 0 if colour is None else text + gap
        name, length = _fitted(called, font, width - 2 * gap - before)
        if x > gap and x + before + length > width - gap:
            x, y = gap, y + pitch
        places.append((x, y, colour, name))
        x += before + length + 2 * gap
    legend = Image.new("RGB", (width, y + pitch), _PAPER)
    draw = ImageDraw.Draw(legend)
    draw.line((0, 0, width, 0), fill=_FRAME)  # parts it from dark pictures
    for x, y, colour, name in places:
        if colour is not None:
            draw.rectangle((x, y, x + text, y + text), fill=colour, outline=_FRAME, width=max(1, text // 12))
        draw.text((x + (0 if colour is None else text + gap), y + text // 2), name, _INK, font, anchor="lm")
    return np.asarray(legend)


def _drawable(label: Label) -> str:
    """The name in letters that Pillow's bundled font has: accents go, and other scripts give way to the index."""
    letters = unicodedata.normalize("NFKD", label.name)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return plain if plain.isascii() else f"class {label.index}"


def _fitted(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> tuple[str, int]:
    """The name, cut where it is too long for the room, and how many pixels it takes."""
    shown = name
    for kept in range(len(name), 0, -1):
        shown = name if kept == len(name) else name[:kept].rstrip() + "..."
        if font.getlength(shown) <= room:
            break
    return shown, round(font.getlength(shown))
