"""Small trees in the real layouts of the data sets: a coloured square per thing, on a noisy ground."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluation.datasets.fss1000_categories import TEST_CATEGORIES

SIDE = 64
LARGE = (8, 8, 56, 56)  # left, top, right, bottom: 2304 pixels, over the least of 2048
SMALL = (0, 0, 6, 6)
COCO_NUMBERS = [number + number // 8 for number in range(1, 81)]  # with gaps, as COCO's


def _pixels(seed: int, boxes: Sequence[tuple[int, int, int, int]]) -> Image.Image:
    dice = np.random.default_rng(seed)
    picture = dice.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    for left, top, right, bottom in boxes:
        picture[top:bottom, left:right] = dice.integers(120, 256, 3)
    return Image.fromarray(picture)


def _mask(values: Sequence[tuple[int, tuple[int, int, int, int]]]) -> Image.Image:
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for value, (left, top, right, bottom) in values:
        mask[top:bottom, left:right] = value
    return Image.fromarray(mask)


def box_of(index: int) -> tuple[int, int, int, int]:
    left = 5 + 3 * (index % 8)
    return left, 10, left + 30, 50


def plain(root: Path, categories: Mapping[str, int]) -> Path:
    for number, (category, count) in enumerate(categories.items()):
        for folder in ("images", "masks"):
            (root / category / folder).mkdir(parents=True)
        for index in range(count):
            _pixels(100 * number + index, [box_of(index)]).save(root / category / "images" / f"{index}.jpg")
            _mask([(255, box_of(index))]).save(root / category / "masks" / f"{index}.png")
    return root


def fss1000(root: Path, categories: Sequence[str] = TEST_CATEGORIES, count: int = 2) -> Path:
    """`root/fewshot_data/<category>/<n>.jpg`; one more category, which is not for testing."""
    for number, category in enumerate([*categories, "ab_wheel"]):
        folder = root / "fewshot_data" / category
        folder.mkdir(parents=True)
        for index in range(1, count + 1):
            _pixels(100 * number + index, [box_of(index)]).save(folder / f"{index}.jpg")
            _mask([(255, box_of(index))]).convert("RGB").save(folder / f"{index}.png")
    return root


def voc2012(root: Path) -> Path:
    """`root/VOC2012`: three pictures of each class, a border of 255; a small thing of the next class beside."""
    base = root / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    names = []
    for number in range(1, 21):
        for index in range(3):
            name = f"2007_{number:03d}{index:03d}"
            _pixels(10 * number + index, [LARGE, SMALL]).save(base / "JPEGImages" / f"{name}.jpg")
            border = (LARGE[0] - 2, LARGE[1] - 2, LARGE[2] + 2, LARGE[3] + 2)
            mask = _mask([(255, border), (number, LARGE), (number % 20 + 1, SMALL)])
            mask.putpalette([value % 256 for value in range(768)])
            mask.save(base / "SegmentationClassAug" / f"{name}.png")
            names.append(name)
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names) + "\n")
    return root


def coco2014(root: Path) -> Path:
    """`root/val2014` and instances: two pictures of each category, the thing in two halves, one small thing beside."""
    (root / "val2014").mkdir()
    (root / "annotations").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for place, number in enumerate(COCO_NUMBERS):
        for _ in range(2):
            image = 1000 + len(images)
            name = f"COCO_val2014_{image:012d}.jpg"
            _pixels(image, [LARGE, SMALL]).save(root / "val2014" / name)
            images.append({"id": image, "file_name": name, "height": SIDE, "width": SIDE})
            left, top, right, bottom = LARGE
            polygon = [left, top, 32, top, 32, bottom, left, bottom]
            annotations.append({"image_id": image, "category_id": number, "iscrowd": 0, "segmentation": [polygon]})
            annotations.append(
                {
                    "image_id": image,
                    "category_id": number,
                    "iscrowd": 1,
                    "segmentation": _runs((32, top, right, bottom)),
                }
            )
            small = [0, 0, 6, 0, 6, 6, 0, 6]
            other = COCO_NUMBERS[(place + 1) % 80]
            annotations.append({"image_id": image, "category_id": other, "iscrowd": 0, "segmentation": [small]})
    categories = [{"id": number, "name": f"thing {number}"} for number in reversed(COCO_NUMBERS)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    return root


def _runs(box: tuple[int, int, int, int]) -> dict[str, Any]:
    """COCO's uncompressed run lengths: down the columns, zeros first."""
    flat = np.asarray(_mask([(1, box)])).ravel(order="F")
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    return {"size": [SIDE, SIDE], "counts": np.diff(ends).tolist()}
