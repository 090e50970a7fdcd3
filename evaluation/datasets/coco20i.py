"""COCO-20i: the 80 categories of COCO 2014, sorted by their numbers; fold f has those at places f, f + 4, f + 8, ...

    val2014/COCO_val2014_<number>.jpg
    annotations/instances_val2014.json                     masks and lists come from it
    annotations/val2014/COCO_val2014_<number>.png          with --lists: masks of place + 1, 0 background, if there

Source: Nguyen and Todorovic, arXiv:1909.13140 (the folds); tested as in Min et al., arXiv:2104.01538: a category and an
input image of it are drawn 1000 times per fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evaluation.datasets.coco_annotations import Annotations, read_annotations
from evaluation.datasets.episodes import drawn
from evaluation.datasets.folds import EPISODES, LEAST_PIXELS, read_list
from evaluation.datasets.labelled import Areas, DataError, Labelled, read_indices
from evaluation.questions import Subset

CATEGORIES = 80
_LAYOUT = "COCO 2014 holds val2014/<picture>.jpg and annotations/instances_val2014.json"


def load_coco20i(
    data: Path,
    *,
    folds: Sequence[int],
    examples: int = 1,
    episodes: int | None = None,
    seed: int = 0,
    lists: Path | None = None,
) -> list[Subset]:
    """One subset per fold.

    Args:
        data: the tree, or the folder around it, then called COCO2014.
        folds: of 0 to 3.
        examples: the most that will be asked for.
        episodes: per fold; None means 1000.
        seed: of all choices.
        lists: folder with fold0.txt to fold3.txt; None means the pictures in which a category's annotations cover at
            least 2048 pixels.

    Raises:
        DataError: the tree is not as above.
    """
    root = data / "COCO2014" if (data / "COCO2014").is_dir() else data
    if not (root / "val2014").is_dir():
        raise DataError(f"there is no folder {root / 'val2014'}; {_LAYOUT}")
    json_file, masks = root / "annotations" / "instances_val2014.json", root / "annotations" / "val2014"
    annotations = read_annotations(json_file) if json_file.is_file() else None
    if annotations is None and (lists is None or not masks.is_dir()):
        raise DataError(f"there is no {json_file}; {_LAYOUT} (or --lists and masks in annotations/val2014)")
    if annotations is not None and len(annotations.categories) != CATEGORIES:
        raise DataError(f"{json_file} has {len(annotations.categories)} categories; COCO-20i has {CATEGORIES}")
    subsets = []
    for fold in folds:
        places = range(fold, CATEGORIES, 4)
        if lists is None:
            assert annotations is not None
            pictures = _annotated(root, annotations, places)
        else:
            pairs = read_list(lists, fold, range(fold + 1, CATEGORIES + 1, 4))
            pictures = _listed(root, annotations, masks, pairs)
        chosen = drawn(pictures, examples, episodes or EPISODES, seed + fold)
        for picture in dict.fromkeys(one for episode in chosen for one in (episode.input, *episode.examples)):
            picture.check()
        subsets.append(Subset(f"COCO-20i fold {fold}", chosen, fixed_categories=True))
    return subsets


def _annotated(root: Path, annotations: Annotations, places: range) -> dict[str, list[Labelled]]:
    """Every picture in which a category of the fold is large enough."""
    return {
        annotations.categories[place][1]: [
            _picture(root, annotations, image, annotations.categories[place][0])
            for image in annotations.images_with(annotations.categories[place][0], LEAST_PIXELS)
        ]
        for place in places
    }


def _listed(
    root: Path, annotations: Annotations | None, masks: Path, pairs: list[tuple[str, int]]
) -> dict[str, list[Labelled]]:
    """The pictures of a list, with masks from PNG files if there are any, else from the annotations."""
    numbers = {} if annotations is None else {Path(name).stem: key for key, name in annotations.files.items()}
    pictures: dict[str, list[Labelled]] = {}
    for name, place in ((name.removesuffix(".jpg").removeprefix("val2014/"), number - 1) for name, number in pairs):
        category = f"category {place + 1}" if annotations is None else annotations.categories[place][1]
        if masks.is_dir():
            mask = masks / f"{name}.png"
            picture = Labelled(root / "val2014" / f"{name}.jpg", mask, partial(_png_areas, mask, place + 1))
        elif annotations is not None and name in numbers:
            picture = _picture(root, annotations, numbers[name], annotations.categories[place][0])
        else:
            raise DataError(f"the list names {name}, which the annotations do not know")
        pictures.setdefault(category, []).append(picture)
    return pictures


def _picture(root: Path, annotations: Annotations, image: int, category: int) -> Labelled:
    path = root / "val2014" / annotations.files[image]
    return Labelled(path, annotations.path, partial(_annotated_areas, annotations, image, category))


def _annotated_areas(annotations: Annotations, image: int, category: int) -> Areas:
    return Areas(annotations.area(image, category))


def _png_areas(mask: Path, number: int) -> Areas:
    return Areas(read_indices(mask) == number)
