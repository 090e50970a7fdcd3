"""Pairs of pictures on which cut-outs were pasted: emoji, pieces of photos, drawn creatures, shapes, letters.

The input image shows the same cut-out, a variant of it (the kind has several) or a relative (a neighbouring kind),
once or several times, elsewhere and otherwise lit, among distractors; or it does not show it at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.draw import Dice, blurred, colour_change, placement, recolour, view, window
from training.scenes import OTHER, THING, Halves, neighbouring, same_input
from training.sources import Bank
from training.textures import landscapes, textures

DISTRACTORS, COPIES = 3, 3
_LAYERS = DISTRACTORS + COPIES


@dataclass(frozen=True)
class Pasting:
    """How pasted scenes are drawn; shares in [0, 1]."""

    busy: float = 0.5  # there may be distractors
    variant: float = 0.45  # each copy of the thing is any picture of its kind
    relative: float = 0.15  # the input image's thing is of a neighbouring kind
    several: float = 0.25  # there may be more than one copy
    absent: float = 0.35  # of busy scenes: the input image does not show the thing
    second: float = 0.15  # of busy scenes: a distractor is a class of its own
    own_light: float = 0.35  # the things of the two halves are recoloured apart, not alike
    plain: float = 0.15  # backgrounds of noise
    landscape: float = 0.3  # drawn landscapes; photos otherwise


class Pasted:
    """Cut-outs pasted on photos, drawn landscapes or noise."""

    def __init__(self, bank: Bank, photos: Tensor, pasting: Pasting | None = None) -> None:
        """Take the cut-outs and (M, 3, H, H) uint8 photos for backgrounds."""
        self.bank, self.photos, self.pasting = bank, photos, pasting or Pasting()

    def halves(self, dice: Dice, count: int, size: int, examples: int = 1) -> Halves:
        """See `training.scenes.Source`."""
        pasting = self.pasting
        busy = dice.chance(pasting.busy, count, 1)
        crowd = busy & dice.chance(0.6, count, DISTRACTORS)
        absent = busy & dice.chance(pasting.absent, count, 1)
        copies = torch.arange(COPIES, device=dice.device) <= dice.choice(COPIES, count, 1) * dice.chance(
            pasting.several, count, 1
        )
        labels = torch.zeros(count, _LAYERS, dtype=torch.uint8, device=dice.device)
        labels[:, DISTRACTORS:] = THING
        labels[:, :1] = OTHER * (crowd[:, :1] & dice.chance(pasting.second, count, 1))
        sprites = self._sprites(dice, count, examples)
        # Alone on a picture, a thing is as large as photographers make it.
        scale = torch.exp(dice.uniform(-1.1, 0.15, count, 1))
        scale = torch.where(busy, scale * 0.85, scale.clamp(min=0.4))
        tint, other_tint = self._tints(dice, count)
        backgrounds = self._backgrounds(dice, count, size)
        backgrounds += [self._backgrounds(dice, count, size)[0] for _ in range(examples - 1)]
        composed = []
        for place, (picture, background) in enumerate(zip(sprites, backgrounds, strict=True)):
            is_input = place == 1
            own = (scale * torch.exp(dice.normal(0.22, count, COPIES))).clamp(0.2, 1.25)
            own = own / copies.sum(1, keepdim=True).sqrt()
            widths = torch.cat([dice.uniform(0.2, 0.6, count, DISTRACTORS), own], 1)
            shown = torch.cat([crowd, copies & ~absent if is_input else copies], 1)
            light = other_tint if is_input else tint
            composed.append(self._composed(dice, background, picture, widths, shown, labels, light))
        image, named = composed.pop(1)
        prompt_images, prompt_labels = zip(*composed, strict=True)
        return Halves(
            neighbouring(prompt_images),
            neighbouring(prompt_labels),
            same_input(image, examples),
            same_input(named, examples),
        )

    def _sprites(self, dice: Dice, count: int, examples: int) -> list[Tensor]:
        """Which cut-outs may be seen, distractors first: (count, 6) int64 each.

        Of the first prompt image, the input image, and the other prompt images.
        """
        bank, pasting = self.bank.sprites, self.pasting
        kind = self.bank.kinds(dice, count)
        step = (dice.choice(3, count) + 1) * (1 - 2 * dice.choice(2, count))
        role = dice.uniform(0, 1, count, 1)
        neighbour = torch.where(role[:, 0] < pasting.relative, self.bank.neighbour(kind, step), kind)
        is_variant = (role > 1 - pasting.variant).expand(-1, COPIES)
        one = (bank.first[kind] + dice.below(bank.count[kind]))[:, None].expand(-1, COPIES)
        two = torch.where((neighbour == kind)[:, None], one, bank.first[neighbour][:, None])
        things = [
            torch.where(
                is_variant, bank.first[own][:, None] + dice.below(bank.count[own][:, None].expand_as(same)), same
            )
            for own, same in ((kind, one), (neighbour, two), *[(kind, one)] * (examples - 1))
        ]
        crowd_kind = self.bank.kinds(dice, count * DISTRACTORS)
        crowd = (bank.first[crowd_kind] + dice.below(bank.count[crowd_kind])).view(count, DISTRACTORS)
        # Mostly the same distractors in both halves, so that only the prompt mask says which thing is meant.
        stay = dice.chance(0.7, count, 1)
        crowds = [
            torch.where(stay, crowd, torch.cat([crowd[:, :1], crowd[:, 1:].roll(place, 0)], 1))
            for place in range(len(things))
        ]
        return [torch.cat(parts, 1) for parts in zip(crowds, things, strict=True)]

    def _tints(self, dice: Dice, count: int) -> list[tuple[Tensor, Tensor]]:
        """Recolourings of the thing in prompt images and in the input image, alike or apart."""
        shared, other = colour_change(dice, count, 0.5), colour_change(dice, count, 0.5)
        apart = dice.chance(self.pasting.own_light, count)
        matrix = torch.where(apart[:, None, None], other[0], shared[0])
        return [shared, (matrix, torch.where(apart[:, None], other[1], shared[1]))]

    def _composed(
        self,
        dice: Dice,
        image: Tensor,
        sprites: Tensor,
        widths: Tensor,
        shown: Tensor,
        labels: Tensor,
        tint: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Paste what is shown of (B, 6) cut-outs in random depth: (image, (B, S, S) uint8 labels)."""
        count, size = len(image), image.shape[-1]
        seen_labels = torch.zeros(count, size, size, dtype=torch.uint8, device=image.device)
        depth = torch.argsort(dice.uniform(0, 1, count, _LAYERS), 1)
        haze = dice.uniform(-0.4, 0.5, count, 1, 1, 1).clamp(min=0)  # how far a cut-out takes its picture's light
        for layer in range(_LAYERS):
            slots = depth[:, layer]
            rows = torch.nonzero(shown.gather(1, slots[:, None])[:, 0])[:, 0]
            if len(rows) == 0:
                continue
            slots = slots[rows]
            seen = self._placed(dice, self.bank.sprites.pixels[sprites[rows, slots]], widths[rows, slots], size)
            colour, alpha = seen[:, :3], seen[:, 3:] / 255
            is_thing = (slots >= DISTRACTORS)[:, None, None, None]
            colour = torch.where(is_thing, _tinted(colour, alpha, tint[0][rows], tint[1][rows]), colour)
            below = image[rows]
            colour = colour + haze[rows] * (below.mean((2, 3), keepdim=True) - _mean(colour, alpha)) * alpha
            colour = torch.minimum(colour.clamp(min=0), 255 * alpha)
            image = image.index_copy(0, rows, below * (1 - alpha) + colour)
            named = torch.where(alpha[:, 0] > 0.5, labels[rows, slots][:, None, None], seen_labels[rows])
            seen_labels = seen_labels.index_copy(0, rows, named)
        return image, seen_labels

    def _placed(self, dice: Dice, sprites: Tensor, half: Tensor, size: int) -> Tensor:
        """Put cut-outs of half-width `half` (of the picture's 1) anywhere in sight: (B, 4, size, size)."""
        count = len(sprites)
        room = (1.05 - 0.75 * half).clamp(min=0.15)[:, None]
        position = dice.uniform(-1, 1, count, 2) * room
        sides = half[:, None] * torch.exp(dice.normal(0.12, count, 2))
        upright = dice.chance(0.7, count).float()
        angle = dice.normal(0.15, count) * upright + dice.uniform(-3.1, 3.1, count) * (1 - upright) * 0.5
        seen = view(sprites, placement(position, sides, angle, dice.chance(0.5, count)), size, outside="zeros")
        # A soft edge, as lenses make it: sharp ones would give every pasted thing away.
        return torch.where(dice.chance(0.4, count, 1, 1, 1), blurred(seen), seen)

    def _backgrounds(self, dice: Dice, count: int, size: int) -> list[Tensor]:
        """For each scene two backgrounds of one style, now and then two windows of the same photo."""
        pasting = self.pasting
        style = dice.uniform(0, 1, count)
        plain, drawn = style < pasting.plain, style > 1 - pasting.landscape
        halves = [torch.empty(count, 3, size, size, device=dice.device) for _ in range(2)]
        noise = textures(dice, int(plain.sum()), size)
        one = dice.choice(len(self.photos), int((~plain & ~drawn).sum()))
        two = torch.where(dice.chance(0.35, len(one)), one, dice.choice(len(self.photos), len(one)))
        for half, photos in zip(halves, (one, two), strict=True):
            half[plain] = noise
            half[drawn] = landscapes(dice, int(drawn.sum()), size)
            half[~plain & ~drawn] = self._views(dice, photos, size)
            noise = recolour(noise.roll(1, 3), *colour_change(dice, len(noise), 0.3))
        return halves

    def _views(self, dice: Dice, photos: Tensor, size: int) -> Tensor:
        """Random windows of the photos with these numbers: (B, 3, size, size)."""
        count = len(photos)
        half = torch.exp(dice.uniform(-1.8, 0.0, count, 1)).expand(-1, 2)
        centre = dice.uniform(-1, 1, count, 2) * (1 - half)
        theta = window(centre, half, dice.normal(0.1, count), dice.chance(0.5, count))
        return view(self.photos[photos], theta, size, outside="reflection")


def _tinted(colour: Tensor, alpha: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Recolour premultiplied (B, 3, S, S): offsets count by coverage."""
    return torch.einsum("bij,bjhw->bihw", matrix, colour) + offset[:, :, None, None] * alpha


def _mean(colour: Tensor, alpha: Tensor) -> Tensor:
    """(B, 3, 1, 1): the mean colour of premultiplied cut-outs."""
    return colour.sum((2, 3), keepdim=True) / alpha.sum((2, 3), keepdim=True).clamp(min=1)
