"""Which pictures are asked about, and which are their examples; the same seed always gives the same.

The examples of an episode are drawn in an order that does not depend on how many are wanted: five examples are the one
example of a run with one, and four more. None is the input image, none comes twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from evaluation.datasets.labelled import DataError, Episode, Labelled

Pictures = Mapping[str, Sequence[Labelled]]  # by category


def check_enough(pictures: Pictures, examples: int) -> None:
    """Every category must have an input image and its examples.

    Raises:
        DataError: there are no categories, or one has too few pictures.
    """
    if not pictures:
        raise DataError("there are no categories")
    for category, own in pictures.items():
        if len({one.image for one in own}) <= examples:
            raise DataError(
                f"category {category} has {len(own)} pictures; {examples} example(s) and an input image need "
                f"at least {examples + 1}"
            )


def _episode(category: str, asked: Labelled, pictures: Pictures, examples: int, dice: np.random.Generator) -> Episode:
    others = [one for one in pictures[category] if one.image != asked.image]
    return Episode(category, tuple(others[index] for index in dice.permutation(len(others))[:examples]), asked)


def every_input(pictures: Pictures, examples: int, count: int | None, seed: int) -> list[Episode]:
    """Each picture once as the input image, or so many of them, spread evenly over the categories.

    Raises:
        DataError: a category has too few pictures, or there are fewer than count.
    """
    check_enough(pictures, examples)
    total = sum(map(len, pictures.values()))
    if count is not None and not 1 <= count <= total:
        raise DataError(
            f"got --episodes {count}; each of the {total} pictures is asked once, so 1 to {total} are allowed"
        )
    dice = np.random.default_rng(seed)
    shuffled = {category: dice.permutation(len(own)) for category, own in pictures.items()}

    def rounds() -> Iterator[tuple[str, Labelled]]:
        """One picture of each category, then the next of each, and so on."""
        for turn in range(max(map(len, shuffled.values()))):
            for category, order in shuffled.items():
                if turn < len(order):
                    yield category, pictures[category][order[turn]]

    chosen = list(rounds())[:count]
    return [_episode(category, asked, pictures, examples, dice) for category, asked in chosen]


def listed(inputs: Sequence[tuple[str, Labelled]], examples: int, count: int, seed: int) -> list[Episode]:
    """The inputs in their order, from the start again until there are enough, as PASCAL-5i is tested.

    Args:
        inputs: (category, picture) each.

    Raises:
        DataError: a category has too few pictures.
    """
    pictures: dict[str, list[Labelled]] = {}
    for category, one in inputs:
        pictures.setdefault(category, []).append(one)
    check_enough(pictures, examples)
    dice = np.random.default_rng(seed)
    chosen = (inputs[index % len(inputs)] for index in range(count))
    return [_episode(category, asked, pictures, examples, dice) for category, asked in chosen]


def drawn(pictures: Pictures, examples: int, count: int, seed: int) -> list[Episode]:
    """A category, then an input image of it, both uniformly, as COCO-20i is tested.

    Raises:
        DataError: a category has too few pictures.
    """
    check_enough(pictures, examples)
    dice, categories = np.random.default_rng(seed), list(pictures)
    episodes = []
    for _ in range(count):
        category = categories[int(dice.integers(len(categories)))]
        asked = pictures[category][int(dice.integers(len(pictures[category])))]
        episodes.append(_episode(category, asked, pictures, examples, dice))
    return episodes
