"""Anyone's pictures with masks, one folder for each kind of thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model.tuning_data import open_upright, read_pair
from training.held_out import held_out_among
from training.photos import MAX_REGION, MIN_REGION, PHOTO_SIZE, Photos, load_kinds, tabulate
from training.reading import each, planes

_MOST_CATEGORIES = 255  # a label map has 8 bits


def load_folder(folder: Path, size: int = PHOTO_SIZE, *, held_out: bool | None = None) -> Photos:
    """Read anyone's pictures: `<category>/images/<name>.*` with `<category>/masks/<name>.png`.

    Args:
        folder: of at least one category; masks are True where brighter than middle grey. Kinds are read from kinds/
            beside it.
        size: side of the squares that are kept, in pixels.
        held_out: read only those of `held_out_among`, or only the others; None reads all.

    Raises:
        FileNotFoundError: there is no such pair of picture and mask.
        ValueError: there are too many categories; a file cannot be read, a mask has another aspect than its picture,
            marks things by dark values, or belongs to two; there are too few to hold any out; or nothing in them is of
            a fair size.
    """
    categories = sorted(path.name for path in folder.iterdir() if (path / "images").is_dir())
    found = [
        (path, mask, value)
        for value, category in enumerate(categories, 1)
        for path in sorted((folder / category / "images").iterdir())
        if (mask := folder / category / "masks" / f"{path.stem}.png").is_file()
    ]
    if len(categories) > _MOST_CATEGORIES:
        raise ValueError(f"{folder} has {len(categories)} categories; allowed are {_MOST_CATEGORIES}")
    if not found:
        raise FileNotFoundError(f"no <category>/images/<name>.* with <category>/masks/<name>.png in {folder}")
    of_mask: dict[Path, Path] = {}
    for path, mask, _ in found:
        if (other := of_mask.setdefault(mask, path)) != path:
            raise ValueError(f"{path.parent} has {other.name} and {path.name}; allowed is one of a name")
    if held_out is not None:
        names = [(categories[value - 1], path.stem) for path, _, value in found]
        shares = each(lambda pair: _area(pair[1], size).mean(), found)
        # Others cannot be asked for.
        kept = held_out_among(
            name for name, share in zip(names, shares, strict=True) if MIN_REGION <= share <= MAX_REGION
        )
        if not kept:
            raise ValueError(
                f"too few pictures to hold any out: no category in {folder} has two "
                f"whose masks cover {MIN_REGION:.0%} to {MAX_REGION:.0%} of them"
            )
        found = [pair for pair, name in zip(found, names, strict=True) if (name in kept) is held_out]

    def read(pair: tuple[Path, Path, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        path, mask, value = pair
        pixels, area = read_pair(path, mask, (size, size))
        return pixels.numpy(), np.where(area[..., 0].numpy() > 0, np.uint8(value), np.uint8(0))

    pixels, labels = zip(*each(read, found), strict=True)
    kinds = load_kinds(folder.parent, [path for path, _, _ in found], size)
    return tabulate(planes(pixels), torch.from_numpy(np.stack(labels)), len(categories), kinds)


def _area(mask: Path, size: int) -> NDArray[np.bool_]:
    grey = open_upright(mask).convert("L").resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(grey) > 127
