"""A made set of pictures for tuning: one kind of thing with several looks, among other things, on cloudy grounds.

A picture shows things of one look only, so no single example shows what the kind is.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE: Final = 192
THINGS: Final = (1, 3)
"""How many a picture has, the least and the most."""

_OTHERS: Final = (3, 6)
_SIDES: Final = (32, 61)
_GRAIN: Final = ((4, 18.0), (16, 12.0), (64, 9.0))  # cells along a side, and strength
_BASE: Final = (60, 190)
_TINT: Final = 0.3
_NOISE: Final = 6.0
_SHADE: Final = 0.25
_ATTEMPTS: Final = 60
_FINER: Final = 2
_NOTCH: Final = 0.42


@dataclass(frozen=True)
class Look:
    """How a thing looks.

    Args:
        shape: one of `_SHAPES`.
        hues: from and to, in shares of the colour circle; below 0 comes from above.
    """

    shape: str
    hues: tuple[float, float]


_RED, _YELLOW, _GREEN = (-0.04, 0.03), (0.12, 0.17), (0.25, 0.4)
_CYAN, _BLUE, _VIOLET = (0.44, 0.5), (0.55, 0.66), (0.74, 0.82)
LOOKS: Final = (Look("disc", _RED), Look("star", _BLUE), Look("square", _YELLOW), Look("bar", _VIOLET))
OTHERS: Final = (Look("square", _GREEN), Look("triangle", _GREEN), Look("disc", _CYAN), Look("bar", _GREEN))


def make(count: int, seed: int) -> list[tuple[Image.Image, Image.Image]]:
    """So many pictures (RGB) with the masks of the things in them (L, 255 and 0); a seed gives the same ones again."""
    random = np.random.default_rng(seed)
    return [_scene(random) for _ in range(count)]


def write(folder: Path, count: int, seed: int) -> Path:
    """The same as a folder for `seggpt tune`: images/000.png, masks/000.png, and so on. Gives the folder."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).glob("*.png"):
            old.unlink()
    for number, (image, mask) in enumerate(make(count, seed)):
        image.save(folder / "images" / f"{number:03d}.png")
        mask.save(folder / "masks" / f"{number:03d}.png")
    return folder


def _scene(random: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    pixels, area = _ground(random), np.zeros((SIDE, SIDE), np.bool_)
    look = LOOKS[random.integers(len(LOOKS))]
    things = [look] * int(random.integers(*THINGS, endpoint=True))
    others = [OTHERS[index] for index in random.integers(len(OTHERS), size=random.integers(*_OTHERS, endpoint=True))]
    taken: list[tuple[int, int, int]] = []
    for number, one in enumerate(things + others):
        side = int(random.integers(*_SIDES, endpoint=True))
        place = _place(side, taken, random)
        if place is None:
            continue  # the first thing always finds one
        taken.append((*place, side))
        cover = _cover(one.shape, side, place, float(random.uniform(0, 360)))
        share = cover[:, :, None]
        pixels = pixels * (1 - share) + _painted(one.hues, random) * share
        if number < len(things):
            area |= cover > 0.5
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), Image.fromarray(area.astype(np.uint8) * 255)


def _ground(random: np.random.Generator) -> NDArray[np.float32]:
    """(SIDE, SIDE, 3) clouds of all sizes in one colour."""
    ground = np.empty((SIDE, SIDE, 3), np.float32)
    ground[:] = random.integers(*_BASE, 3)
    for cells, strength in _GRAIN:
        noise = random.standard_normal((cells, cells), np.float32) * np.float32(strength)
        enlarged = np.asarray(Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        ground += enlarged[:, :, None] * (1 + _TINT * random.standard_normal(3, np.float32))
    return ground


def _place(side: int, taken: list[tuple[int, int, int]], random: np.random.Generator) -> tuple[int, int] | None:
    """(x, y) of a centre that is free; None if none was found."""
    for _ in range(_ATTEMPTS):
        x, y = (int(value) for value in random.integers(side // 2, SIDE - side // 2, 2))
        if all((x - left) ** 2 + (y - top) ** 2 > ((side + other) / 2) ** 2 for left, top, other in taken):
            return x, y
    return None


def _cover(shape: str, side: int, centre: tuple[int, int], angle: float) -> NDArray[np.float32]:
    """(SIDE, SIDE) shares of 1: where the shape is, its edges smooth."""
    drawn = Image.new("L", (side * _FINER, side * _FINER))
    _SHAPES[shape](ImageDraw.Draw(drawn), side * _FINER - 1)
    turned = drawn.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    small = turned.resize((turned.width // _FINER, turned.height // _FINER), Image.Resampling.LANCZOS)
    whole = Image.new("L", (SIDE, SIDE))
    whole.paste(small, (centre[0] - small.width // 2, centre[1] - small.height // 2))
    cover: NDArray[np.float32] = np.asarray(whole, np.float32) / np.float32(255)
    return cover


def _painted(hues: tuple[float, float], random: np.random.Generator) -> NDArray[np.float32]:
    """(SIDE, SIDE, 3) of one colour, lit from above or below, with a little noise."""
    colour = colorsys.hsv_to_rgb(random.uniform(*hues) % 1, random.uniform(0.55, 0.95), random.uniform(0.55, 1))
    light = 1 + _SHADE * np.linspace(-1, 1, SIDE, dtype=np.float32)[:, None, None] * random.choice([-1, 1])
    noise = random.standard_normal((SIDE, SIDE, 1), np.float32) * np.float32(_NOISE)
    painted: NDArray[np.float32] = np.array(colour, np.float32) * 255 * light + noise
    return painted


def _star(draw: ImageDraw.ImageDraw, end: float) -> None:
    turns = [step * math.pi / 5 for step in range(10)]
    reach = [end / 2 * (1.0 if step % 2 == 0 else _NOTCH) for step in range(10)]
    draw.polygon(
        [
            (end / 2 + far * math.sin(turn), end / 2 - far * math.cos(turn))
            for far, turn in zip(reach, turns, strict=True)
        ],
        255,
    )


_SHAPES: Final[dict[str, Callable[[ImageDraw.ImageDraw, float], None]]] = {
    "disc": lambda draw, end: draw.ellipse((0, 0, end, end), 255),
    "square": lambda draw, end: draw.rectangle((0.1 * end, 0.1 * end, 0.9 * end, 0.9 * end), 255),
    "star": _star,
    "bar": lambda draw, end: draw.rectangle((0, 0.35 * end, end, 0.65 * end), 255),
    "triangle": lambda draw, end: draw.polygon([(0.5 * end, 0), (end, 0.9 * end), (0, 0.9 * end)], 255),
}
