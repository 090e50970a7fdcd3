"""Score a checkpoint on held-out pairs, beside two answers that need no network.

The network sees pictures as the service would send them: resized by the processor, masks white on black, the answer
enlarged to the input image's size and cut at the middle grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from evaluation.metrics import ClassMean, class_mean, intersection_over_union
from evaluation.pairs import Pair, made_pairs, real_pairs
from model.processing import SegGptImageProcessor
from model.seggpt import SegGptForImageSegmentation
from training.scenes import Mixture
from training.sources import load_clothing, load_emoji

MIDDLE_GREY = 127.5


@dataclass(frozen=True)
class Row:
    """One line of the table: a set of pairs, the mean IoU of the network and of both baselines.

    gain: of the network over the copied prompt mask, pair by pair.
    """

    name: str
    categories: int
    pairs: int
    network: ClassMean
    copied: ClassMean
    everything: ClassMean
    gain: ClassMean

    def __str__(self) -> str:
        scores = (self.network, self.copied, self.everything, self.gain)
        return " | ".join((f"| {self.name}", str(self.categories), str(self.pairs), *map(str, scores))) + " |"


HEADING = (
    "| set | categories | pairs | network | prompt mask copied | everything | network over copied |\n"
    "|---|---|---|---|---|---|---|"
)


@torch.inference_mode()
def find(network: SegGptForImageSegmentation, pair: Pair, kind: str = "instance") -> NDArray[np.bool_]:
    """The network's answer to one pair: (H, W) bool of the input image's size."""
    processor = SegGptImageProcessor(network.config.half_size)
    mask = Image.fromarray(pair.prompt_area.astype(np.uint8) * 255)
    batch = processor([pair.image], [pair.prompt_image], [mask])
    output = network(**batch, embedding_type=kind, answer_only=True)
    [decoded] = processor.post_process_masks(output.pred_masks, target_sizes=[pair.image.size[::-1]])
    return decoded.segmentation.numpy() > MIDDLE_GREY


def copied(pair: Pair) -> NDArray[np.bool_]:
    """The prompt mask itself, stretched to the input image."""
    mask = Image.fromarray(pair.prompt_area.astype(np.uint8) * 255).resize(pair.image.size, Image.Resampling.NEAREST)
    return np.asarray(mask) > MIDDLE_GREY


def judge(network: SegGptForImageSegmentation, name: str, pairs: Sequence[Pair]) -> Row:
    """Score a set of pairs."""
    categories = [pair.category for pair in pairs]

    def scores(answers: list[NDArray[np.bool_]]) -> list[float]:
        return [intersection_over_union(found, pair.area) for found, pair in zip(answers, pairs, strict=True)]

    ours = scores([find(network, pair) for pair in pairs])
    copies = scores([copied(pair) for pair in pairs])
    whole = scores([np.ones_like(pair.area) for pair in pairs])
    return Row(
        name,
        len(set(categories)),
        len(pairs),
        class_mean(categories, ours),
        class_mean(categories, copies),
        class_mean(categories, whole),
        class_mean(categories, [one - other for one, other in zip(ours, copies, strict=True)]),
    )


def held_out_sets(data: Path, made: int) -> dict[str, list[Pair]]:
    """Everything that the model card reports on.

    Args:
        data: folder with emoji/, clothing/ and coco_by/.
        made: scenes per made set.
    """
    emoji, photos = load_emoji(data / "emoji", held_out=True), load_clothing(data / "clothing", held_out=True)
    pasted = {"pasted": 1.0, "same_photo": 0.0, "random_colours": 0.0, "emoji": 1.0, "procedural": 0.0, "relative": 0.0}
    photos_only = {"pasted": 0.0, "same_photo": 0.0, "random_colours": 0.0}
    mixtures = {
        "unseen emoji alone on unseen photos": Mixture(**pasted, busy=0.0),
        "unseen emoji among others on unseen photos": Mixture(**pasted, busy=1.0),
        "clothes, hair, skin in unseen photos": Mixture(**photos_only, people=0.0),
        "people in unseen photos": Mixture(**photos_only, people=1.0),
    }
    sets = {
        name: made_pairs(emoji, photos, made, mixture, seed) for seed, (name, mixture) in enumerate(mixtures.items())
    }
    return {**sets, "real photos of single objects": real_pairs(data / "coco_by")}
