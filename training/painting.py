"""Between scenes and networks: pixels to the network's units, questions, answers, and what was found."""

from __future__ import annotations

import torch
from torch import Tensor

from model.colours import normalise
from model.seggpt import SegGptForImageSegmentation
from training.draw import Dice
from training.loss import painting_loss
from training.scenes import THING, Scenes

HIDDEN_SHARE = 0.75  # of the patches, where random ones are hidden


def normalised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 3, H, W) in [0, 255] -> the network's units."""
    return normalise(pixels.movedim(1, -1), dtype).contiguous()


def _shown(scenes: Scenes, dtype: torch.dtype, examples: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Input images, one for so many pairs, prompt images and prompt masks, normalised."""
    pictures = scenes.image[::examples], scenes.prompt_image, scenes.prompt_mask
    one, other, mask = (normalised(pixels, dtype) for pixels in pictures)
    return one, other, mask


def encode(
    network: SegGptForImageSegmentation, scenes: Scenes, kind: str, examples: int = 1, hidden: Tensor | None = None
) -> None:
    """Only look: what `loss_of_hidden`, or without hidden patches `loss_of_answers`, encodes, with nothing painted."""
    network.model(
        *_shown(scenes, network.dtype, examples),
        bool_masked_pos=hidden,
        labels=None if hidden is None else normalised(scenes.mask, network.dtype),
        embedding_type=kind,
        group_sizes=[examples] * (len(scenes) // examples),
        answer_only=hidden is None,
    )


def answer(network: SegGptForImageSegmentation, scenes: Scenes, kind: str = "instance", examples: int = 1) -> Tensor:
    """Paint the input halves: (scenes, 3, S, S) normalised; neighbouring pairs are one scene's `examples`."""
    output = network(
        *_shown(scenes, network.dtype, examples),
        embedding_type=kind,
        group_sizes=[examples] * (len(scenes) // examples),
        answer_only=True,
    )
    painted: Tensor = output.pred_masks
    return painted


def loss_of_answers(
    network: SegGptForImageSegmentation, scenes: Scenes, kind: str, balance: float, examples: int = 1
) -> Tensor:
    """How wrong the painted input halves are."""
    painted, asked = answer(network, scenes, kind, examples), scenes[::examples]
    found = found_labels(painted, asked.colours)
    return painting_loss(painted, normalised(asked.mask, torch.float32), asked.labels, found, balance=balance)


def hidden_patches(dice: Dice, count: int, patches: int) -> Tensor:
    """Which patches to hide, for halves of patches x patches: (count, 2 * patches * patches) bool."""
    return dice.chance(HIDDEN_SHARE, count, 2 * patches * patches)


def loss_of_hidden(
    network: SegGptForImageSegmentation, scenes: Scenes, kind: str, balance: float, hidden: Tensor
) -> Tensor:
    """How wrong the painting of the `hidden_patches` is, anywhere on the canvas, seen among the others."""
    dtype, config = network.dtype, network.config
    rows, columns = config.grid
    shown, masks = _shown(scenes, dtype), normalised(scenes.mask, dtype)
    output = network(
        *shown,
        bool_masked_pos=hidden,
        labels=masks,
        embedding_type=kind,
    )
    counted = hidden.view(-1, rows, columns)
    counted = counted.repeat_interleave(config.patch_size, 1).repeat_interleave(config.patch_size, 2)
    wanted, labels = torch.cat([shown[2], masks], 2), torch.cat([scenes.prompt_labels, scenes.labels], 1)
    found = found_labels(output.pred_masks, scenes.colours)
    return painting_loss(output.pred_masks, wanted, labels, found, balance=balance, counted=counted)


def found_labels(painted: Tensor, colours: Tensor) -> Tensor:
    """The label whose colour is nearest to each pixel: (B, 3, H, W) normalised and (B, L, 3) -> (B, H, W) int64."""
    ends = normalised(colours.mT[..., None], torch.float32)[..., 0].mT  # (B, L, 3)
    distance = (painted.detach().float()[:, None] - ends[..., None, None]).square().sum(2)  # (B, L, H, W)
    return distance.argmin(1)


def found_area(painted: Tensor, colours: Tensor) -> Tensor:
    """Which pixels lie nearest to the thing's colour: see `found_labels`; (B, H, W) bool."""
    return found_labels(painted, colours) == THING
