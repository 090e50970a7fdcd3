"""Photos sorted by category get masks of what they have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evaluation.metrics import intersection_over_union
from training import outlines
from training.draw import Dice
from training.folder import load_folder
from training.textures import landscapes
from training.things import turned

SIDE, VARIANTS = 160, 8
Areas = dict[str, NDArray[np.bool_]]


def photographed(sprites: Tensor, dice: Dice, folder: Path) -> Areas:
    """One kind's pictures, each in the middle of a landscape of its own; gives where they are."""
    folder.mkdir(parents=True)
    areas = {}
    for number, sprite in enumerate(sprites):
        scene = landscapes(dice, 1, SIDE)[0]
        thing = torch.nn.functional.interpolate(sprite[None], (110, 110), mode="bilinear")[0]
        framed = torch.nn.functional.pad(thing, (25, 25, 25, 25))
        shown = scene * (1 - framed[3] / 255) + framed[:3]
        name = f"photo_{number}"
        Image.fromarray(shown.clamp(0, 255).byte().permute(1, 2, 0).numpy()).save(folder / f"{name}.jpg", quality=95)
        areas[name] = (framed[3] > 127).numpy()
    return areas


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, pupil: Path) -> tuple[Path, dict[str, Areas]]:
    """photos/<category>/*.jpg, others/*.jpg, and what was marked by python -m training.outlines in masked/."""
    root, dice = tmp_path_factory.mktemp("outlines"), Dice(3)
    things = turned(dice, 8, VARIANTS).pixels.float().unflatten(0, (8, VARIANTS))
    large = things[:, :, 3].mean((1, 2, 3)).argsort(descending=True)  # thin ones would be left out
    kinds = zip(("bottle", "lamp"), things[large[:2]], strict=True)
    wanted = {kind: photographed(sprites, dice, root / "photos" / kind) for kind, sprites in kinds}
    photographed(turned(dice, 4, 4).pixels.float(), dice, root / "others")
    (root / "photos" / "empty").mkdir()
    places = [f"--{name}={root / name}" for name in ("photos", "others")]
    outlines.main([*places, f"--out={root / 'masked'}", "--most=7", f"--teacher={pupil}"])
    return root, wanted


def test_what_a_categorys_photos_have_in_common_is_marked(tree: tuple[Path, dict[str, Areas]]) -> None:
    root, wanted = tree
    row, column = np.mgrid[:SIDE, :SIDE]
    ellipse = np.hypot(row - SIDE / 2, column - SIDE / 2) < 0.24 * SIDE  # as large as the things are on the average
    scores, plain = [], []
    for category, areas in wanted.items():
        for path in (root / "masked" / category / "masks").glob("*.png"):
            scores.append(intersection_over_union(np.asarray(Image.open(path)), areas[path.stem]))
            plain.append(intersection_over_union(ellipse, areas[path.stem]))
    assert 7 <= len(scores) <= 14  # of 7 photos of each kind some may be left out
    assert np.mean(scores) > 0.8
    assert np.mean(scores) > np.mean(plain) + 0.2


def test_what_is_written_is_what_a_run_reads(tree: tuple[Path, dict[str, Areas]]) -> None:
    root, _ = tree
    masked = sorted(path.name for path in (root / "masked").iterdir())
    assert masked == ["bottle", "lamp"]  # the category without photos is not there
    photos = load_folder(root / "masked")
    assert len(photos.pixels) == len(list((root / "masked").glob("*/masks/*.png")))


def test_a_mask_is_left_out_where_colours_and_places_disagree() -> None:
    picture = np.full((120, 160, 3), 200, np.uint8)
    picture[40:80, 60:100] = (180, 20, 20)
    shown = Image.fromarray(picture)
    chances = np.zeros((outlines.PLACES, outlines.PLACES), np.float32)
    assert outlines.cut(shown, chances) is None  # nothing was found
    assert outlines.cut(shown, chances + 1) is None  # all was found
    chances[5:15, 6:14] = 1
    area = outlines.cut(shown, chances)
    wanted = np.zeros((120, 160), bool)
    wanted[40:80, 60:100] = True
    assert area is not None
    assert intersection_over_union(area, wanted) > 0.9
    picture[40:80, 60:100] = 200
    picture[58:62, 78:82] = (180, 20, 20)  # far smaller than what was found
    assert outlines.cut(Image.fromarray(picture), chances) is None
