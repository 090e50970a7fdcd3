"""Segmentations of many pictures as one COCO file, which pycocotools loads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

_KEPT: Final = ("index", "label", "instance", "area", "bbox", "score", "rle")


def compact(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a COCO file needs of an answer, for the journal."""
    segments = [{name: segment.get(name) for name in _KEPT} for segment in body["segments"]]
    return {
        "height": body["height"],
        "width": body["width"],
        "labels": body["labels"],
        "segments": segments,
    }


def assemble(answers: Iterable[tuple[str, Mapping[str, Any]]]) -> bytes:
    """The file.

    Images and annotations are numbered from 1 in the order given, categories have the classes' indices. Masks are run
    lengths, exact to the pixel. `score` and `instance` are members beyond COCO's own.

    Args:
        answers: a picture's name and what `compact` gave.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[int, dict[str, Any]] = {}
    for image_id, (name, body) in enumerate(answers, start=1):
        images.append({"id": image_id, "file_name": name, "height": body["height"], "width": body["width"]})
        for label in body["labels"]:
            categories[label["index"]] = {
                "id": label["index"],
                "name": label["name"],
                "supercategory": "",
                "colour": label["colour"],
            }
        for segment in body["segments"]:
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": segment["index"],
                "segmentation": segment["rle"],
                "area": segment["area"],
                "bbox": segment["bbox"],
                "iscrowd": 0,
                "score": segment["score"],
            }
            if segment["instance"] is not None:
                annotation["instance"] = segment["instance"]
            annotations.append(annotation)
    whole = {
        "info": {"description": "SegGPT"},
        "images": images,
        "annotations": annotations,
        "categories": [categories[index] for index in sorted(categories)],
    }
    return json.dumps(whole).encode()
