"""Pictures on disk -> tensors in memory, split into training and held-out sets.

Knows the layout of the data folder and nothing of scenes, losses or networks. Every picture is decoded once, at the
start: about 10,000 cut-outs and 1,000 photos take a gigabyte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.draw import Dice
from training.held_out import held_out_among, is_held_out
from training.regions import colour_regions

SPRITE_SIZE = 96
PHOTO_SIZE = 192
SKIN_AND_GENDER = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff", "2640", "2642", "200d", "fe0f"}
MIN_REGION, MAX_REGION = 0.02, 0.7  # share of the photo that a region may cover
MIN_CUT_OUT = 0.03
CLASSES, COLOURS, PEOPLE, KINDS = 0, 1, 2, 3  # layers of Photos.labels
_Given = TypeVar("_Given")
_Read = TypeVar("_Read")


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


@dataclass(frozen=True)
class Photos:
    """Square photos, and the table of every region in them that can be asked for.

    pixels: (M, 3, 192, 192) uint8; aspect not kept, as the service does not keep it.
    labels: (M, 3 or 4, 192, 192) uint8; layer 0 annotated classes (0 = background), layer 1 regions of like colour,
        layer 2 whole people (1 wherever any class is annotated), layer 3 kinds that `training.kinds` found (0 = none).
    photo, layer, value: (R,) int64; region r is `labels[photo, layer] == value`.
    box: (R, 4) float, centre x, centre y, width, height in [0, 1].
    first, count: (R,) int64; the regions of the same class, in any photo, are rows first .. first + count - 1;
        count is 1 for a region of like colour.
    """

    pixels: Tensor
    labels: Tensor
    photo: Tensor
    layer: Tensor
    value: Tensor
    box: Tensor
    first: Tensor
    count: Tensor

    def to(self, device: torch.device) -> Photos:
        return Photos(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def _group(keys: list[str]) -> tuple[Tensor, Tensor]:
    """Runs of equal neighbours: (first index, length) of each, both (K,) int64."""
    first = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    ends = [*first[1:], len(keys)]
    return torch.tensor(first), torch.tensor([end - start for start, end in zip(first, ends, strict=True)])


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
    first, count = _group(kinds)
    return Sprites(_premultiply(_planes(_each(_cut_out, paths))), first, count)


def _each(read: Callable[[_Given], _Read], given: Iterable[_Given]) -> list[_Read]:
    """Read pictures in as many threads as there are cores, in order: decoders leave the interpreter free."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(read, given))


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


def _premultiply(rgba: Tensor) -> Tensor:
    """(N, 4, H, W) uint8 -> the same with RGB * alpha / 255."""
    alpha = rgba[:, 3:].to(torch.int16)
    return torch.cat([(rgba[:, :3] * alpha // 255).to(torch.uint8), rgba[:, 3:]], 1).contiguous()


def _planes(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """(H, W, C) uint8 each -> (N, C, H, W)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def load_clothing(folder: Path, *, held_out: bool) -> Photos:
    """Read `images/<name>.jpg` with `labels/<name>.png` and `classes.json`.

    Raises:
        FileNotFoundError: there is no photo of that set in the folder.
    """
    paths = [p for p in sorted((folder / "images").glob("*.jpg")) if is_held_out(p.stem) is held_out]
    if not paths:
        raise FileNotFoundError(f"no photo of the {'held-out' if held_out else 'training'} set in {folder}/images")
    classes: dict[str, str] = json.loads((folder / "classes.json").read_text())
    size = (PHOTO_SIZE, PHOTO_SIZE)

    def read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        with Image.open(path) as image, Image.open(folder / "labels" / f"{path.stem}.png") as label:
            pixels = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
            return np.asarray(pixels), np.asarray(label.resize(size, Image.Resampling.NEAREST))

    pixels, labels = zip(*_each(read, paths), strict=True)
    return tabulate(_planes(pixels), torch.from_numpy(np.stack(labels)), max(map(int, classes)))


def read_photo(path: Path) -> Image.Image:
    """RGB, at its own size."""
    with Image.open(path) as stored:
        return stored.convert("RGB")


def kinds_path(data: Path, photo: Path) -> Path:
    """Where the kinds of a photo of <data>/photos/ or <data>/things/ are kept: PNG, 192 x 192, kinds as bytes."""
    return data / "kinds" / photo.relative_to(data).with_suffix(".png")


def load_folder(folder: Path, size: int = PHOTO_SIZE, *, held_out: bool | None = None) -> Photos:
    """Read anyone's pictures: `<category>/images/<name>.*` with `<category>/masks/<name>.png`.

    Args:
        folder: of at least one category; masks are True where brighter than middle grey. Kinds are read from kinds/
            beside it.
        size: side of the squares that are kept, in pixels.
        held_out: read only those of `held_out_among`, or only the others; None reads all.

    Raises:
        FileNotFoundError: there is no such pair of picture and mask.
        ValueError: there are too few to hold any out; or nothing in them is of a fair size.
    """
    categories = sorted(path.name for path in folder.iterdir() if (path / "images").is_dir())
    found = [
        (path, mask, value)
        for value, category in enumerate(categories, 1)
        for path in sorted((folder / category / "images").iterdir())
        if (mask := folder / category / "masks" / f"{path.stem}.png").is_file()
    ]
    if not found:
        raise FileNotFoundError(f"no <category>/images/<name>.* with <category>/masks/<name>.png in {folder}")
    if held_out is not None:
        names = [(categories[value - 1], path.stem) for path, _, value in found]
        shares = _each(lambda pair: _area(pair[1], size).mean(), found)
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
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
        return pixels, _area(mask, size).astype(np.uint8) * value

    pixels, labels = zip(*_each(read, found), strict=True)
    kinds = _load_kinds(folder.parent, [path for path, _, _ in found], size)
    return tabulate(_planes(pixels), torch.from_numpy(np.stack(labels)), len(categories), kinds)


def _area(mask: Path, size: int) -> NDArray[np.bool_]:
    with Image.open(mask) as image:
        return np.asarray(image.convert("L").resize((size, size), Image.Resampling.NEAREST)) > 127


def load_photos(folder: Path) -> Photos:
    """Read photos without masks, `*.jpg`: backgrounds, and regions of like colour and of like kinds to ask for.

    Kinds are read from kinds/ beside the folder.

    Raises:
        FileNotFoundError: there is none in the folder.
    """
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        raise FileNotFoundError(f"no *.jpg in {folder}")

    def read(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((PHOTO_SIZE,) * 2, Image.Resampling.BICUBIC))

    pixels = _each(read, paths)
    nothing = torch.zeros(len(pixels), PHOTO_SIZE, PHOTO_SIZE, dtype=torch.uint8)
    return tabulate(_planes(pixels), nothing, 0, _load_kinds(folder.parent, paths, PHOTO_SIZE))


def _load_kinds(data: Path, photos: Sequence[Path], size: int) -> Tensor | None:
    """(M, size, size) uint8, 0 where a photo has none; None if no kinds were found."""
    if not (data / "kinds").is_dir():
        return None

    def read(photo: Path) -> NDArray[np.uint8]:
        path = kinds_path(data, photo)
        if not path.is_file():
            return np.zeros((size, size), np.uint8)
        with Image.open(path) as kinds:
            return np.asarray(kinds.resize((size, size), Image.Resampling.NEAREST))

    return torch.from_numpy(np.stack(_each(read, photos)))


def tabulate(pixels: Tensor, annotated: Tensor, last_class: int, kinds: Tensor | None = None) -> Photos:
    """Find every region of a fair size: annotated, of like colour, of a kind.

    Args:
        pixels: (M, 3, 192, 192) uint8.
        annotated: (M, 192, 192) uint8, class indices, 0 = background.
        last_class: largest class index.
        kinds: (M, 192, 192) uint8, 0 = none.

    Raises:
        ValueError: there is none.
    """
    maps = [annotated, colour_regions(pixels), (annotated > 0).to(torch.uint8), *([] if kinds is None else [kinds])]
    labels = torch.stack(maps, 1)
    size = pixels.shape[-1]
    rows: list[tuple[int, int, int, float, float, float, float]] = []
    for layer, last in enumerate([last_class, *(int(own.max()) for own in maps[1:])]):
        area = _counts(labels[:, layer], last + 1) / size**2
        for value in range(1, last + 1):
            fair = torch.nonzero((area[:, value] >= MIN_REGION) & (area[:, value] <= MAX_REGION))[:, 0]
            hit = labels[fair, layer] == value
            sides = [_ends(hit.any(axis)) for axis in (1, 2)]
            for photo, (left, right), (top, bottom) in zip(fair.tolist(), *sides, strict=True):
                box = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
                rows.append((photo, layer, value, *(side / size for side in box)))
    if not rows:
        raise ValueError(f"nothing in the pictures covers {MIN_REGION:.0%} to {MAX_REGION:.0%} of its picture")
    table = torch.tensor(rows, dtype=torch.float64)
    photos, layers, values = table[:, :3].long().unbind(1)
    # Regions of like colour have no relatives in other photos: each is a group of its own.
    keys = [f"row {i}" if row[1] == COLOURS else f"layer {row[1]} class {row[2]}" for i, row in enumerate(rows)]
    starts, lengths = _group(keys)
    group = torch.repeat_interleave(torch.arange(len(starts)), lengths)
    boxes = table[:, 3:].float()
    return Photos(pixels, labels, photos, layers, values, boxes, starts[group], lengths[group])


def _counts(labels: Tensor, values: int) -> Tensor:
    """How often each value in [0, values) is in each of (M, H, W) uint8: (M, values)."""
    return torch.stack([torch.bincount(own.flatten(), minlength=values)[:values] for own in labels])


def _ends(hit: Tensor) -> list[list[int]]:
    """Of (N, H) bool, some of each row True: the first of them, and the one behind the last."""
    ends = [hit.int().argmax(1), hit.shape[1] - hit.flip(1).int().argmax(1)]
    found: list[list[int]] = torch.stack(ends, 1).tolist()
    return found


def cut_outs(photos: Photos) -> Sprites:
    """Annotated regions as cut-outs, each in its bounding square: real objects to paste on other backgrounds.

    Each region is a kind of its own; the table is sorted by class, so neighbours are related.
    """
    chosen, size = [], photos.pixels.shape[-1]
    for row in torch.nonzero((photos.layer == CLASSES) | (photos.layer == PEOPLE))[:, 0].tolist():
        mask = photos.labels[photos.photo[row], photos.layer[row]] == photos.value[row]
        if mask.float().mean() < MIN_CUT_OUT:
            continue
        cx, cy, width, height = (photos.box[row] * size).tolist()
        half = max(width, height) / 2
        box = tuple(round(side) for side in (cx - half, cy - half, cx + half, cy + half))
        rgba = torch.cat([photos.pixels[photos.photo[row]], mask[None].to(torch.uint8) * 255])
        image = Image.fromarray(rgba.permute(1, 2, 0).numpy(), "RGBA").crop(box)  # transparent outside the photo
        chosen.append(np.asarray(image.resize((SPRITE_SIZE,) * 2, Image.Resampling.BILINEAR)))
    pixels = _premultiply(_planes(chosen))
    return Sprites(pixels, torch.arange(len(chosen)), torch.ones(len(chosen), dtype=torch.int64))
