"""The sets that the model card reports on: what no training run of the bundled checkpoint has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evaluation.pairs import made_pairs, real_pairs
from evaluation.questions import Subset
from training.mixtures import JUDGED
from training.pasted import Pasted
from training.photos import CLASSES, PEOPLE, load_clothing
from training.scenes import Source
from training.sprites import Bank, load_emoji
from training.windows import TwoPhotos


def held_out_sets(data: Path, made: int) -> list[Subset]:
    """Everything that the model card reports on.

    Args:
        data: folder with emoji/, clothing/ and coco_by/.
        made: scenes per made set.
    """
    photos = load_clothing(data / "clothing", held_out=True)
    bank = Bank.joined([(1.0, load_emoji([data / "emoji"], held_out=True))])
    sources: dict[str, Source] = {
        "unseen emoji alone on unseen photos": Pasted(bank, photos.pixels, replace(JUDGED, busy=0.0)),
        "unseen emoji among others on unseen photos": Pasted(bank, photos.pixels, replace(JUDGED, busy=1.0)),
        "clothes, hair, skin in unseen photos": TwoPhotos(photos, CLASSES),
        "people in unseen photos": TwoPhotos(photos, PEOPLE),
    }
    made_sets = [Subset(name, made_pairs(source, made, seed)) for seed, (name, source) in enumerate(sources.items())]
    return [*made_sets, Subset("real photos of single objects", real_pairs(data / "coco_by"))]
