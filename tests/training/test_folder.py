"""Anyone's pictures with masks are read as the service reads them, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import ExifTags, Image, ImageDraw

from training.folder import load_folder

BOX = (10, 5, 40, 30)


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """A category of three pictures, 60 x 90 pixels."""
    for kind, ground, thing in (("images", "blue", "red"), ("masks", "black", "white")):
        (tmp_path / "disc" / kind).mkdir(parents=True)
        for index in range(3):
            picture = Image.new("RGB", (90, 60), ground)
            ImageDraw.Draw(picture).rectangle(BOX, fill=thing)
            picture.save(tmp_path / "disc" / kind / f"{index}.png")
    return tmp_path / "disc"


def test_a_photo_that_says_how_it_was_held_is_turned(disc: Path) -> None:
    upright = load_folder(disc.parent, 64)
    path = disc / "images" / "1.png"
    with Image.open(path) as image:
        turned, says = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    says[ExifTags.Base.Orientation] = 6  # to be shown turned clockwise
    turned.save(path, exif=says)
    assert torch.equal(load_folder(disc.parent, 64).pixels, upright.pixels)


def _broken_off(disc: Path) -> None:
    path = disc / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:100])


def _no_picture(disc: Path) -> None:
    (disc / "masks" / "1.png").write_bytes(b"hello")


def _other_aspect(disc: Path) -> None:
    Image.new("L", (60, 90), 255).save(disc / "masks" / "1.png")


def _dark(disc: Path) -> None:
    path = disc / "masks" / "1.png"
    with Image.open(path) as mask:
        dark = mask.convert("L").point(lambda level: level > 0)
    dark.save(path)


def _twice(disc: Path) -> None:
    for name in ("1.jpg", "1.old.png"):  # the latter by name between the two
        Image.new("RGB", (90, 60)).save(disc / "images" / name)
    (disc / "masks" / "0.png").rename(disc / "masks" / "1.old.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_broken_off, r"images/1\.png cannot be read"),
        (_no_picture, r"masks/1\.png cannot be read"),
        (_other_aspect, r"masks/1\.png: got a mask of 60x90 pixels for an image of 90x60"),
        (_dark, r"masks/1\.png: got a mask whose brightest pixel is 1; the thing is what is brighter than 127"),
        (_twice, r"images has 1\.jpg and 1\.png; allowed is one of a name"),
    ],
)
def test_pictures_that_do_not_fit_are_named(disc: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(disc)
    with pytest.raises(ValueError, match=message):
        load_folder(disc.parent, 64)


def test_more_categories_than_a_label_map_has_are_refused(disc: Path) -> None:
    for number in range(255):
        (disc.parent / f"more {number}" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has 256 categories; allowed are 255"):
        load_folder(disc.parent, 64)
