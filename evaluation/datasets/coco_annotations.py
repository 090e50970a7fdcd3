"""COCO's annotations: which categories there are, where, and their areas. pycocotools knows the shapes' encodings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths

from evaluation.datasets.labelled import DataError
from evaluation.questions import Area


@dataclass(frozen=True)
class Annotations:
    """An instances_*.json.

    Args:
        path: the file.
        categories: (number, name) by number.
        files: name of each image's file.
        sizes: (height, width) of each image.
        shapes: the segmentations of (image, category); together they are its area, crowds included.
    """

    path: Path
    categories: list[tuple[int, str]]
    files: dict[int, str]
    sizes: dict[int, tuple[int, int]]
    shapes: dict[tuple[int, int], list[Any]]

    def images_with(self, category: int, least_pixels: int) -> Iterator[int]:
        """Images in which a category covers at least so many pixels, by number."""
        for image in sorted(image for image, kind in self.shapes if kind == category):
            if run_lengths.area(self._merged(image, category)) >= least_pixels:
                yield image

    def area(self, image: int, category: int) -> Area:
        """(H, W) bool: all that is annotated as the category.

        Raises:
            DataError: nothing is.
        """
        if (image, category) not in self.shapes:
            raise DataError(f"{self.path} has no category {category} in image {image}")
        return np.asarray(run_lengths.decode(self._merged(image, category)), dtype=np.bool_)

    def _merged(self, image: int, category: int) -> Any:
        height, width = self.sizes[image]
        encoded: list[Any] = [run_lengths.encode(np.zeros((height, width), np.uint8, order="F"))]
        for shape in self.shapes[image, category]:
            # A polygon's pieces give a list, an uncompressed run length one; compressed ones are as they should be.
            pieces = [piece for piece in shape if piece] if isinstance(shape, list) else shape
            if not pieces:
                continue  # nothing is marked
            is_compressed = isinstance(pieces, dict) and not isinstance(pieces["counts"], list)
            one = pieces if is_compressed else run_lengths.frPyObjects(pieces, height, width)
            encoded += one if isinstance(one, list) else [one]
        return run_lengths.merge(encoded)


def read_annotations(path: Path) -> Annotations:
    """Read an instances_*.json.

    Raises:
        DataError: it is no such file.
    """
    try:
        content = json.loads(path.read_bytes())
        shapes: dict[tuple[int, int], list[Any]] = {}
        for one in content["annotations"]:
            shapes.setdefault((one["image_id"], one["category_id"]), []).append(one["segmentation"])
        return Annotations(
            path,
            sorted((one["id"], one["name"]) for one in content["categories"]),
            {one["id"]: one["file_name"] for one in content["images"]},
            {one["id"]: (one["height"], one["width"]) for one in content["images"]},
            shapes,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no COCO annotation file: {type(error).__name__}: {error}") from error
