"""Which pictures a run learns from: the data folder -> makers of scenes.

One line per source; each is optional but the emoji and the photos of clothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from training.draw import Dice
from training.folder import load_folder
from training.pasted import Pasted, Pasting
from training.photos import CLASSES, KINDS, PEOPLE, PHOTO_SIZE, Photos, cut_outs, load_clothing, load_photos
from training.scenes import SceneMaker, Source
from training.sprites import Bank, Sprites, load_cut_outs, load_emoji
from training.textures import landscapes
from training.things import creatures, letters, shapes, turned
from training.windows import HeldOutInput, SamePhoto, TwoPhotos

DRAWN_SEED = 4  # of creatures and the like: the same in every process and in every resumption
HELD_OUT_SEED = 5  # of drawn things that no run learns from
JUDGED = Pasting(
    busy=0.65, several=0.0, absent=0.0, instead=0.0, second=0.0, relative=0.0, own_light=0.0, landscape=0.0
)


@dataclass(frozen=True)
class Shares:
    """How often each kind of scene and each collection of cut-outs is drawn; of any sum."""

    pasted: float = 0.5
    same_photo: float = 0.08
    clothing: float = 0.1
    people: float = 0.1
    things: float = 0.42  # photos of <data>/things/<category>/
    photos: float = 0.15  # two windows of one of <data>/photos/
    kinds: float = 0.4  # two of all these photos with a region of the same kind
    elsewhere: float = 0.12  # of pairs of two photos: the second window is laid around anything
    emoji: float = 0.34
    cut_outs: float = 0.3
    pieces: float = 0.12
    creatures: float = 0.12
    turned: float = 0.06
    shapes: float = 0.06
    letters: float = 0.04
    random_colours: float = 0.25
    strangers: float = 0.15  # of pasted and of single things: the input image is one of photos that do not show them


def bundled_mixture(
    data: Path, dice: Dice, shares: Shares | None = None, pasting: Pasting | None = None, drawn_kinds: int = 400
) -> SceneMaker:
    """Everything that the bundled checkpoint learns from.

    Args:
        data: folder with emoji/ and clothing/; emoji_styles/<style>/, cutouts/<category>/, things/<category>/,
            photos/ and the kinds/ of the last two are used if they are there.
        dice: of the scenes; its device is where they are composed.
        shares: how often each is drawn.
        pasting: how cut-outs are pasted.
        drawn_kinds: how many kinds of creatures are drawn, and nearly as many of other things.
    """
    shares, device = shares or Shares(), dice.device
    photos = load_clothing(data / "clothing", held_out=False)
    things = load_folder(data / "things") if (data / "things").is_dir() else None
    styles = sorted((data / "emoji_styles").glob("*/"))
    collections = [
        (shares.emoji, load_emoji([data / "emoji", *styles], held_out=False)),
        (shares.pieces, cut_outs(photos)),
        *zip((shares.creatures, shares.turned, shares.shapes, shares.letters), _drawn_things(drawn_kinds), strict=True),
    ]
    if (data / "cutouts").is_dir():
        collections.append((shares.cut_outs, load_cut_outs(data / "cutouts", held_out=False)))
    if things is not None:
        collections.append((shares.things, cut_outs(things)))
        things = things.to(device)
    photos = photos.to(device)
    views = load_photos(data / "photos").to(device) if (data / "photos").is_dir() else None
    backgrounds = torch.cat([shown.pixels for shown in (photos, things, views) if shown is not None])
    pasted = Pasted(Bank.joined(collections).to(device), backgrounds, pasting)
    clothing, people = TwoPhotos(photos, CLASSES, shares.elsewhere), TwoPhotos(photos, PEOPLE)
    mixture: list[tuple[float, Source]] = [
        (shares.pasted, pasted),
        (shares.same_photo, SamePhoto(photos)),
        (shares.clothing, clothing),
        (shares.people, people),
    ]
    # Not the other way round: pasted scenes have these photos for backgrounds.
    strange: list[tuple[Source, Source]] = [(pasted, clothing), (pasted, people)]
    if things is not None:
        named = TwoPhotos(things, CLASSES, shares.elsewhere)
        mixture.append((shares.things, named))
        strange += [(pasted, named), (named, clothing), (named, people)]
    if views is not None:
        mixture.append((shares.photos, SamePhoto(views)))
    kinds = [TwoPhotos(shown, KINDS) for shown in (things, views) if shown is not None]
    kinds = [pairs for pairs in kinds if len(pairs.rows)]
    mixture += [(shares.kinds / len(kinds), pairs) for pairs in kinds]
    return SceneMaker(mixture, dice, shares.random_colours, shares.strangers, strange)


@cache
def _drawn_things(kinds: int) -> tuple[Sprites, ...]:
    """Creatures, turned things, shapes and letters: the same in every run, and drawn once in a process."""
    drawn = Dice(DRAWN_SEED)
    return creatures(drawn, kinds), turned(drawn, kinds * 3 // 4), shapes(drawn, kinds * 3 // 2), letters(drawn)


def drawn_mixture(dice: Dice, drawn_seed: int = DRAWN_SEED) -> SceneMaker:
    """Drawn things alone on drawn backgrounds, each half in a light of its own: needs no picture on disk.

    Args:
        dice: of the scenes.
        drawn_seed: of the things and backgrounds; another one draws others.
    """
    drawn = Dice(drawn_seed)
    collections = [(0.4, creatures(drawn, 60)), (0.3, turned(drawn, 60)), (0.3, shapes(drawn, 120))]
    backgrounds = landscapes(drawn, 60, PHOTO_SIZE).to(torch.uint8).to(dice.device)
    pasting = Pasting(busy=0.0, several=0.1, instead=0.0, own_light=1.0)
    pasted = Pasted(Bank.joined(collections).to(dice.device), backgrounds, pasting)
    return SceneMaker([(1.0, pasted)], dice, random_colours=0.1)


def folder_mixture(photos: Photos, dice: Dice) -> SceneMaker:
    """Pairs of one's own pictures, and of two windows of one; of these alone where no two show the same class."""
    photos = photos.to(dice.device)
    two = TwoPhotos(photos, CLASSES)
    mixture: list[tuple[float, Source]] = [(0.2, SamePhoto(photos)), *([(0.8, two)] if len(two.rows) else [])]
    return SceneMaker(mixture, dice, random_colours=0.5)


def folder_judge(learnt: Photos, held_out: Photos, device: torch.device) -> SceneMaker:
    """Held-out pictures, each asked for by one that is learnt from, white on black."""
    asked = HeldOutInput(learnt.to(device), held_out.to(device))
    return SceneMaker([(1.0, asked)], Dice(0, device), random_colours=0.0)


def held_out_maker(data: Path, device: torch.device, seed: int = 20, pasting: Pasting = JUDGED) -> SceneMaker:
    """Unseen emoji on unseen photos, white on black, the same thing or a variant of it in both halves."""
    emoji = load_emoji([data / "emoji"], held_out=True)
    photos = load_clothing(data / "clothing", held_out=True)
    pasted = Pasted(Bank.joined([(1.0, emoji)]).to(device), photos.pixels.to(device), pasting)
    return SceneMaker([(1.0, pasted)], Dice(seed, device), random_colours=0.0)
