"""A large made picture of many small objects, and how many of them a mask finds.

The object is the emoji of the quick start's example, which the bundled checkpoint has not seen in training: small,
turned and otherwise lit each time. The ground is noise of all sizes, and among the objects lie shapes of other colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from benchmarks.report import ROOT
from training.draw import Dice
from training.textures import blobs, textures

SIDES: Final = (90, 120)
"""How many pixels across the objects are."""

FOUND_IOU: Final = 0.5
LEAST_AREA: Final = 1000
"""Pixels; the smallest objects have more than four times as many."""

_OTHER_SIDES: Final = (60, 140)
_GREEN: Final = (96, 128, 72)
_TINT: Final = 0.25
_GRAIN: Final = ((3, 14.0), (12, 8.0), (60, 5.0), (300, 5.0), (1500, 7.0))  # cells along 6000 pixels, and strength
_SHAPE_SIDE: Final = 160
_ATTEMPTS: Final = 20


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Args:
        image: RGB.
        objects: (H, W) uint8: the number of the object there, from 1; 0 is ground and other shapes.
        others: (H, W) bool: where the other shapes are.
    """

    image: Image.Image
    objects: NDArray[np.uint8]
    others: NDArray[np.bool_]

    def jpeg(self) -> bytes:
        """The picture as a JPEG of quality 92."""
        buffer = BytesIO()
        self.image.save(buffer, "JPEG", quality=92)
        return buffer.getvalue()

    def mask_png(self) -> bytes:
        """All objects as one mask, a PNG of 255 on 0."""
        buffer = BytesIO()
        Image.fromarray((self.objects > 0).astype(np.uint8) * 255).save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True)
class Score:
    """How well a mask tells the objects of a scene.

    Args:
        found: objects that a connected part of the mask covers with an IoU of at least `FOUND_IOU`.
        objects: how many there are.
        on_others: connected parts of the mask that touch no object but another shape.
        on_ground: those that touch neither.
        iou: of the whole mask, in pixels.
    """

    found: int
    objects: int
    on_others: int
    on_ground: int
    iou: float


def make(size: tuple[int, int], objects: int, others: int, seed: int) -> Scene:
    """Compose a scene of (height, width) with so many objects and other shapes, none of which overlap.

    Raises:
        ValueError: there is no room for them.
    """
    random = np.random.default_rng(seed)
    image = _ground(size, random)
    numbers, covered = (Image.new("L", (size[1], size[0])) for _ in range(2))
    cut_out = _cut_out()
    shapes = _shapes(others, seed)
    for index, (x, y) in enumerate(_centres(size, objects + others, random)):
        is_object = index < objects
        sprite = cut_out if is_object else shapes[index - objects]
        side = int(random.integers(*(SIDES if is_object else _OTHER_SIDES), endpoint=True))
        height = max(1, round(side * sprite.height / sprite.width))
        sprite = sprite.resize((side, height), Image.Resampling.LANCZOS)
        sprite = sprite.rotate(float(random.uniform(-25, 25)), Image.Resampling.BICUBIC, expand=True)
        corner = x - sprite.width // 2, y - sprite.height // 2
        alpha = sprite.getchannel("A")
        lit = ImageEnhance.Brightness(sprite.convert("RGB")).enhance(float(random.uniform(0.8, 1.15)))
        image.paste(lit, corner, alpha)
        solid = alpha.point([255 * (level > 127) for level in range(256)])
        if is_object:
            numbers.paste(index + 1, corner, solid)
        else:
            covered.paste(1, corner, solid)
    return Scene(image, np.asarray(numbers), np.asarray(covered, bool))


def score(mask: NDArray[np.bool_], scene: Scene) -> Score:
    """Compare an answer (H, W) with what is in the scene. Parts below `LEAST_AREA` are left out, as by `min_area`."""
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = statistics[:, cv2.CC_STAT_AREA]
    counted = areas >= LEAST_AREA
    counted[0] = False  # all that is not marked
    mask = counted[parts]
    both = mask & (scene.objects > 0)
    pairs, shared = np.unique(parts[both].astype(np.int64) * 256 + scene.objects[both], return_counts=True)
    part, thing = pairs // 256, pairs % 256
    object_areas = np.bincount(scene.objects.ravel())
    iou = shared / (areas[part] + object_areas[thing] - shared)
    on_objects = set(part.tolist())
    on_others = set(np.unique(parts[mask & scene.others]).tolist()) - on_objects
    return Score(
        found=len(set(thing[iou >= FOUND_IOU].tolist())),
        objects=len(object_areas) - 1,
        on_others=len(on_others),
        on_ground=int(counted.sum()) - len(on_objects | on_others),
        iou=float(both.sum() / max(1, (mask | (scene.objects > 0)).sum())),
    )


def _ground(size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A meadow from above: noise in greens, more of light than of colour, of the same grain in every picture."""
    height, width = size
    ground = np.empty((height, width, 3), np.float32)
    ground[:] = _GREEN
    for cells, strength in _GRAIN:
        across = max(2, round(cells * width / 6000)), max(2, round(cells * height / 6000))
        for weights in (np.ones(3), _TINT * random.standard_normal(3)):
            noise = random.standard_normal((across[1], across[0]), np.float32) * np.float32(strength)
            enlarged = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
            for channel, weight in enumerate(weights):
                ground[:, :, channel] += enlarged * np.float32(weight)
    return Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))


def _cut_out() -> Image.Image:
    """The thing that the quick start's example shows, transparent around it."""
    image = Image.open(ROOT / "examples" / "prompt_image.jpg").convert("RGB")
    mask = Image.open(ROOT / "examples" / "prompt_mask.png").convert("L")
    image.putalpha(mask)
    return image.crop(mask.getbbox())


def _shapes(count: int, seed: int) -> list[Image.Image]:
    """Blobs in coloured textures, as they were among the distractors of training."""
    dice = Dice(seed)
    alpha = blobs(dice, count, _SHAPE_SIDE) * 255
    pixels = torch.cat([textures(dice, count, _SHAPE_SIDE), alpha], dim=1)  # (count, 4, side, side)
    return [Image.fromarray(shape, "RGBA") for shape in pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy()]


def _centres(size: tuple[int, int], count: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """Places (x, y) that are far enough from each other and from the picture's edges."""
    apart = int(1.2 * max(*SIDES, *_OTHER_SIDES))
    margin = int(0.6 * max(SIDES))
    for _ in range(_ATTEMPTS):
        centres: list[tuple[int, int]] = []
        for _ in range(100 * count):
            x = int(random.integers(margin, size[1] - margin))
            y = int(random.integers(margin, size[0] - margin))
            if all((x - other) ** 2 + (y - below) ** 2 >= apart**2 for other, below in centres):
                centres.append((x, y))
            if len(centres) == count:
                return centres
    raise ValueError(f"{count} things do not fit into {size[1]}x{size[0]} pixels")
