"""What is asked of a network and of the baselines: examples, an input image, and the area that is wanted.

Knows nothing of files: `evaluation.datasets` reads these from trees, `evaluation.pairs` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Area = NDArray[np.bool_]


@dataclass(frozen=True)
class Example:
    """A prompt image (RGB) and its prompt mask: (H, W) bool of the image's size."""

    image: Image.Image
    area: Area


@dataclass(frozen=True)
class Question:
    """An input image with its examples and the answer.

    Args:
        category: what is looked for.
        examples: at least one.
        image: the input image, RGB.
        area: (H, W) bool, what is wanted.
        ignored: (H, W) bool, pixels that count neither way; None where every pixel counts.
    """

    category: str
    examples: tuple[Example, ...]
    image: Image.Image
    area: Area
    ignored: Area | None = None


class Asked(Protocol):
    """Something that becomes a question when it is needed; a set of them does not lie in memory."""

    @property
    def category(self) -> str:
        """What is looked for."""

    def question(self, examples: int) -> Question:
        """Read the pictures; the first so many examples."""


@dataclass(frozen=True)
class Subset:
    """One line of a result: a fold of a benchmark, or a whole set.

    Args:
        name: for people.
        episodes: what is asked.
        fixed_categories: the categories are the benchmark's definition (a fold), not a sample of what there is in the
            world; intervals then resample episodes alone.
    """

    name: str
    episodes: Sequence[Asked]
    fixed_categories: bool = False
