"""Pairs of pictures on which cut-outs were pasted: emoji, pieces of photos, drawn creatures, shapes, letters.

The input image shows the same cut-out, a variant of it (the kind has several) or a relative (a neighbouring kind),
once or several times, elsewhere and otherwise lit, among distractors; or it does not show it at all, or something else
in its stead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.draw import Dice, blurred, colour_change, placement, recolour, rows_of, view, window
from training.scenes import OTHER, THING, Halves, neighbouring, same_input
from training.sprites import Bank
from training.textures import landscapes, textures

DISTRACTORS, COPIES = 3, 3
_LAYERS = DISTRACTORS + COPIES


@dataclass(frozen=True)
class Pasting:
    """How pasted scenes are drawn; shares in [0, 1]."""

    busy: float = 0.6  # there may be distractors
    variant: float = 0.45  # each copy of the thing is any picture of its kind
    relative: float = 0.15  # the input image's thing is of a neighbouring kind
    several: float = 0.25  # there may be more than one copy
    absent: float = 0.3  # of busy scenes: the input image does not show the thing
    instead: float = 0.12  # of the others: the input image shows another thing as large as that one, and not that
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
        sprites, named = self._sprites(dice, count, examples), [labels] * (1 + examples)
        if pasting.instead:  # else no number is drawn: the held-out sets of a seed stay what they were
            replaced = ~absent & dice.chance(pasting.instead, count, 1)
            sprites[1][:, DISTRACTORS:] = torch.where(
                replaced, self._any(dice, count)[:, None], sprites[1][:, DISTRACTORS:]
            )
            named[1] = torch.where(replaced & (labels == THING), 0, labels)
        # Alone on a picture, a thing is as large as photographers make it.
        scale = torch.exp(dice.uniform(-1.1, 0.15, count, 1))
        scale = torch.where(busy, scale * 0.85, scale.clamp(min=0.4))
        tint, other_tint = self._tints(dice, count)
        backgrounds = self._backgrounds(dice, count, size)
        backgrounds += [self._backgrounds(dice, count, size)[0] for _ in range(examples - 1)]
        composed = []
        for place, (picture, background, meant) in enumerate(zip(sprites, backgrounds, named, strict=True)):
            is_input = place == 1
            own = (scale * torch.exp(dice.normal(0.22, count, COPIES))).clamp(0.2, 1.25)
            own = own / copies.sum(1, keepdim=True).sqrt()
            widths = torch.cat([dice.uniform(0.2, 0.6, count, DISTRACTORS), own], 1)
            shown = torch.cat([crowd, copies & ~absent if is_input else copies], 1)
            light = other_tint if is_input else tint
            composed.append(self._composed(dice, background, picture, widths, shown, meant, light))
        image, shown_labels = composed.pop(1)
        prompt_images, prompt_labels = zip(*composed, strict=True)
        return Halves(
            neighbouring(prompt_images),
            neighbouring(prompt_labels),
            same_input(image, examples),
            same_input(shown_labels, examples),
        )

    def _any(self, dice: Dice, count: int) -> Tensor:
        """(count,) cut-outs of any kind."""
        kind = self.bank.kinds(dice, count)
        return self.bank.sprites.first[kind] + dice.below(self.bank.sprites.count[kind])

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
        crowd = self._any(dice, count * DISTRACTORS).view(count, DISTRACTORS)
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
        image, seen_labels = image.clone(), torch.zeros(count, size, size, dtype=torch.uint8, device=image.device)
        depth = torch.argsort(dice.uniform(0, 1, count, _LAYERS), 1)
        haze = dice.uniform(-0.4, 0.5, count, 1, 1, 1).clamp(min=0)  # how far a cut-out takes its picture's light
        # All cut-outs of all layers at once, the lowest first: on a GPU, layer by layer would be launches and waiting.
        shown = shown.gather(1, depth)
        layers, rows = torch.nonzero(shown.T).unbind(1)
        numbers: list[int] = shown.sum(0).tolist()
        if not any(numbers):
            return image, seen_labels
        slots = depth[rows, layers]
        seen = self._placed(dice, self.bank.sprites.pixels[sprites[rows, slots]], widths[rows, slots], size, numbers)
        colour, alpha = seen[:, :3], seen[:, 3:] / 255
        is_thing = (slots >= DISTRACTORS)[:, None, None, None]
        colour = torch.where(is_thing, _tinted(colour, alpha, tint[0][rows], tint[1][rows]), colour)
        parts = (rows, colour, alpha, _mean(colour, alpha), haze[rows], labels[rows, slots][:, None, None])
        for own, paint, cover, mean, share, label in zip(*(part.split(numbers) for part in parts), strict=True):
            if len(own) == 0:
                continue
            below = image[own]
            lit = paint + share * (below.mean((2, 3), keepdim=True) - mean) * cover
            lit = torch.minimum(lit.clamp(min=0), 255 * cover)
            image.index_copy_(0, own, below * (1 - cover) + lit)
            seen_labels.index_copy_(0, own, torch.where(cover[:, 0] > 0.5, label, seen_labels[own]))
        return image, seen_labels

    def _placed(self, dice: Dice, sprites: Tensor, half: Tensor, size: int, numbers: list[int]) -> Tensor:
        """Put cut-outs of half-width `half` (of the picture's 1) anywhere in sight: (B, 4, size, size).

        `numbers` are those of the layers, each of which draws for itself.
        """
        drawn = [
            (
                dice.uniform(-1, 1, count, 2),
                dice.normal(0.12, count, 2),
                dice.chance(0.7, count),
                dice.normal(0.15, count),
                dice.uniform(-3.1, 3.1, count),
                dice.chance(0.5, count),
                dice.chance(0.4, count, 1, 1, 1),
            )
            for count in numbers
        ]
        position, spread, is_upright, lean, turn, flip, is_soft = (torch.cat(p) for p in zip(*drawn, strict=True))
        room = (1.05 - 0.75 * half).clamp(min=0.15)[:, None]
        sides = half[:, None] * torch.exp(spread)
        upright = is_upright.float()
        angle = lean * upright + turn * (1 - upright) * 0.5
        seen = view(sprites, placement(position * room, sides, angle, flip), size, outside="zeros")
        # A soft edge, as lenses make it: sharp ones would give every pasted thing away.
        return torch.where(is_soft, blurred(seen), seen)

    def _backgrounds(self, dice: Dice, count: int, size: int) -> list[Tensor]:
        """For each scene two backgrounds of one style, now and then two windows of the same photo."""
        pasting = self.pasting
        style = dice.uniform(0, 1, count)
        styles = torch.where(style < pasting.plain, 0, torch.where(style > 1 - pasting.landscape, 1, 2))
        plain, drawn, shown = rows_of(styles, 3)
        halves = [torch.empty(count, 3, size, size, device=dice.device) for _ in range(2)]
        noise = textures(dice, len(plain), size)
        one = dice.choice(len(self.photos), len(shown))
        two = torch.where(dice.chance(0.35, len(one)), one, dice.choice(len(self.photos), len(one)))
        for half, photos in zip(halves, (one, two), strict=True):
            half[plain] = noise
            half[drawn] = landscapes(dice, len(drawn), size)
            half[shown] = self._views(dice, photos, size)
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
