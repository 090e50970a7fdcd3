"""Sources and scenes: what is drawn, from which pictures, and that it can be drawn again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.draw import Dice, placement, view, window
from training.regions import colour_regions
from training.scenes import Mixture, SceneMaker
from training.sources import Sprites, cut_outs, emoji_kind, is_held_out, load_clothing, load_emoji


def maker(data: Path, seed: int, mixture: Mixture | None = None) -> SceneMaker:
    photos = load_clothing(data / "clothing", held_out=False)
    emoji = load_emoji(data / "emoji", held_out=False)
    return SceneMaker(emoji, cut_outs(photos), photos, Dice(seed), mixture)


def code_points(data: Path, *, held_out: bool) -> set[str]:
    stems = {path.stem for path in (data / "emoji").glob("*.png")}
    return {emoji_kind(stem)[0] for stem in stems if is_held_out(emoji_kind(stem)[0]) is held_out}


def test_the_same_seed_composes_the_same_scenes(data: Path) -> None:
    first, again = maker(data, 3).batch(8, 32), maker(data, 3).batch(8, 32)
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(again, name)), name


def test_another_seed_composes_other_scenes(data: Path) -> None:
    assert not torch.equal(maker(data, 3).batch(4, 32).image, maker(data, 4).batch(4, 32).image)


def test_no_code_point_is_both_trained_on_and_held_out(data: Path) -> None:
    training, held_out = code_points(data, held_out=False), code_points(data, held_out=True)
    assert training
    assert held_out
    assert not training & held_out


def test_the_variants_of_a_code_point_are_on_the_same_side(data: Path) -> None:
    for held_out in (False, True):
        loaded = load_emoji(data / "emoji", held_out=held_out)
        assert len(loaded.pixels) == 2 * len(code_points(data, held_out=held_out))
        assert (loaded.count == 2).all()  # the plain one and its variant are one kind


def test_no_photo_is_both_trained_on_and_held_out(data: Path) -> None:
    stems = {path.stem for path in (data / "clothing" / "images").glob("*.jpg")}
    kept = {stem for stem in stems if is_held_out(stem)}
    assert len(load_clothing(data / "clothing", held_out=True).pixels) == len(kept) > 0
    assert len(load_clothing(data / "clothing", held_out=False).pixels) == len(stems - kept) > 0


def test_an_empty_folder_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no emoji_u\*\.png of the training set in"):
        load_emoji(tmp_path, held_out=False)
    with pytest.raises(FileNotFoundError, match="no photo of the held-out set in"):
        load_clothing(tmp_path, held_out=True)


@pytest.mark.parametrize("pasted", [0.0, 1.0])
def test_scenes_have_an_object_in_both_halves_and_are_in_range(data: Path, pasted: float) -> None:
    scenes = maker(data, 0, Mixture(pasted=pasted, same_photo=(1 - pasted) / 2)).batch(16, 32)
    assert len(scenes) == 16
    for images in (scenes.prompt_image, scenes.image, scenes.prompt_mask, scenes.mask):
        assert images.shape == (16, 3, 32, 32)
        assert images.min() >= 0
        assert images.max() <= 255
    assert scenes.prompt_area.flatten(1).any(1).all()
    assert scenes.area.flatten(1).any(1).all()


def test_masks_are_painted_in_two_colours_that_differ(data: Path) -> None:
    scenes = maker(data, 0).batch(64, 16)
    assert ((scenes.colours[:, 0] - scenes.colours[:, 1]).norm(dim=1) > 100).all()
    plain = (scenes.colours == torch.tensor([[0.0] * 3, [255.0] * 3])).flatten(1).all(1)
    assert 0.25 < plain.float().mean() < 0.75
    assert torch.equal(scenes.mask.permute(0, 2, 3, 1)[scenes.area][0], scenes.colours[scenes.area.any(2).any(1)][0, 1])


def test_the_object_moves_between_the_halves(data: Path) -> None:
    scenes = maker(data, 0, Mixture(pasted=1.0)).batch(32, 32)
    same = (scenes.prompt_area & scenes.area).sum((1, 2)) / (scenes.prompt_area | scenes.area).sum((1, 2))
    assert same.mean() < 0.5


def test_a_view_of_the_whole_picture_is_the_picture() -> None:
    picture = torch.rand(2, 4, 24, 24) * 255
    centre, half, angle, flip = torch.zeros(2, 2), torch.ones(2, 2), torch.zeros(2), torch.tensor([False, True])
    seen = view(picture, window(centre, half, angle, flip), 24, outside="zeros")
    torch.testing.assert_close(seen[0], picture[0], atol=1e-2, rtol=0)
    torch.testing.assert_close(seen[1], picture[1].flip(2), atol=1e-2, rtol=0)


def test_a_placed_cut_out_lies_where_it_was_put() -> None:
    cut_out = torch.full((1, 4, 16, 16), 255.0)
    theta = placement(torch.tensor([[0.5, -0.5]]), torch.tensor([[0.25, 0.25]]), torch.zeros(1), torch.tensor([True]))
    alpha = view(cut_out, theta, 32, outside="zeros")[0, 3] > 127
    ys, xs = torch.nonzero(alpha, as_tuple=True)
    assert (ys.float().mean().item(), xs.float().mean().item()) == pytest.approx((7.5, 23.5))
    assert alpha.sum() == 64


def test_colour_regions_follow_the_colours() -> None:
    pixels = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    pixels[0, 0, :, 48:] = 250
    regions = colour_regions(pixels)[0]
    assert 1 <= int(regions.min()) <= int(regions.max()) <= 5
    assert not set(regions[:, :44].unique().tolist()) & set(regions[:, 52:].unique().tolist())


def test_cut_outs_are_premultiplied(data: Path) -> None:
    for sprites in (
        load_emoji(data / "emoji", held_out=False),
        cut_outs(load_clothing(data / "clothing", held_out=False)),
    ):
        assert isinstance(sprites, Sprites)
        assert (sprites.pixels[:, :3] <= sprites.pixels[:, 3:]).all()
