"""Things drawn from random numbers: four-legged creatures, turned things such as bottles and lamps, letters, shapes.

Each kind has its own proportions and comes in several variants, which differ in pose, size and often in colour: what
one name covers. Drawn once, at the start of a run.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from training.draw import Dice
from training.sprites import SPRITE_SIZE, Sprites
from training.textures import blobs, smooth_noise, textures

_CHUNK = 64  # pictures drawn at a time
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabdefghjkmnqrt23456789&@#%?"


def _grid(device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of a cut-out, both (96, 96) in [-1, 1]."""
    axis = torch.linspace(-1, 1, SPRITE_SIZE, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return y, x


def _sprites(colour: list[Tensor], alpha: list[Tensor], variants: int) -> Sprites:
    """Parts of (n, 3, 96, 96) in [0, 255] and (n, 1, 96, 96) in [0, 1], sorted by kind."""
    shape, rgb = torch.cat(alpha), torch.cat(colour)
    pixels = torch.cat([rgb.clamp(0, 255) * shape, shape * 255], 1).to(torch.uint8)
    first = torch.arange(0, len(pixels), variants)
    return Sprites(pixels, first, torch.full_like(first, variants))


def _coat(dice: Dice, kinds: Tensor, variants: int) -> Tensor:
    """Patches of two colours and fine noise, alike in a kind or in other colours: (n, 3, 96, 96)."""
    count, size = len(kinds), SPRITE_SIZE
    own = dice.uniform(20, 250, count, 2, 3)
    shared = dice.uniform(20, 250, count // variants, 2, 3).repeat_interleave(variants, 0)
    grey = own.mean(2, keepdim=True)  # fur, skin, metal: colours near grey are common
    own = torch.lerp(own, grey, dice.uniform(0, 1, count, 1, 1))
    is_free = dice.chance(0.5, count // variants, 1, 1).repeat_interleave(variants, 0)
    light, dark = torch.where(is_free, own, shared).unbind(1)
    threshold = dice.uniform(-0.4, 2.5, count // variants).repeat_interleave(variants)[:, None, None, None]
    patches = (smooth_noise(dice, count, 1, (6, 6), size) - threshold).mul(8).clamp(0, 1)
    coat = torch.lerp(light[:, :, None, None], dark[:, :, None, None], patches)
    return coat + dice.uniform(2, 14, count, 1, 1, 1) * smooth_noise(dice, count, 1, (32, 32), size)


def _limb(grid: tuple[Tensor, Tensor], start: Tensor, end: Tensor, radii: tuple[Tensor, Tensor]) -> Tensor:
    """Depth inside of a limb from start to end, both (n, 2) as x, y: (n, 96, 96), negative outside."""
    y, x = grid
    along = (end - start)[:, :, None, None]
    dx, dy = x - start[:, 0, None, None], y - start[:, 1, None, None]
    share = ((dx * along[:, 0] + dy * along[:, 1]) / along.square().sum(1).clamp(min=1e-6)).clamp(0, 1)
    distance = torch.hypot(dx - share * along[:, 0], dy - share * along[:, 1])
    one, two = (radius[:, None, None] for radius in radii)
    return one + share * (two - one) - distance


def _skeleton(dice: Dice, kinds: Tensor, variants: int) -> list[tuple[Tensor, Tensor, tuple[Tensor, Tensor], float]]:
    """Limbs as (start, end, radii, shade), far ones first: far legs, tail, near legs, body, neck, head, ear."""
    count = len(kinds)

    def per_kind(low: float, high: float) -> Tensor:
        return dice.uniform(low, high, count // variants).repeat_interleave(variants)

    def point(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x, y], 1)

    turn = dice.uniform(0.7, 1.0, count)  # seen from the side, or a little from the front
    half, thick = per_kind(0.3, 0.55) * turn, per_kind(0.13, 0.3)
    leg, width = per_kind(0.12, 0.6), per_kind(0.035, 0.09)
    back = torch.zeros(count) - 0.05 - 0.3 * (leg - 0.3) + dice.normal(0.02, count)
    hip, shoulder = point(-half, back), point(half, back + dice.normal(0.03, count))
    limbs = []
    for shade, fore in ((0.72, False), (0.72, True), (1.0, False), (1.0, True)):
        root = (shoulder if fore else hip) + point(dice.normal(0.03, count), thick * 0.4)
        swing = dice.normal(0.16, count)
        knee = root + point(swing * leg, leg * 0.55 + thick * 0.3)
        foot = knee + point((swing - dice.uniform(0, 0.35, count)) * leg * 0.5, leg * 0.6)
        limbs += [(root, knee, (width * 1.7, width), shade), (knee, foot, (width, width * 0.8), shade)]
    tail, angle = per_kind(0.05, 0.5), per_kind(-0.6, 1.5) + dice.normal(0.3, count)
    tip = hip + point(-tail * torch.cos(angle) - thick * 0.5, tail * torch.sin(angle))
    limbs.insert(4, (hip, tip, (width, per_kind(0.02, 0.06)), 0.9))
    limbs.append((hip, shoulder, (thick * per_kind(0.8, 1.1), thick), 1.0))
    reach = per_kind(0.1, 0.5)
    lift = per_kind(0.1, 1.3) - dice.chance(0.25, count).float() * dice.uniform(0.6, 1.8, count)  # some graze
    nape = shoulder + point(reach * torch.cos(lift), -reach * torch.sin(lift))
    limbs.append((shoulder, nape, (thick * 0.75, thick * per_kind(0.35, 0.6)), 1.0))
    head, nod = per_kind(0.12, 0.32), lift * 0.4 - per_kind(0.2, 1.0) + dice.normal(0.2, count)
    nose = nape + point(head * torch.cos(nod), -head * torch.sin(nod))
    skull = thick * per_kind(0.4, 0.7)
    limbs.append((nape, nose, (skull, skull * per_kind(0.4, 0.9)), 1.05))
    ear = nape + point(-0.02 - skull * 0.5, -skull - per_kind(0.02, 0.2))
    limbs.append((nape, ear, (skull * 0.5, skull * 0.2), 0.9))
    return limbs


def creatures(dice: Dice, kinds: int, variants: int = 6) -> Sprites:
    """Animals on four legs, seen from the side: kinds * variants cut-outs."""
    colours, shapes = [], []
    for start in range(0, kinds, _CHUNK // variants):
        own = torch.arange(start, min(kinds, start + _CHUNK // variants)).repeat_interleave(variants)
        coat, grid = _coat(dice, own, variants), _grid(torch.device("cpu"))
        rgb, alpha = torch.zeros_like(coat), torch.zeros(len(own), 1, SPRITE_SIZE, SPRITE_SIZE)
        for begin, end, radii, shade in _skeleton(dice, own, variants):
            depth = _limb(grid, begin * 0.9, end * 0.9, radii)[:, None]
            part = (depth * SPRITE_SIZE / 2 + 0.5).clamp(0, 1)
            lit = coat * shade * (0.75 + (depth * 2.5).clamp(0, 0.4))
            rgb, alpha = torch.lerp(rgb, lit, part), torch.maximum(alpha, part)
        colours.append(rgb)
        shapes.append(alpha)
    return _sprites(colours, shapes, variants)


def turned(dice: Dice, kinds: int, variants: int = 4) -> Sprites:
    """Things turned on a lathe, such as bottles, vases and lamps, standing upright: kinds * variants cut-outs."""
    colours, shapes = [], []
    y, x = _grid(torch.device("cpu"))
    for start in range(0, kinds, _CHUNK // variants):
        count = (min(kinds, start + _CHUNK // variants) - start) * variants
        profile = dice.uniform(0.08, 0.8, count // variants, 1, int(dice.choice(5, 1)) + 3)
        mode = "linear" if bool(dice.chance(0.6, 1)) else "nearest"  # smooth, or in steps
        radius = torch.nn.functional.interpolate(profile, SPRITE_SIZE, mode=mode)[:, 0]
        radius = radius.repeat_interleave(variants, 0) * torch.exp(dice.normal(0.12, count, 1))
        tall = dice.uniform(0.7, 0.95, count, 1, 1)
        across = x.abs() / radius.clamp(max=0.95)[:, :, None]
        inside = torch.minimum(radius[:, :, None] - x.abs(), tall - y.abs()) * SPRITE_SIZE / 2
        bands = dice.uniform(20, 255, count, 3, int(dice.choice(4, 1)) + 1)
        paint = torch.nn.functional.interpolate(bands, SPRITE_SIZE, mode="nearest")[..., None]
        shine = dice.normal(0.35, count, 1, 1)
        light = torch.cos((across - shine * x.sign()).clamp(-1, 1) * math.pi / 2.3)
        colours.append(paint * (0.35 + 0.75 * light[:, None]))
        shapes.append((inside + 0.5).clamp(0, 1)[:, None])
    return _sprites(colours, shapes, variants)


def shapes(dice: Dice, kinds: int, variants: int = 2) -> Sprites:
    """Closed shapes filled with noise; the variants of a kind have its outline or its filling."""
    outline, other = blobs(dice, kinds, SPRITE_SIZE), blobs(dice, kinds, SPRITE_SIZE)
    filling, another = textures(dice, kinds, SPRITE_SIZE), textures(dice, kinds, SPRITE_SIZE)
    keeps_outline = dice.chance(0.5, kinds, 1, 1, 1)
    alpha = torch.stack([outline, torch.where(keeps_outline, outline, other)], 1).flatten(0, 1)
    rgb = torch.stack([filling, torch.where(keeps_outline, another, filling)], 1).flatten(0, 1)
    return _sprites([rgb], [alpha], variants)


def letters(dice: Dice, variants: int = 6) -> Sprites:
    """Rendered text: a letter or a digit per kind, plain or outlined, in any colour."""
    alpha, colour = [], []
    for letter in _LETTERS:
        for _ in range(variants):
            font = ImageFont.load_default(size=int(dice.choice(30, 1)) + 60)
            picture = Image.new("L", (SPRITE_SIZE, SPRITE_SIZE))
            stroke = int(dice.choice(5, 1))
            middle = (SPRITE_SIZE / 2, SPRITE_SIZE / 2)
            ImageDraw.Draw(picture).text(middle, letter, 255, font, anchor="mm", stroke_width=stroke)
            alpha.append(torch.from_numpy(np.array(picture)).float()[None] / 255)
            colour.append(dice.uniform(0, 255, 3, 1, 1).expand(-1, SPRITE_SIZE, SPRITE_SIZE))
    return _sprites([torch.stack(colour)], [torch.stack(alpha)], variants)
