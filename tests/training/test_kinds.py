"""Photos get regions, and regions of many photos that look alike are one kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from evaluation.metrics import intersection_over_union
from training import kinds
from training.draw import Dice
from training.folder import load_folder
from training.mixtures import Shares, bundled_mixture
from training.photos import KINDS, kinds_path, load_photos
from training.textures import landscapes
from training.things import turned

SIDE, PHOTOS, THING = 192, 16, 96
LEFT = np.tile(np.arange(SIDE) < SIDE // 2, (SIDE, 1))
Areas = dict[str, list[NDArray[np.bool_]]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, data: Path, pupil: Path) -> tuple[Path, Areas]:
    """A data folder after python -m training.kinds, and where in each of photos/ two things are, one on either side."""
    root, dice = tmp_path_factory.mktemp("kinds"), Dice(11)
    for name in ("emoji", "clothing", "things"):
        (root / name).symlink_to(data / name)
    (root / "photos").mkdir()
    things = turned(dice, 8, 4).pixels.float().unflatten(0, (8, 4))
    large = things[:, :, 3].mean((1, 2, 3)).argsort(descending=True)[:2]
    areas: Areas = {}
    for number, landscape in enumerate(landscapes(dice, PHOTOS, SIDE)):
        scene = landscape
        own = []
        for side, thing in enumerate(things[large, number % 4]):
            left = SIDE // 2 * (side if number % 2 else 1 - side)
            framed = torch.nn.functional.pad(thing, (left, SIDE - THING - left, 48, SIDE - THING - 48))
            scene = scene * (1 - framed[3] / 255) + framed[:3]
            own.append((framed[3] > 127).numpy())
        picture = Image.fromarray(scene.clamp(0, 255).byte().permute(1, 2, 0).numpy())
        picture.save(root / "photos" / f"{number:02d}.jpg", quality=95)
        areas[f"{number:02d}"] = own
    kinds.main([f"--data={root}", f"--teacher={pupil}"])
    return root, areas


def found(root: Path, name: str) -> NDArray[np.uint8]:
    with Image.open(kinds_path(root, root / "photos" / f"{name}.jpg")) as stored:
        return np.asarray(stored)


def test_things_are_regions(seen: tuple[Path, Areas]) -> None:
    root, areas = seen
    scores, halves = [], []
    for name, own in areas.items():
        kinds_here = found(root, name)
        for area in own:
            scores.append(max(intersection_over_union(kinds_here == kind, area) for kind in np.unique(kinds_here)))
            halves.append(max(intersection_over_union(half, area) for half in (LEFT, ~LEFT)))
    assert np.mean(scores) > np.mean(halves) + 0.1


def test_what_is_written_makes_pairs(seen: tuple[Path, Areas]) -> None:
    root, areas = seen
    photos, things = load_photos(root / "photos"), load_folder(root / "things")
    for place, name in enumerate(sorted(areas)):
        assert np.array_equal(photos.labels[place, KINDS], found(root, name))
    assert things.labels.shape[1] == 4
    of_kinds = photos.layer == KINDS
    assert (photos.count[of_kinds] > 1).any()
    shares = {"pasted": 0.0, "same_photo": 0.0, "clothing": 0.0, "people": 0.0, "things": 0.0, "photos": 0.0}
    mixture = bundled_mixture(root, Dice(0), Shares(**shares, elsewhere=0.0, strangers=0.0), drawn_kinds=12)
    scenes = mixture.batch(32, 48)
    assert scenes.prompt_area.flatten(1).any(1).all()
    assert scenes.area.flatten(1).any(1).float().mean() > 0.9


def test_a_folder_without_photos_is_named(tmp_path: Path, pupil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kinds.main([f"--data={tmp_path}", f"--teacher={pupil}"])
    assert f"no photos/*.jpg and no things/<category>/images/* in {tmp_path}" in capsys.readouterr().err


def test_the_places_of_one_look_are_a_region() -> None:
    dice = np.random.default_rng(0)
    looks = dice.normal(size=(3, 32)).astype(np.float32)
    number = np.zeros((kinds.PLACES, kinds.PLACES), np.int64)
    number[:10], number[10:, 16:] = 1, 2
    seen = looks[number.ravel()] + 0.3 * dice.normal(size=(number.size, 32)).astype(np.float32)
    own, shares = kinds.regions(seen)
    assert len(own) == 3
    assert np.allclose(shares.sum(2), 1, atol=1e-5)
    for wanted in range(3):
        best = max(range(3), key=lambda region: own[region] @ looks[wanted])
        assert intersection_over_union(shares.argmax(2) == best, number == wanted) > 0.95


def test_a_regions_edge_follows_the_picture() -> None:
    row, column = np.mgrid[:SIDE, :SIDE]
    wanted = np.abs(row - 90) + np.abs(column - 101) < 50
    within = wanted.reshape(kinds.PLACES, 8, kinds.PLACES, 8).mean((1, 3)) > 0.5  # by whole places
    shares = np.stack([~within, within], 2).astype(np.float32)
    picture = Image.fromarray(np.where(wanted, 180, 60).astype(np.uint8))
    with_edges = kinds.outlined(picture, shares) == 1
    without = kinds.outlined(Image.new("L", (SIDE, SIDE)), shares) == 1
    assert intersection_over_union(with_edges, wanted) > 0.97 > intersection_over_union(without, wanted) + 0.02


def test_what_is_alike_is_of_one_kind_and_what_is_like_nothing_of_none() -> None:
    dice = np.random.default_rng(0)
    middles = np.linalg.qr(dice.normal(size=(64, 64)))[0][:8]
    members = np.repeat(np.arange(3), 40)
    looks = np.concatenate([middles[members] + 0.05 * dice.normal(size=(120, 64)), middles[3:]])
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    numbers = kinds.kinds(looks.astype(np.float32), most=3)
    assert [len(set(numbers[:120][members == own])) for own in range(3)] == [1, 1, 1]
    assert len(set(numbers[:120])) == 3
    assert (numbers[:120] > 0).all()
    assert (numbers[120:] == 0).all()
