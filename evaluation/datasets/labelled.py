"""Pictures on disk in which a category is marked; read when they are needed, refused when they do not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from evaluation.questions import Area, Example, Question

FOREGROUND = 128  # and above, of 255, in masks of two colours
_LYING = (5, 6, 7, 8)  # EXIF orientations that are shown with height and width exchanged


class DataError(ValueError):
    """A tree of pictures is not as its layout says; the message names the file and what is allowed."""


@dataclass(frozen=True)
class Areas:
    """What a mask says: (H, W) bool each; `ignored` None where every pixel counts."""

    wanted: Area
    ignored: Area | None = None


@dataclass(frozen=True)
class Labelled:
    """A picture in which one category is marked.

    Args:
        image: its file; two of the same file are the same picture.
        mask: the file that the areas come from, for messages.
        areas: reads them.
        is_as_shown: the mask fits the picture as it is shown, turned as its file says; those of benchmarks fit what is
            stored.
    """

    image: Path
    mask: Path
    areas: Callable[[], Areas]
    is_as_shown: bool = False

    def open(self) -> tuple[Image.Image, Areas]:
        """The picture as RGB, and its areas.

        Raises:
            DataError: a file is missing or no picture; sizes differ; nothing is marked.
        """
        image, areas = open_image(self.image, is_as_shown=self.is_as_shown), self.areas()
        self._check(image.size, areas)
        return image, areas

    def check(self) -> None:
        """As `open`, without decoding the picture.

        Raises:
            DataError: as `open`, but for damage inside the picture.
        """
        with _opened(self.image) as image:
            is_lying = self.is_as_shown and image.getexif().get(ExifTags.Base.Orientation) in _LYING
            self._check(image.size[::-1] if is_lying else image.size, self.areas())

    def _check(self, size: tuple[int, int], areas: Areas) -> None:
        height, width = areas.wanted.shape
        if size != (width, height):
            raise DataError(
                f"{self.mask} is {height} x {width} and {self.image} is {size[1]} x {size[0]}; "
                "a mask has its picture's height and width"
            )
        if not areas.wanted.any():
            raise DataError(f"{self.mask} marks nothing; each mask must mark at least one pixel")


@dataclass(frozen=True)
class Episode:
    """An input image with examples of the same category, none of them the same picture."""

    category: str
    examples: tuple[Labelled, ...]
    input: Labelled

    def question(self, examples: int) -> Question:
        """Read the pictures.

        Raises:
            DataError: a file does not fit.
        """
        assert 1 <= examples <= len(self.examples)
        opened = [one.open() for one in self.examples[:examples]]
        image, areas = self.input.open()
        return Question(
            self.category,
            tuple(Example(prompt, marked.wanted) for prompt, marked in opened),
            image,
            areas.wanted,
            areas.ignored,
        )


def open_image(path: Path, *, is_as_shown: bool = False) -> Image.Image:
    """A picture as RGB, as it is stored or turned as its file says.

    Raises:
        DataError: it is missing or no picture.
    """
    with _opened(path) as image:
        try:
            return (ImageOps.exif_transpose(image) if is_as_shown else image).convert("RGB")
        except (OSError, SyntaxError) as error:
            raise DataError(f"{path} is damaged: {error}") from error


def read_indices(path: Path) -> Area:
    """A mask of class numbers, (H, W) of its own integer type; a palette PNG gives its indices.

    Raises:
        DataError: it is missing, no picture, or has colours.
    """
    with _opened(path) as mask:
        if mask.mode not in ("L", "P", "I", "I;16", "1"):
            raise DataError(f"{path} is of mode {mask.mode}; a mask of class numbers has one channel (L or P)")
        return np.asarray(mask)


def read_binary(path: Path) -> Areas:
    """A mask of two colours: marked where its grey value is 128 or more.

    Raises:
        DataError: it is missing or no picture.
    """
    with _opened(path) as mask:
        return Areas(np.asarray(mask.convert("L")) >= FOREGROUND)


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from error


def subfolders(folder: Path) -> list[Path]:
    """Folders inside, by name; hidden ones left out.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def usable(pictures: list[Labelled], skip: bool) -> list[Labelled]:
    """Check pictures before a long run; leave out those that do not fit if so asked, and say which.

    Raises:
        DataError: one does not fit, and is not to be skipped.
    """
    kept = []
    for picture in pictures:
        try:
            picture.check()
        except DataError as error:
            if not skip:
                raise DataError(f"{error} (--skip-unusable leaves such pictures out)") from error
            print(f"left out: {error}", file=sys.stderr)
        else:
            kept.append(picture)
    return kept
