"""Cut-outs with transparency: emoji in any style, photos cut out. Training and held-out ones.

Knows how they lie in the data folder and nothing of scenes, losses or networks. Every picture is decoded once, at the
start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.draw import Dice
from training.held_out import is_held_out
from training.reading import each, planes, runs

SPRITE_SIZE = 96
SKIN_AND_GENDER = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff", "2640", "2642", "200d", "fe0f"}


@dataclass(frozen=True)
class Sprites:
    """Cut-outs with transparency, sorted by kind; neighbouring kinds are related (animals, fruit, ...).

    pixels: (N, 4, 96, 96) uint8, RGB premultiplied with alpha.
    first, count: (K,) int64; kind k is the cut-outs first[k] .. first[k] + count[k] - 1.
    """

    pixels: Tensor
    first: Tensor
    count: Tensor

    def to(self, device: torch.device) -> Sprites:
        return Sprites(self.pixels.to(device), self.first.to(device), self.count.to(device))


@dataclass(frozen=True)
class Bank:
    """Cut-outs of several collections; how often each collection is drawn does not depend on its size.

    Args:
        sprites: all of them.
        first, kinds_of: (C,) int64; collection c is the kinds first[c] .. first[c] + kinds_of[c] - 1.
        shares: (C,) float.
    """

    sprites: Sprites
    first: Tensor
    kinds_of: Tensor
    shares: Tensor

    @classmethod
    def joined(cls, collections: Sequence[tuple[float, Sprites]]) -> Bank:
        """Put (share, cut-outs) together."""
        starts = np.cumsum([0, *(len(sprites.pixels) for _, sprites in collections)])
        first = [sprites.first + int(start) for start, (_, sprites) in zip(starts, collections, strict=False)]
        sprites = Sprites(
            torch.cat([sprites.pixels for _, sprites in collections]),
            torch.cat(first),
            torch.cat([sprites.count for _, sprites in collections]),
        )
        kinds = torch.tensor([len(sprites.first) for _, sprites in collections])
        return cls(sprites, kinds.cumsum(0) - kinds, kinds, torch.tensor([share for share, _ in collections]))

    def to(self, device: torch.device) -> Bank:
        return Bank(self.sprites.to(device), self.first.to(device), self.kinds_of.to(device), self.shares.to(device))

    def kinds(self, dice: Dice, count: int) -> Tensor:
        """(count,) kinds, collections by their shares, kinds of one evenly."""
        collection = dice.weighted(self.shares, count)
        return self.first[collection] + dice.below(self.kinds_of[collection])

    def neighbour(self, kinds: Tensor, steps: Tensor) -> Tensor:
        """The kinds `steps` further on in the same collection, or its last or first."""
        collection = torch.searchsorted(self.first, kinds, right=True) - 1
        first = self.first[collection]
        return (kinds + steps).clamp(first, first + self.kinds_of[collection] - 1)


def emoji_kind(stem: str) -> tuple[str, str]:
    """(code point, kind) of a file name: variants of skin and gender are one kind."""
    points = stem.removeprefix("emoji_u").split("_")
    rest = [point for point in points[1:] if point not in SKIN_AND_GENDER]
    return points[0], "_".join([points[0].zfill(6), *rest])


def load_emoji(folders: Sequence[Path], *, held_out: bool) -> Sprites:
    """Read `emoji_u<code point>[_...].png`, the training or the held-out code points.

    Args:
        folders: one for each drawing style; a code point's pictures of all styles are one kind.

    Raises:
        FileNotFoundError: there is none in the folders.
    """
    paths = [p for folder in folders for p in folder.glob("emoji_u*.png")]
    paths = [p for p in paths if is_held_out(emoji_kind(p.stem)[0]) is held_out]
    if not paths:
        named = ", ".join(map(str, folders))
        raise FileNotFoundError(f"no emoji_u*.png of the {'held-out' if held_out else 'training'} set in {named}")
    paths.sort(key=lambda path: (emoji_kind(path.stem)[1], path.stem, str(path)))
    return _sprites(paths, [emoji_kind(path.stem)[1] for path in paths])


def load_cut_outs(folder: Path, *, held_out: bool) -> Sprites:
    """Read `<category>/*.png`, cut-outs with transparency, each category a kind.

    Raises:
        FileNotFoundError: there is none of that set in the folder.
    """
    paths = [p for p in sorted(folder.glob("*/*.png")) if is_held_out(p.parent.name) is held_out]
    if not paths:
        raise FileNotFoundError(
            f"no cut-out of the {'held-out' if held_out else 'training'} set in {folder}/<category>"
        )
    return _sprites(paths, [path.parent.name for path in paths])


def _sprites(paths: Sequence[Path], kinds: list[str]) -> Sprites:
    """Decode pictures that are sorted by kind."""
    first, count = runs(kinds)
    return Sprites(premultiplied(planes(each(_cut_out, paths))), first, count)


def _cut_out(path: Path) -> NDArray[np.uint8]:
    """(96, 96, 4) uint8: the picture in a square, its aspect kept."""
    with Image.open(path) as stored:
        picture = stored.convert("RGBA")
    if picture.width != picture.height:
        side = max(picture.size)
        square = Image.new("RGBA", (side, side))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square
    return np.asarray(picture.resize((SPRITE_SIZE,) * 2, Image.Resampling.BICUBIC, reducing_gap=3.0))


def premultiplied(rgba: Tensor) -> Tensor:
    """(N, 4, H, W) uint8 -> the same with RGB * alpha / 255."""
    alpha = rgba[:, 3:].to(torch.int16)
    return torch.cat([(rgba[:, :3] * alpha // 255).to(torch.uint8), rgba[:, 3:]], 1).contiguous()
