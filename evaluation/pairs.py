"""What the checkpoint is judged on: pairs of pictures that no training run has seen.

Made scenes come from held-out emoji and held-out photos; real pairs from photos of everyday things (`coco_by/`), none
of which is ever trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evaluation.questions import Example, Question
from training.draw import Dice
from training.scenes import SceneMaker, Source

MADE_SIZE = 192
MIN_SHARE, MAX_SHARE = 0.05, 0.8  # of the picture that a real object covers
DOMINANCE = 0.5  # of the area of all things in the photo that is the object's category
PAIRS_PER_CATEGORY = 30
# Categories without a shape of their own: backgrounds, not objects.
STUFF = {"snow", "sea", "road", "counter", "mirror_stuff", "door_stuff", "wall_tile", "flower"}


@dataclass(frozen=True)
class Pair:
    """One question with its answer. Images RGB; areas (H, W) bool of their image's size."""

    category: str
    prompt_image: Image.Image
    prompt_area: NDArray[np.bool_]
    image: Image.Image
    area: NDArray[np.bool_]

    def question(self, examples: int) -> Question:
        """With its one example."""
        assert examples == 1
        return Question(self.category, (Example(self.prompt_image, self.prompt_area),), self.image, self.area)


def picture(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [0, 255] -> RGB."""
    return Image.fromarray(pixels.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def made_pairs(source: Source, count: int, seed: int) -> list[Pair]:
    """Compose scenes with white masks on black; each is its own category.

    Args:
        source: of scenes made of held-out pictures.
        count: how many.
        seed: the same seed gives the same scenes.
    """
    scenes = SceneMaker([(1.0, source)], Dice(seed), random_colours=0.0).batch(count, MADE_SIZE)
    return [
        Pair(
            f"scene {index}",
            picture(scenes.prompt_image[index]),
            scenes.prompt_area[index].numpy(),
            picture(scenes.image[index]),
            scenes.area[index].numpy(),
        )
        for index in range(count)
    ]


def _objects(folder: Path) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """(category, photo, area) of each object that dominates its photo."""
    areas: dict[str, dict[str, NDArray[np.bool_]]] = {}
    for path in sorted((folder / "masks").glob("*/*.png")):
        category = path.parent.name
        if category in STUFF or category.endswith("_merged"):
            continue
        with Image.open(path) as mask:
            areas.setdefault(path.stem, {})[category] = np.asarray(mask.convert("L")) > 127
    for photo, things in areas.items():
        total = sum(float(area.mean()) for area in things.values())
        for category, area in things.items():
            share = float(area.mean())
            if MIN_SHARE <= share <= MAX_SHARE and share >= DOMINANCE * total:
                yield category, photo, area


def real_pairs(folder: Path, seed: int = 0) -> list[Pair]:
    """Ordered pairs of photos that a thing of the same category dominates; at most 30 per category.

    Args:
        folder: `coco_by`, with images/<name>.jpg and masks/<category>/<name>.png.
        seed: which pairs are taken of a category that has more.
    """
    by_category: dict[str, list[tuple[str, NDArray[np.bool_]]]] = {}
    for category, photo, area in _objects(folder):
        by_category.setdefault(category, []).append((photo, area))
    dice, pairs = np.random.default_rng(seed), []
    for category, objects in sorted(by_category.items()):
        ordered = [(i, j) for i in range(len(objects)) for j in range(len(objects)) if i != j]
        for index in dice.permutation(len(ordered))[:PAIRS_PER_CATEGORY]:
            (prompt, prompt_area), (photo, area) = (objects[i] for i in ordered[index])
            pairs.append(Pair(category, _photo(folder, prompt), prompt_area, _photo(folder, photo), area))
    return pairs


def _photo(folder: Path, name: str) -> Image.Image:
    with Image.open(folder / "images" / f"{name}.jpg") as image:
        return image.convert("RGB")
