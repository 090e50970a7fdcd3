"""Sources and scenes: what is drawn, from which pictures, and that it can be drawn again."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image

from training.draw import Dice, blurred, placement, view, window
from training.folder import load_folder
from training.held_out import is_held_out
from training.mixtures import Shares, bundled_mixture, drawn_mixture, folder_mixture, held_out_maker
from training.pasted import Pasted, Pasting
from training.photos import CLASSES, COLOURS, cut_outs, load_clothing, load_photos
from training.regions import colour_regions
from training.scenes import OTHER, THING, Halves, SceneMaker, Scenes
from training.sprites import Bank, Sprites, emoji_kind, load_cut_outs, load_emoji
from training.things import creatures, letters, shapes, turned
from training.windows import TwoPhotos

ONLY = dict.fromkeys(("pasted", "same_photo", "clothing", "people", "things", "photos", "kinds"), 0.0)


def maker(data: Path, seed: int, shares: Shares | None = None, pasting: Pasting | None = None) -> SceneMaker:
    return bundled_mixture(data, Dice(seed), shares, pasting, drawn_kinds=12)


def pasted(data: Path, **shares: float) -> SceneMaker:
    """Pasted scenes alone, white on black."""
    return maker(data, 0, Shares(**{**ONLY, "pasted": 1.0}, random_colours=0.0), Pasting(**shares))


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
        loaded = load_emoji([data / "emoji"], held_out=held_out)
        assert len(loaded.pixels) == 2 * len(code_points(data, held_out=held_out))
        assert (loaded.count == 2).all()  # the plain one and its variant are one kind


def test_no_photo_is_both_trained_on_and_held_out(data: Path) -> None:
    stems = {path.stem for path in (data / "clothing" / "images").glob("*.jpg")}
    kept = {stem for stem in stems if is_held_out(stem)}
    assert len(load_clothing(data / "clothing", held_out=True).pixels) == len(kept) > 0
    assert len(load_clothing(data / "clothing", held_out=False).pixels) == len(stems - kept) > 0


@pytest.mark.parametrize("count", [2, 5, 150])
def test_a_tenth_of_a_folder_is_held_out_and_at_least_one_picture(tmp_path: Path, count: int) -> None:
    grey_pictures(tmp_path, {"leaf": count, "stone": 1})  # the only stone is learnt from
    learnt, held_out = (load_folder(tmp_path, 32, held_out=held_out).pixels for held_out in (False, True))
    greys = [set(pixels.flatten(1).median(1).values.tolist()) for pixels in (learnt, held_out)]
    assert len(learnt) + len(held_out) == count + 1
    assert not greys[0] & greys[1]
    assert 0.05 * count < len(held_out) < max(2, 0.15 * count)


def test_no_picture_is_held_out_whose_thing_is_too_small_to_be_asked_for(tmp_path: Path) -> None:
    grey_pictures(tmp_path, {"leaf": 20})
    small = [index for index in range(20) if is_held_out(f"leaf/{index}")] or [0]
    for index in small:
        Image.new("L", (32, 32)).save(tmp_path / "leaf" / "masks" / f"{index}.png")
    greys = {60 + index for index in small}
    held_out = load_folder(tmp_path, 32, held_out=True).pixels
    assert len(held_out) > 0
    assert not greys & set(held_out.flatten(1).median(1).values.tolist())


def test_of_single_pictures_none_can_be_held_out(tmp_path: Path) -> None:
    grey_pictures(tmp_path, {"leaf": 1, "stone": 1})
    with pytest.raises(ValueError, match=r"too few pictures to hold any out: no category .* has two"):
        load_folder(tmp_path, 32, held_out=True)


def grey_pictures(folder: Path, counts: dict[str, int]) -> None:
    """Pictures of one grey each, a dark thing in the corner."""
    greys = itertools.cycle(range(60, 250))
    for category, count in counts.items():
        for kind in ("images", "masks"):
            (folder / category / kind).mkdir(parents=True)
        for index in range(count):
            picture, mask = Image.new("RGB", (32, 32), (next(greys),) * 3), Image.new("L", (32, 32))
            picture.paste((0, 0, 0), (0, 0, 12, 12))
            mask.paste(255, (0, 0, 12, 12))
            picture.save(folder / category / "images" / f"{index}.png")
            mask.save(folder / category / "masks" / f"{index}.png")


def test_an_empty_folder_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no emoji_u\*\.png of the training set in"):
        load_emoji([tmp_path], held_out=False)
    with pytest.raises(FileNotFoundError, match="no photo of the held-out set in"):
        load_clothing(tmp_path, held_out=True)
    with pytest.raises(FileNotFoundError, match="no cut-out of the training set in"):
        load_cut_outs(tmp_path, held_out=False)
    with pytest.raises(FileNotFoundError, match="no <category>/images/"):
        load_folder(tmp_path)


def test_a_code_point_in_another_style_is_a_variant(data: Path) -> None:
    plain = load_emoji([data / "emoji"], held_out=False)
    both = load_emoji([data / "emoji", data / "emoji_styles" / "flat"], held_out=False)
    assert torch.equal(both.count, 2 * plain.count)


def test_cut_outs_keep_their_aspect(data: Path) -> None:
    pixels = load_cut_outs(data / "cutouts", held_out=False).pixels
    rows, columns = ((pixels[:, 3] > 127).any(axis).sum(1) for axis in (2, 1))
    assert (rows < 0.6 * columns).all()


def test_a_folder_of_categories_makes_pairs_of_one_category(data: Path) -> None:
    photos = load_folder(data / "things", 64)
    assert photos.pixels.shape == (6, 3, 64, 64)
    assert photos.labels[:, 0].flatten(1).amax(1).tolist() == [1, 1, 1, 2, 2, 2]
    scenes = folder_mixture(photos, Dice(0)).batch(8, 48)
    assert scenes.prompt_area.flatten(1).any(1).all()


@pytest.mark.parametrize("source", sorted(ONLY.keys() - {"kinds"}))  # test_kinds.py has them
def test_scenes_of_every_source_are_in_range_and_show_what_is_asked_for(data: Path, source: str) -> None:
    scenes = maker(
        data, 0, Shares(**{**ONLY, source: 1.0}, elsewhere=0.0, strangers=0.0), Pasting(absent=0.0, instead=0.0)
    ).batch(16, 32)
    assert len(scenes) == 16
    for images in (scenes.prompt_image, scenes.image, scenes.prompt_mask, scenes.mask):
        assert images.shape == (16, 3, 32, 32)
        assert images.min() >= 0
        assert images.max() <= 255
    assert scenes.prompt_area.flatten(1).any(1).all()
    assert scenes.area.flatten(1).any(1).all()


def test_masks_are_black_and_white_or_painted_in_colours_that_differ(data: Path) -> None:
    scenes = maker(data, 0, Shares(random_colours=0.5)).batch(64, 16)
    assert ((scenes.colours[:, 0] - scenes.colours[:, 1]).norm(dim=1) > 100).all()
    plain = (scenes.colours[:, :2] == torch.tensor([[0.0] * 3, [255.0] * 3])).flatten(1).all(1)
    assert 0.25 < plain.float().mean() < 0.75
    assert torch.equal(scenes.mask.permute(0, 2, 3, 1)[scenes.area][0], scenes.colours[scenes.area.any(2).any(1)][0, 1])


def test_the_thing_moves_between_the_halves(data: Path) -> None:
    scenes = pasted(data, absent=0.0, instead=0.0).batch(32, 32)
    same = (scenes.prompt_area & scenes.area).sum((1, 2)) / (scenes.prompt_area | scenes.area).sum((1, 2))
    assert same.mean() < 0.5


def test_an_absent_thing_leaves_the_mask_empty(data: Path) -> None:
    scenes = pasted(data, busy=1.0, absent=1.0).batch(16, 32)
    assert scenes.prompt_area.flatten(1).any(1).all()
    assert not scenes.area.any()


def test_another_thing_in_its_stead_is_not_marked(data: Path) -> None:
    shown, instead = (pasted(data, busy=0.0, instead=share).batch(32, 32) for share in (0.0, 1.0))
    assert shown.area.flatten(1).any(1).all()
    assert instead.prompt_area.flatten(1).any(1).all()
    assert not instead.area.any()


class Flat:
    """Pictures of one grey, in which the left half is the thing."""

    def __init__(self, grey: float) -> None:
        self.grey = grey

    def halves(self, dice: Dice, count: int, size: int, examples: int = 1) -> Halves:
        image = torch.full((count * examples, 3, size, size), self.grey)
        labels = torch.zeros(count * examples, size, size, dtype=torch.uint8)
        labels[:, :, : size // 2] = THING
        return Halves(image, labels, image, labels)


@pytest.mark.parametrize("examples", [1, 2])
def test_a_stranger_s_input_image_shows_nothing_of_what_is_asked_for(examples: int) -> None:
    dark, bright = Flat(60.0), Flat(190.0)
    maker = SceneMaker([(0.5, dark), (0.5, bright)], Dice(0), 0.0, strangers=1.0, strange=[(dark, bright)])
    scenes = maker.batch(64, 16, examples)
    is_prompt_bright, is_bright = (part.mean((1, 2, 3)) > 125 for part in (scenes.prompt_image, scenes.image))
    is_stranger = ~is_prompt_bright & is_bright
    assert not (is_prompt_bright & ~is_bright).any()  # only the given order of the two
    assert 0.1 < is_stranger.float().mean() < 0.5
    assert not scenes.area[is_stranger].any()
    assert scenes.area[~is_stranger].flatten(1).any(1).all()
    for half in (scenes.image, scenes.area, scenes.colours):  # one input half per scene
        assert torch.equal(half[::examples].repeat_interleave(examples, 0), half)


def test_without_strangers_no_number_is_drawn_for_them() -> None:
    dark, bright = Flat(60.0), Flat(190.0)
    mixture = [(0.5, dark), (0.5, bright)]
    first, again = SceneMaker(mixture, Dice(0)), SceneMaker(mixture, Dice(0), strange=[(dark, bright)])
    assert torch.equal(first.batch(8, 16).image, again.batch(8, 16).image)


def test_drawn_scenes_always_show_what_is_asked_for() -> None:
    assert drawn_mixture(Dice(0)).batch(64, 24).area.flatten(1).any(1).all()


def test_a_window_elsewhere_is_answered_with_what_it_shows_of_the_thing(data: Path) -> None:
    photos = load_folder(data / "things", 64)
    scenes = SceneMaker([(1.0, TwoPhotos(photos, CLASSES, elsewhere=1.0))], Dice(0), 0.0).batch(64, 32)
    shown = scenes.area.flatten(1).any(1).float().mean()
    assert 0.3 < shown < 0.7  # a leaf's prompt and a stone's window have no thing in common
    assert scenes.prompt_area.flatten(1).any(1).all()


def test_without_such_windows_no_number_is_drawn_for_them(data: Path) -> None:
    class NoChoice(Dice):
        def choice(self, count: int, *shape: int) -> torch.Tensor:
            raise AssertionError("the held-out sets of a seed would change")

    photos = load_folder(data / "things", 64)
    assert len(TwoPhotos(photos, CLASSES).halves(NoChoice(0), 4, 32)) == 4


def test_a_photo_without_masks_is_asked_for_its_regions(data: Path) -> None:
    photos = load_photos(data / "photos")
    assert len(photos.pixels) == 3
    assert set(photos.layer.tolist()) == {COLOURS}
    with pytest.raises(FileNotFoundError, match=r"no \*.jpg in"):
        load_photos(data / "emoji")


def test_a_second_class_has_a_colour_of_its_own_in_both_halves(data: Path) -> None:
    scenes = pasted(data, busy=1.0, second=1.0, absent=0.0).batch(64, 32)
    both = (scenes.labels == OTHER).flatten(1).any(1) & (scenes.prompt_labels == OTHER).flatten(1).any(1)
    assert both.float().mean() > 0.3
    colours = scenes.colours[both]
    assert ((colours[:, 1] - colours[:, 2]).norm(dim=1) > 100).all()
    assert ((colours[:, 0] - colours[:, 2]).norm(dim=1) > 100).all()


def test_several_copies_cover_more_places_than_one(data: Path) -> None:
    def spread(scenes: Scenes) -> float:
        return scenes.area.any(1).float().mean().item()

    assert spread(pasted(data, busy=0.0, several=1.0).batch(64, 32)) > spread(
        pasted(data, busy=0.0, several=0.0).batch(64, 32)
    )


def test_held_out_scenes_are_the_same_every_time(data: Path) -> None:
    one, again = (held_out_maker(data, torch.device("cpu")).batch(4, 32) for _ in range(2))
    assert torch.equal(one.image, again.image)


def test_a_collection_is_drawn_by_its_share_not_by_its_size() -> None:
    small, large = (
        Sprites(torch.full((count, 4, 8, 8), value, dtype=torch.uint8), torch.arange(count), torch.ones(count).long())
        for count, value in ((2, 1), (50, 2))
    )
    bank = Bank.joined([(0.75, small), (0.25, large)])
    kinds = bank.kinds(Dice(0), 2000)
    assert 0.7 < (kinds < 2).float().mean() < 0.8
    assert bank.neighbour(torch.tensor([0, 1, 2, 51]), torch.tensor([-1, 1, -1, 3])).tolist() == [0, 1, 2, 51]
    assert (bank.sprites.pixels[bank.sprites.first[kinds[kinds < 2]]] == 1).all()


@pytest.mark.parametrize(
    ("drawn", "variants"),
    [
        (lambda dice: creatures(dice, 12), 6),
        (lambda dice: turned(dice, 12), 4),
        (lambda dice: shapes(dice, 12), 2),
        (letters, 6),
    ],
)
def test_drawn_things_are_cut_outs_in_kinds(drawn, variants: int) -> None:
    sprites = drawn(Dice(0))
    assert (sprites.count == variants).all()
    assert len(sprites.pixels) == len(sprites.first) * variants
    covered = (sprites.pixels[:, 3] > 127).float().mean((1, 2))
    assert covered.min() > 0.01
    assert covered.max() < 0.95
    assert (sprites.pixels[:, :3] <= sprites.pixels[:, 3:]).all()


def test_pasted_scenes_need_no_device_but_the_dices(data: Path) -> None:
    photos = load_clothing(data / "clothing", held_out=False)
    bank = Bank.joined([(1.0, cut_outs(photos))])
    halves = Pasted(bank, photos.pixels).halves(Dice(1), 8, 24)
    assert halves.labels.max() in (THING, OTHER)
    assert len(halves) == 8


def test_blurring_keeps_flat_pictures() -> None:
    picture = torch.full((1, 4, 6, 6), 9.0)
    torch.testing.assert_close(blurred(picture), picture)


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
        load_emoji([data / "emoji"], held_out=False),
        cut_outs(load_clothing(data / "clothing", held_out=False)),
    ):
        assert isinstance(sprites, Sprites)
        assert (sprites.pixels[:, :3] <= sprites.pixels[:, 3:]).all()


@pytest.mark.parametrize("source", sorted(ONLY.keys() - {"kinds"}))  # test_kinds.py has them
def test_two_examples_of_a_scene_share_their_input_and_show_their_own_pictures(data: Path, source: str) -> None:
    shares = Shares(**{**ONLY, source: 1.0}, elsewhere=0.0)
    scenes = maker(data, 0, shares, Pasting(absent=0.0, instead=0.0)).batch(8, 32, examples=2)
    assert len(scenes) == 16
    for shared in (scenes.image, scenes.labels, scenes.colours):
        assert torch.equal(shared[::2], shared[1::2])
    assert not torch.equal(scenes.image[0], scenes.image[2])
    differs = (scenes.prompt_image[::2] - scenes.prompt_image[1::2]).abs().mean((1, 2, 3)) > 1
    assert differs.all()
    assert scenes.prompt_area.flatten(1).any(1).all()


def test_all_examples_of_a_pasted_scene_show_the_thing_that_is_asked_for() -> None:
    pixels = torch.full((2, 4, 96, 96), 255, dtype=torch.uint8)
    pixels[1, :, 10:-10, 10:-10] = 0  # a frame; the other kind is a full square
    bank = Bank.joined([(1.0, Sprites(pixels, torch.arange(2), torch.ones(2, dtype=torch.int64)))])
    source = Pasted(bank, torch.zeros(1, 3, 8, 8), Pasting(busy=0.0, relative=0.0, several=0.0))
    halves = source.halves(Dice(0), 60, 48, examples=3)
    kinds = []
    for labels in torch.cat([halves.prompt_labels.view(60, 3, 48, 48), halves.labels.view(60, 3, 48, 48)], 1):
        scene = set()
        for picture in labels:
            ys, xs = torch.nonzero(picture == THING, as_tuple=True)
            inside = len(ys) and min(ys.min(), xs.min()) > 0 and max(ys.max(), xs.max()) < 47
            if inside:
                box = (ys.max() - ys.min() + 1) * (xs.max() - xs.min() + 1)
                scene.add("square" if len(ys) / box > 0.45 else "frame")  # turned, a square fills half of its box
        kinds.append(scene)
    assert all(len(scene) <= 1 for scene in kinds)
    assert set.union(*kinds) == {"square", "frame"}
