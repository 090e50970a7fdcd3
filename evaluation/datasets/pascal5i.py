"""PASCAL-5i: PASCAL VOC 2012 with the masks of SBD added; fold f has the classes 5 f + 1 to 5 f + 5.

    JPEGImages/<name>.jpg
    SegmentationClassAug/<name>.png     class numbers, 0 background, 255 counts neither way
    ImageSets/Segmentation/val.txt      names; not needed with --lists

Source: Shaban et al., arXiv:1709.03410; tested as in Min et al., arXiv:2104.01538: the inputs are taken in the list's
order, from the start again until there are 1000 per fold. SegmentationClass, VOC's own masks, will do as well: the
listed pictures are VOC's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from evaluation.datasets.episodes import listed
from evaluation.datasets.folds import EPISODES, LEAST_PIXELS, read_list
from evaluation.datasets.labelled import Areas, DataError, Labelled, read_indices
from evaluation.questions import Subset

CLASSES = (  # noqa: SIM905  # in VOC's order; quoted names would be one line each
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
).split()
IGNORED = 255
_LAYOUT = "PASCAL VOC 2012 holds JPEGImages/<name>.jpg and SegmentationClassAug/<name>.png (or SegmentationClass)"


def load_pascal5i(
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
        data: VOC2012, or the folder around it.
        folds: of 0 to 3.
        examples: the most that will be asked for.
        episodes: per fold; None means 1000.
        seed: of the choice of examples.
        lists: folder with fold0.txt to fold3.txt; None means those of ImageSets/Segmentation/val.txt in which the class
            covers at least 2048 pixels.

    Raises:
        DataError: the tree is not as above.
    """
    root, masks = _find(data)
    names = None if lists is not None else _names(root)
    subsets = []
    for fold in folds:
        classes = range(5 * fold + 1, 5 * fold + 6)
        pairs = read_list(lists, fold, classes) if lists is not None else _large_objects(masks, names or [], classes)
        inputs = [(CLASSES[number - 1], _picture(root, masks, name, number)) for name, number in pairs]
        for _, picture in inputs:
            picture.check()
        chosen = listed(inputs, examples, episodes or EPISODES, seed + fold)
        subsets.append(Subset(f"PASCAL-5i fold {fold}", chosen, fixed_categories=True))
    return subsets


def _find(data: Path) -> tuple[Path, Path]:
    """The folder with JPEGImages, and the one with the masks."""
    for root in (data, data / "VOC2012", data / "VOCdevkit" / "VOC2012"):
        for masks in (root / "SegmentationClassAug", root / "SegmentationClass"):
            if (root / "JPEGImages").is_dir() and masks.is_dir():
                return root, masks
    raise DataError(f"{data} has no such tree, nor has a VOC2012 in it; {_LAYOUT}")


def _names(root: Path) -> list[str]:
    path = root / "ImageSets" / "Segmentation" / "val.txt"
    if not path.is_file():
        raise DataError(f"there is no {path}; without it give --lists, a folder with fold0.txt to fold3.txt")
    return path.read_text(encoding="utf-8").split()


def _large_objects(masks: Path, names: Sequence[str], classes: range) -> list[tuple[str, int]]:
    """(picture, class number) wherever a class of this fold covers enough."""
    found = []
    for name in names:
        counts = np.bincount(read_indices(masks / f"{name}.png").ravel(), minlength=256)
        found += [(name, number) for number in classes if counts[number] >= LEAST_PIXELS]
    return found


def _picture(root: Path, masks: Path, name: str, number: int) -> Labelled:
    mask = masks / f"{name}.png"
    return Labelled(root / "JPEGImages" / f"{name}.jpg", mask, partial(_areas, mask, number))


def _areas(mask: Path, number: int) -> Areas:
    indices = read_indices(mask)
    return Areas(indices == number, indices == IGNORED)
