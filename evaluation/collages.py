"""`python -m evaluation.collages`: a plain folder of categories, made from pictures that no training run has seen.

A category is one held-out emoji or several related ones, its looks; each picture has one of them at another place,
size and angle among other things, on a held-out photo. It shows what more examples bring where no benchmark's pictures
are at hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from training.held_out import is_held_out
from training.sprites import emoji_kind

SIDE = 256
LEAST, MOST = 0.25, 0.55  # of the side, that an emoji takes
TURN = 25  # degrees either way
OTHERS = 2


def _pasted(picture: Image.Image, cut_out: Image.Image, dice: np.random.Generator) -> Image.Image:
    """Paste a cut-out somewhere, in place; returns its area, L of 0 and 255."""
    side = int(dice.uniform(LEAST, MOST) * SIDE)
    turned = cut_out.resize((side, side), Image.Resampling.BICUBIC).rotate(
        float(dice.uniform(-TURN, TURN)), Image.Resampling.BICUBIC, expand=True
    )
    left, top = (int(dice.integers(0, SIDE - length)) for length in turned.size)
    picture.paste(turned, (left, top), turned)
    area = Image.new("L", picture.size)
    area.paste(turned.getchannel("A").point(lambda alpha: 255 * (alpha > 127)), (left, top))
    return area


def _collage(photo: Path, others: Sequence[Path], cut_out: Path, dice: np.random.Generator) -> list[Image.Image]:
    """[picture, mask] of SIDE x SIDE; the other cut-outs lie below."""
    with Image.open(photo) as image:
        picture = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    for path in (*others, cut_out):
        with Image.open(path) as image:
            area = _pasted(picture, image.convert("RGBA"), dice)
    return [picture, area]


def make_collages(
    data: Path, out: Path, *, categories: int = 40, pictures: int = 10, looks: int = 1, seed: int = 0
) -> None:
    """Write a tree as `evaluation.datasets.folder` reads it.

    Args:
        data: folder with emoji/ and clothing/.
        out: made; what is in it already stays.
        categories, pictures: how many, and how many of each.
        looks: emoji that make a category, with neighbouring code points; pictures take turns in showing them.
        seed: the same seed makes the same tree.

    Raises:
        ValueError: there are not as many held-out emoji, or no photos.
    """
    emoji: dict[str, Path] = {}
    for path in sorted((data / "emoji").glob("emoji_u*.png")):
        point = emoji_kind(path.stem)[0]
        if is_held_out(point):
            emoji.setdefault(point, path)
    photos = [path for path in sorted((data / "clothing" / "images").glob("*.jpg")) if is_held_out(path.stem)]
    kinds = [list(emoji.items())[at : at + looks] for at in range(0, len(emoji) - looks + 1, looks)]
    if len(kinds) < categories or len(emoji) < looks + OTHERS or not photos:
        raise ValueError(
            f"{data} has {len(emoji)} held-out emoji and {len(photos)} photos; {categories} categories of {looks} need "
            f"at least {max(categories * looks, looks + OTHERS)} and 1"
        )
    dice = np.random.default_rng(seed)
    for place in dice.permutation(len(kinds))[:categories]:
        point, cut_outs = kinds[place][0][0], [path for _, path in kinds[place]]
        rest = [path for path in emoji.values() if path not in cut_outs]
        for folder in ("images", "masks"):
            (out / point / folder).mkdir(parents=True, exist_ok=True)
        for index in range(pictures):
            others = [rest[at] for at in dice.choice(len(rest), OTHERS, replace=False)]
            picture, mask = _collage(photos[dice.integers(len(photos))], others, cut_outs[index % looks], dice)
            picture.save(out / point / "images" / f"{index:02d}.jpg", quality=90)
            mask.save(out / point / "masks" / f"{index:02d}.png")


def main() -> None:
    """Read the command line and write the tree."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.collages",
        description="Make a folder of categories from held-out emoji and photos.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with emoji/ and clothing/")
    parser.add_argument("--out", type=Path, required=True, help="the tree to make")
    parser.add_argument("--categories", type=int, default=40, help="how many")
    parser.add_argument("--pictures", type=int, default=10, help="of each")
    parser.add_argument("--looks", type=int, default=1, help="emoji that make a category")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        make_collages(
            given.data,
            given.out,
            categories=given.categories,
            pictures=given.pictures,
            looks=given.looks,
            seed=given.seed,
        )
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
