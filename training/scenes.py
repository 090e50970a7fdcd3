"""Pairs to learn from: prompt image, prompt mask, input image and its mask, composed in whole batches.

Three kinds of scene:
- cut-outs (emoji, pieces of photos, procedural shapes) pasted on photos or textures, among distractors. The input
  image shows the same cut-out, a variant of it or a relative, elsewhere and otherwise lit;
- two photos that share an annotated class;
- two windows of one photo, with any of its regions as the mask.

Where an object lies is drawn anew for each half, so copying the prompt mask never pays. Half of the masks are white on
black, as the service uses them; the others have two random colours, so black is not always a safe answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.draw import Dice, blobs, colour_change, placement, recolour, textures, view, window
from training.sources import CLASSES, PEOPLE, SPRITE_SIZE, Photos, Sprites

DISTRACTORS = 3
MIN_AREA, MAX_AREA = 0.015, 0.85
SPARE = 1.25  # compose this many times the batch, then drop scenes with too little or too much to see


@dataclass(frozen=True)
class Mixture:
    """How often each kind of scene is drawn; shares in [0, 1]."""

    pasted: float = 0.6
    same_photo: float = 0.2  # the rest of what is not pasted: two photos
    people: float = 0.2  # of two photos: whole people, not one class of clothing
    random_colours: float = 0.5
    emoji: float = 0.6  # of the pasted cut-outs
    procedural: float = 0.12
    variant: float = 0.3  # a pasted input object is another picture of the same kind
    relative: float = 0.2  # ... or of a neighbouring kind
    busy: float = 0.65  # of pasted scenes: there may be distractors


# For the last part of a run: more pieces of photos, more objects alone, more relatives, more white on black.
NATURAL = Mixture(
    pasted=0.5, same_photo=0.1, people=0.5, random_colours=0.3, emoji=0.48, procedural=0.05, relative=0.45, busy=0.45
)


@dataclass(frozen=True)
class Scenes:
    """A batch of pairs. Images (B, 3, S, S) float in [0, 255]; areas (B, S, S) bool; colours (B, 2, 3) in [0, 255].

    colours[:, 0] paints what is outside the area, colours[:, 1] what is inside.
    """

    prompt_image: Tensor
    prompt_area: Tensor
    image: Tensor
    area: Tensor
    colours: Tensor

    @property
    def prompt_mask(self) -> Tensor:
        return paint(self.prompt_area, self.colours)

    @property
    def mask(self) -> Tensor:
        return paint(self.area, self.colours)

    def __len__(self) -> int:
        return len(self.area)

    def __getitem__(self, rows: Tensor | slice) -> Scenes:
        return Scenes(**{name: tensor[rows] for name, tensor in vars(self).items()})


def paint(area: Tensor, colours: Tensor) -> Tensor:
    """(B, S, S) bool in (B, 2, 3) colours -> (B, 3, S, S) float in [0, 255]."""
    return torch.where(area[:, None], colours[:, 1, :, None, None], colours[:, 0, :, None, None])


class SceneMaker:
    """Composes batches from one set of sources; the same seed gives the same scenes."""

    def __init__(
        self, emoji: Sprites, pieces: Sprites | None, photos: Photos, dice: Dice, mixture: Mixture | None = None
    ) -> None:
        """Args: `pieces` are cut-outs of photos, None to paste emoji and procedural shapes alone."""
        self.emoji, self.pieces, self.photos, self.dice = emoji, pieces, photos, dice
        self.mixture = mixture or Mixture()

    def batch(self, count: int, size: int) -> Scenes:
        """Compose `count` scenes with halves of size x size pixels."""
        total = max(int(count * SPARE), count + 2)
        pasted = round(total * self.mixture.pasted)
        parts = [self._pasted(pasted, size)] if pasted else []
        if total > pasted:
            parts.append(self._regions(total - pasted, size))
        scenes = Scenes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})
        shares = torch.stack([scenes.prompt_area, scenes.area]).float().mean((2, 3))
        fair = ((shares > MIN_AREA) & (shares < MAX_AREA)).all(0)
        # A random order, the fair ones first.
        order = torch.argsort(self.dice.uniform(0, 1, total) - fair.float())
        return self._light(scenes[order[:count]])

    def _light(self, scenes: Scenes) -> Scenes:
        """Other light and some noise in each half."""
        halves = []
        for image in (scenes.prompt_image, scenes.image):
            lit = recolour(image, *colour_change(self.dice, len(image), 0.22))
            noise = self.dice.uniform(-8, 8, len(image), 1, 1, 1).clamp(min=0)
            halves.append((lit + noise * self.dice.normal(1.0, *image.shape)).clamp(0, 255))
        return Scenes(halves[0], scenes.prompt_area, halves[1], scenes.area, scenes.colours)

    def _colours(self, count: int) -> Tensor:
        """(count, 2, 3): black and white, or two random colours that are told apart with ease."""
        tries = self.dice.uniform(0, 255, count, 8, 2, 3)
        apart = (tries[:, :, 0] - tries[:, :, 1]).norm(dim=2)
        colours = tries[torch.arange(count, device=tries.device), (apart > 130).int().argmax(1)]
        plain = torch.tensor([[0.0] * 3, [255.0] * 3], device=tries.device)
        return torch.where(self.dice.chance(self.mixture.random_colours, count, 1, 1), colours, plain)

    # Regions of photos

    def _regions(self, count: int, size: int) -> Scenes:
        photos, dice = self.photos, self.dice
        share_same = self.mixture.same_photo / max(1 - self.mixture.pasted, 1e-6)
        same = dice.chance(share_same, count)
        person = dice.chance(self.mixture.people, count)
        rows = dice.choice(len(photos.photo), count)
        # Common classes (skin, hair) have most rows; rows are drawn evenly all the same.
        for layer, chosen in ((CLASSES, ~same & ~person), (PEOPLE, ~same & person)):
            of_layer = torch.nonzero((photos.layer == layer) & (photos.count > 1))[:, 0]
            if len(of_layer):
                rows = torch.where(chosen, of_layer[dice.choice(len(of_layer), count)], rows)
        other = photos.first[rows] + dice.below(photos.count[rows])
        others = torch.where(same, rows, other)
        first, first_area = self._window(rows, size)
        second, second_area = self._window(others, size)
        return Scenes(first, first_area, second, second_area, self._colours(count))

    def _window(self, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """A random window of a photo that shows (most of) a region: (image, area)."""
        photos, dice, count = self.photos, self.dice, len(rows)
        box = photos.box[rows]
        extent = box[:, 2:].amax(1, keepdim=True)
        zoom = torch.exp(dice.uniform(-0.2, 0.9, count, 1))
        # People fill their photos; a closer look makes them large objects.
        zoom = torch.where((photos.layer[rows] == PEOPLE)[:, None], dice.uniform(0.35, 1.3, count, 1), zoom)
        side = (extent * zoom).clamp(0.22, 1.0)
        half = side * torch.exp(dice.normal(0.15, count, 2))
        slack = (half - box[:, 2:] * 0.5).abs() + 0.12 * half
        centre = box[:, :2] * 2 - 1 + dice.uniform(-1, 1, count, 2) * slack
        theta = window(centre, half, dice.normal(0.15, count), dice.chance(0.5, count))
        index = photos.photo[rows]
        hit = (photos.labels[index, photos.layer[rows]] == photos.value[rows][:, None, None]).to(torch.uint8) * 255
        seen = view(torch.cat([photos.pixels[index], hit[:, None]], 1), theta, size, outside="reflection")
        return seen[:, :3], seen[:, 3] > 127.5

    # Cut-outs on backgrounds

    def _pasted(self, count: int, size: int) -> Scenes:
        dice, mixture = self.dice, self.mixture
        first, second = self._sprites(count)
        tint = colour_change(dice, count, 0.5)
        backgrounds = self._backgrounds(count, size)
        crowd, crowd_again = self._sprites(count * DISTRACTORS)
        crowd = crowd.unflatten(0, (count, DISTRACTORS))
        crowd_again = crowd_again.unflatten(0, (count, DISTRACTORS))
        # The same distractors in both halves, so that only the prompt mask says which object is meant.
        stay = dice.chance(0.6, count, 1, 1, 1, 1)
        crowd_again = torch.where(stay, crowd_again, crowd_again.roll(1, 0))
        busy = dice.chance(mixture.busy, count, 1)
        shown = busy & dice.chance(0.6, count, DISTRACTORS)
        scale = torch.exp(dice.uniform(-1.1, 0.15, count))
        # Alone on a picture, an object is as large as photographers make it.
        scale = torch.where(busy[:, 0], scale * 0.85, scale.clamp(min=0.4))
        halves = []
        for sprites, others, background in (
            (first, crowd, backgrounds[0]),
            (second, crowd_again, backgrounds[1]),
        ):
            size_here = (scale * torch.exp(dice.normal(0.22, count))).clamp(0.22, 1.25)
            halves.append(self._paste(background, sprites, size_here, others, shown, tint, size))
        (prompt_image, prompt_area), (image, area) = halves
        return Scenes(prompt_image, prompt_area, image, area, self._colours(count))

    def _paste(
        self,
        background: Tensor,
        target: Tensor,
        scale: Tensor,
        others: Tensor,
        shown: Tensor,
        tint: tuple[Tensor, Tensor],
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """Paste the object (B, 4, 96, 96) among the shown (B, D) of `others` (B, D, 4, 96, 96): (image, area)."""
        dice, count = self.dice, len(target)
        image, area = background, torch.zeros(count, size, size, device=dice.device)
        depth = dice.choice(DISTRACTORS + 1, count)
        for layer in range(DISTRACTORS + 1):
            for is_target in (False, True):
                if is_target:
                    rows = torch.nonzero(depth == layer)[:, 0]
                    sprites, half = target[rows], scale[rows]
                elif layer < DISTRACTORS:
                    rows = torch.nonzero(shown[:, layer])[:, 0]
                    sprites, half = others[rows, layer], dice.uniform(0.2, 0.6, len(rows))
                else:
                    continue
                if len(rows) == 0:
                    continue
                seen = self._place(sprites, half, size)
                colour, alpha = seen[:, :3], seen[:, 3:] / 255
                if is_target:
                    # Colours are premultiplied, so offsets count by coverage.
                    matrix, offset = tint[0][rows], tint[1][rows]
                    flat = torch.einsum("bij,bjhw->bihw", matrix, colour) + offset[:, :, None, None] * alpha
                    colour = torch.minimum(flat.clamp(min=0), 255 * alpha)
                image = image.index_copy(0, rows, image[rows] * (1 - alpha) + colour)
                covered = area[rows] * (1 - alpha[:, 0])
                area = area.index_copy(0, rows, covered + alpha[:, 0] if is_target else covered)
        return image, area > 0.5

    def _place(self, sprites: Tensor, half: Tensor, size: int) -> Tensor:
        """Put cut-outs of half-width `half` (of the picture's 1) anywhere in sight: (B, 4, size, size)."""
        dice, count = self.dice, len(sprites)
        room = (1.05 - 0.75 * half).clamp(min=0.15)[:, None]
        position = dice.uniform(-1, 1, count, 2) * room
        sides = half[:, None] * torch.exp(dice.normal(0.12, count, 2))
        upright = dice.chance(0.6, count).float()
        angle = dice.normal(0.15, count) * upright + dice.uniform(-3.1, 3.1, count) * (1 - upright) * 0.5
        return view(sprites, placement(position, sides, angle, dice.chance(0.5, count)), size, outside="zeros")

    def _sprites(self, count: int) -> tuple[Tensor, Tensor]:
        """Two views of each of `count` objects, equal, variants or relatives: twice (count, 4, 96, 96)."""
        mixture, dice = self.mixture, self.dice
        draw = dice.uniform(0, 1, count)
        emoji = draw < mixture.emoji
        shapes = draw > 1 - mixture.procedural
        first = torch.empty(count, 4, SPRITE_SIZE, SPRITE_SIZE, dtype=torch.uint8, device=dice.device)
        second = torch.empty_like(first)
        for bank, chosen in ((self.emoji, emoji | (self.pieces is None)), (self.pieces, ~emoji)):
            rows = torch.nonzero(chosen & ~shapes)[:, 0]
            if bank is None or len(rows) == 0:
                continue
            kind = dice.choice(len(bank.first), len(rows))
            step = dice.choice(3, len(rows)) + 1
            neighbour = (kind + step * (1 - 2 * dice.choice(2, len(rows)))).clamp(0, len(bank.first) - 1)
            role = dice.uniform(0, 1, len(rows))
            one = bank.first[kind] + dice.below(bank.count[kind])
            variant = bank.first[kind] + dice.below(bank.count[kind])
            relative = bank.first[neighbour] + dice.below(bank.count[neighbour])
            two = torch.where(role < mixture.relative, relative, one)
            two = torch.where(role > 1 - mixture.variant, variant, two)
            first[rows], second[rows] = bank.pixels[one], bank.pixels[two]
        rows = torch.nonzero(shapes)[:, 0]
        if len(rows):
            first[rows] = second[rows] = self._shapes(len(rows))
        return first, second

    def _shapes(self, count: int) -> Tensor:
        alpha = blobs(self.dice, count, SPRITE_SIZE)
        rgb = textures(self.dice, count, SPRITE_SIZE) * alpha
        return torch.cat([rgb, alpha * 255], 1).to(torch.uint8)

    def _backgrounds(self, count: int, size: int) -> tuple[Tensor, Tensor]:
        """For each scene two backgrounds, now and then two windows of the same photo."""
        dice, photos = self.dice, self.photos
        one = dice.choice(len(photos.pixels), count)
        two = torch.where(dice.chance(0.35, count), one, dice.choice(len(photos.pixels), count))
        plain = dice.chance(0.2, count)
        halves = []
        for index in (one, two):
            half = torch.exp(dice.uniform(-1.8, 0.0, count, 1)).expand(-1, 2)
            centre = dice.uniform(-1, 1, count, 2) * (1 - half)
            theta = window(centre, half, dice.normal(0.1, count), dice.chance(0.5, count))
            halves.append(view(photos.pixels[index], theta, size, outside="reflection"))
        noise = textures(dice, count, size)
        drift = recolour(noise.roll(1, 3), *colour_change(dice, count, 0.3))
        keep = plain[:, None, None, None]
        return torch.where(keep, noise, halves[0]), torch.where(keep, drift, halves[1])
