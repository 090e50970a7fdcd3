"""`python -m evaluation.following`: does the prompt say which thing is meant, and what if it is not there?

Two things stand in both pictures; each is marked in the prompt once. An answer is right that overlaps more with the
thing that was marked than with the other one; a picture is right when both answers are. Where the marked thing is
absent from the input image, next to nothing should be marked.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.baselines import Answer
from evaluation.metrics import intersection_over_union
from evaluation.network import load_network
from evaluation.pairs import MADE_SIZE, picture
from evaluation.questions import Area, Example, Question
from model.checkpoint import resolve
from training.draw import Dice
from training.mixtures import JUDGED
from training.pasted import Pasted, Pasting
from training.photos import CLASSES, Photos, load_clothing
from training.scenes import OTHER, THING, Halves, SceneMaker
from training.sprites import Bank, load_emoji

MIN_AREA = 0.02  # of the picture, of each of the two things
NEARLY_EMPTY = 0.01
_TWO = replace(JUDGED, busy=1.0, second=1.0, variant=0.0)
# What is shown where the thing of the prompt is not.
ABSENT = {
    "other things": replace(JUDGED, busy=1.0, absent=1.0),
    "one other thing, as large": replace(JUDGED, busy=0.0, instead=1.0),
}


@dataclass(frozen=True)
class TwoThings:
    """An input image with two questions, one for each of its things; each answer is wrong for the other."""

    questions: tuple[Question, Question]

    def is_right(self, answers: tuple[Area, Area]) -> tuple[bool, bool]:
        """Which answers overlap more with their own thing than with the other one."""
        first, second = (
            tuple(intersection_over_union(found, question.area) for question in self.questions) for found in answers
        )
        return first[0] > first[1], second[1] > second[0]


def _two_things(image: Tensor, labels: Tensor, prompt_image: Tensor, prompt_labels: Tensor) -> TwoThings:
    questions = [
        Question(
            f"thing {label}",
            (Example(picture(prompt_image), (prompt_labels == label).numpy()),),
            picture(image),
            (labels == label).numpy(),
        )
        for label in (THING, OTHER)
    ]
    return TwoThings((questions[0], questions[1]))


def made_two_things(bank: Bank, photos: Photos, count: int, seed: int = 0, pasting: Pasting = _TWO) -> list[TwoThings]:
    """Two cut-outs, possibly among others, on photos.

    Args:
        bank, photos: held-out ones.
        count: how many pictures.
        seed: the same seed gives the same pictures.
        pasting: must name a second thing.
    """
    dice, source, found = Dice(seed), Pasted(bank, photos.pixels, pasting), list[TwoThings]()
    while len(found) < count:
        halves: Halves = source.halves(dice, count, MADE_SIZE)
        areas = torch.stack([labels == label for labels in (halves.labels, halves.prompt_labels) for label in (1, 2)])
        fair = (areas.float().mean((2, 3)) > MIN_AREA).all(0)
        found += [
            _two_things(halves.image[i], halves.labels[i], halves.prompt_image[i], halves.prompt_labels[i])
            for i in torch.nonzero(fair)[:, 0].tolist()
        ]
    return found[:count]


def photo_two_things(photos: Photos, count: int, seed: int = 0) -> list[TwoThings]:
    """Two classes that two whole photos both show.

    Args:
        photos: held-out ones.
        count: how many pictures at most.
        seed: the same seed gives the same pictures.
    """
    classes: dict[int, set[int]] = {}
    for row in torch.nonzero(photos.layer == CLASSES)[:, 0].tolist():
        classes.setdefault(int(photos.photo[row]), set()).add(int(photos.value[row]))
    dice, found = np.random.default_rng(seed), []
    pairs = [(one, two) for one in classes for two in classes if one != two and len(classes[one] & classes[two]) > 1]
    for index in dice.permutation(len(pairs))[:count]:
        prompt, shown = pairs[index]
        values = dice.permutation(sorted(classes[prompt] & classes[shown]))[:2].tolist()
        labels = [
            sum((photos.labels[photo, CLASSES] == value) * label for value, label in zip(values, (1, 2), strict=True))
            for photo in (shown, prompt)
        ]
        found.append(_two_things(photos.pixels[shown], labels[0], photos.pixels[prompt], labels[1]))
    return found


def absent_things(bank: Bank, photos: Photos, count: int, pasting: Pasting, seed: int = 0) -> list[Question]:
    """Things marked in the prompt that the input image does not show; it shows others.

    Args:
        bank, photos: held-out ones.
        count: how many pictures.
        pasting: must leave the thing out.
        seed: the same seed gives the same pictures.
    """
    scenes = SceneMaker([(1.0, Pasted(bank, photos.pixels, pasting))], Dice(seed), 0.0).batch(count, MADE_SIZE)
    return [
        Question(
            "absent",
            (Example(picture(scenes.prompt_image[i]), scenes.prompt_area[i].numpy()),),
            picture(scenes.image[i]),
            scenes.area[i].numpy(),
        )
        for i in range(count)
    ]


def follow(network: Answer, name: str, pictures: Sequence[TwoThings]) -> str:
    """A table's row: pictures with both answers right, and single answers that are."""
    right = np.array([two.is_right((network(two.questions[0]), network(two.questions[1]))) for two in pictures])
    return f"| {name} | {len(pictures)} | {right.all(1).mean():.3f} | {right.mean():.3f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, ask, print."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.following", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with emoji/ and clothing/")
    parser.add_argument("--checkpoint", default="bundled", help="hub id, folder, file or bundled, the default")
    parser.add_argument("--pictures", type=int, default=200, help="of each set (default %(default)s)")
    given = parser.parse_args(arguments)
    try:
        network = load_network(resolve(given.checkpoint))
        photos = load_clothing(given.data / "clothing", held_out=True)
        bank = Bank.joined([(1.0, load_emoji([given.data / "emoji"], held_out=True))])
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print("| two things in both pictures | pictures | both answers right | answers right |\n|---|---|---|---|")
    print(follow(network, "unseen emoji on unseen photos", made_two_things(bank, photos, given.pictures)))
    print(follow(network, "two kinds of clothes in unseen photos", photo_two_things(photos, given.pictures)))
    print("\n| not in the picture, which shows | pictures | marked, median | nearly empty |\n|---|---|---|---|")
    for shown, pasting in ABSENT.items():
        marked = np.array(
            [network(question).mean() for question in absent_things(bank, photos, given.pictures, pasting)]
        )
        print(f"| {shown} | {len(marked)} | {np.median(marked):.2%} | {(marked < NEARLY_EMPTY).mean():.0%} |")
    print(f"\nNearly empty: less than {NEARLY_EMPTY:.0%} of the picture is marked.")


if __name__ == "__main__":
    main()
