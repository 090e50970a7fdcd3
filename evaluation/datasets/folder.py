"""A plain folder of categories.

    <root>/<category>/images/<name>.jpg     or .jpeg, .png, .webp
    <root>/<category>/masks/<name>.png      of the same height and width; marked where the grey value is 128 or more

Every picture has exactly one mask and every mask its picture. Pictures are turned as their files say, as the service
does it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from evaluation.datasets.episodes import every_input
from evaluation.datasets.labelled import DataError, Labelled, read_binary, subfolders, usable
from evaluation.questions import Subset

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_LAYOUT = "a folder of categories holds <category>/images/<name>.jpg|jpeg|png|webp and <category>/masks/<name>.png"


def load_folder(
    root: Path, *, examples: int = 1, episodes: int | None = None, seed: int = 0, skip_unusable: bool = False
) -> list[Subset]:
    """One subset: each picture once as the input image, or so many of them.

    Args:
        root: the tree.
        examples: the most that will be asked for.
        episodes: None means every picture.
        seed: of the choice of examples (and of inputs).
        skip_unusable: leave out pictures that do not fit instead of refusing the tree.

    Raises:
        DataError: the tree is not as above.
    """
    categories = subfolders(root)
    if not categories:
        raise DataError(f"{root} has no folders; {_LAYOUT}")
    pictures = {folder.name: usable(_pictures(folder), skip_unusable) for folder in categories}
    return [Subset(root.resolve().name, every_input(pictures, examples, episodes, seed))]


def _pictures(category: Path) -> list[Labelled]:
    images, masks = category / "images", category / "masks"
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{category} has no folder {folder.name}; {_LAYOUT}")
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    by_name = {path.stem: path for path in files}
    if len(by_name) < len(files):
        twice = next(path.stem for path in files if by_name[path.stem] != path)
        raise DataError(f"{images} has {twice} with several suffixes; names must differ")
    lone = sorted({path.stem for path in masks.glob("*.png")} ^ by_name.keys())
    if lone:
        missing = images if (masks / f"{lone[0]}.png").is_file() else masks
        raise DataError(f"{missing} has no {lone[0]}, but its neighbour has; {_LAYOUT}")
    return [
        Labelled(path, mask, partial(read_binary, mask), is_as_shown=True)
        for name, path in by_name.items()
        for mask in [masks / f"{name}.png"]
    ]
