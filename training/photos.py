"""Square photos and the regions in them that can be asked for: annotated, of like colour, of a kind.

Knows how they lie in the data folder and nothing of scenes, losses or networks. Every picture is decoded once, at the
start: about 10,000 cut-outs and 1,000 photos take a gigabyte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.held_out import is_held_out
from training.reading import each, planes, runs
from training.regions import colour_regions
from training.sprites import SPRITE_SIZE, Sprites, premultiplied

PHOTO_SIZE = 192
MIN_REGION, MAX_REGION = 0.02, 0.7  # share of the photo that a region may cover
MIN_CUT_OUT = 0.03
CLASSES, COLOURS, PEOPLE, KINDS = 0, 1, 2, 3  # layers of Photos.labels


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

    pixels, labels = zip(*each(read, paths), strict=True)
    return tabulate(planes(pixels), torch.from_numpy(np.stack(labels)), max(map(int, classes)))


def read_photo(path: Path) -> Image.Image:
    """RGB, at its own size."""
    with Image.open(path) as stored:
        return stored.convert("RGB")


def kinds_path(data: Path, photo: Path) -> Path:
    """Where the kinds of a photo of <data>/photos/ or <data>/things/ are kept: PNG, 192 x 192, kinds as bytes."""
    return data / "kinds" / photo.relative_to(data).with_suffix(".png")


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

    pixels = each(read, paths)
    nothing = torch.zeros(len(pixels), PHOTO_SIZE, PHOTO_SIZE, dtype=torch.uint8)
    return tabulate(planes(pixels), nothing, 0, load_kinds(folder.parent, paths, PHOTO_SIZE))


def load_kinds(data: Path, photos: Sequence[Path], size: int) -> Tensor | None:
    """(M, size, size) uint8, 0 where a photo has none; None if no kinds were found."""
    if not (data / "kinds").is_dir():
        return None

    def read(photo: Path) -> NDArray[np.uint8]:
        path = kinds_path(data, photo)
        if not path.is_file():
            return np.zeros((size, size), np.uint8)
        with Image.open(path) as kinds:
            return np.asarray(kinds.resize((size, size), Image.Resampling.NEAREST))

    return torch.from_numpy(np.stack(each(read, photos)))


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
    starts, lengths = runs(keys)
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
    pixels = premultiplied(planes(chosen))
    return Sprites(pixels, torch.arange(len(chosen)), torch.ones(len(chosen), dtype=torch.int64))
