"""FSS-1000: a thousand categories of ten pictures each, 240 of them for testing.

    fewshot_data/<category>/<n>.jpg     n from 1 to 10
    fewshot_data/<category>/<n>.png     marked where the grey value is 128 or more

Source: Li et al., "FSS-1000", arXiv:1907.12347. Each picture of a test category is the input image once (2,400
episodes), as in Min et al., arXiv:2104.01538; their examples may repeat in an episode of five, ours never do.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from evaluation.datasets.episodes import every_input
from evaluation.datasets.fss1000_categories import TEST_CATEGORIES
from evaluation.datasets.labelled import DataError, Labelled, read_binary, subfolders, usable
from evaluation.questions import Subset

_WRAPPERS = ("fewshot_data", "FSS-1000")  # folders that archives put around the categories
_LAYOUT = "FSS-1000 holds <category>/<n>.jpg and <category>/<n>.png, in a folder of any name, fewshot_data or FSS-1000"


def load_fss1000(
    data: Path,
    *,
    examples: int = 1,
    episodes: int | None = None,
    seed: int = 0,
    split: Path | None = None,
    skip_unusable: bool = False,
) -> list[Subset]:
    """One subset: the test categories.

    Args:
        data: the tree, or what it was unpacked in.
        examples: the most that will be asked for, up to 9.
        episodes: None means every picture once.
        seed: of the choice of examples (and of inputs).
        split: a file with one category per line; None means the official test categories.
        skip_unusable: leave out pictures that do not fit instead of refusing the tree.

    Raises:
        DataError: the tree is not as above, or lacks a category.
    """
    root = data
    while inner := next((root / name for name in _WRAPPERS if (root / name).is_dir()), None):
        root = inner
    there = {folder.name for folder in subfolders(root)}
    categories = sorted(TEST_CATEGORIES if split is None else _read_split(split))
    missing = [name for name in categories if name not in there]
    if missing:
        wanted = "the official test categories (or give --split)" if split is None else str(split)
        raise DataError(
            f"{root} lacks {len(missing)} of {len(categories)} categories of {wanted}, such as {missing[0]}; {_LAYOUT}"
        )
    pictures = {name: usable(_pictures(root / name), skip_unusable) for name in categories}
    return [Subset("FSS-1000", every_input(pictures, examples, episodes, seed))]


def _read_split(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"there is no file {path}; a split has one category per line")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names or len(set(names)) < len(names):
        raise DataError(
            f"{path} names {len(names)} categories, {len(set(names))} of them different; it needs each once"
        )
    return names


def _pictures(category: Path) -> list[Labelled]:
    images = sorted(category.glob("*.jpg"), key=lambda path: (len(path.stem), path.stem))
    if not images:
        raise DataError(f"{category} has no <n>.jpg; {_LAYOUT}")
    return [
        Labelled(image, mask, partial(read_binary, mask)) for image in images for mask in [image.with_suffix(".png")]
    ]
