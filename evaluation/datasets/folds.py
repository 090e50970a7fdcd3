"""What PASCAL-5i and COCO-20i share: four folds, lists of pictures per fold, and small objects left out.

A list is a text file per fold, `fold0.txt` to `fold3.txt`, with a line `<picture>__<class number from 1>` for each
picture and class, as juhongm999/hsnet's `data/splits/pascal/val` has them.
"""

from __future__ import annotations

from pathlib import Path

from evaluation.datasets.labelled import DataError

FOLDS = range(4)
EPISODES = 1000  # per fold

# Pictures are listed for a class that covers at least this many pixels: two of a grid of 32 x 32 pixels each, the rule
# of Shaban et al., arXiv:1709.03410, as spelt out in dvlab-research/PFENet's `util/dataset.py`.
LEAST_PIXELS = 2 * 32 * 32


def read_list(lists: Path, fold: int, classes: range) -> list[tuple[str, int]]:
    """(picture, class number) of each line of a fold's list.

    Args:
        lists: folder with fold0.txt to fold3.txt.
        fold: which.
        classes: the numbers that this fold may name.

    Raises:
        DataError: it is not there, is empty, or names another class.
    """
    path = lists / f"fold{fold}.txt"
    if not path.is_file():
        raise DataError(f"there is no {path}; --lists names a folder with fold0.txt to fold3.txt")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, mark, kind = line.strip().rpartition("__")
        if not mark or not kind.isdecimal() or int(kind) not in classes:
            raise DataError(
                f"{path}, line {number} is {line.strip()!r}; it must be <picture>__<class>, the class of fold {fold} "
                f"one of {', '.join(map(str, classes))}"
            )
        found.append((name, int(kind)))
    if not found:
        raise DataError(f"{path} lists nothing")
    return found
