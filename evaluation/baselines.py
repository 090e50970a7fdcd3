"""Answers that need no network; a network is worth something where it beats all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.questions import Area, Question

BINS = 16  # per channel
Answer = Callable[[Question], Area]


def copied(question: Question) -> Area:
    """The prompt mask itself, stretched to the input image; of several, what at least half of them mark."""
    width, height = question.image.size
    votes = np.zeros((height, width), dtype=np.int64)
    for example in question.examples:
        votes += np.asarray(Image.fromarray(example.area).resize((width, height), Image.Resampling.NEAREST))
    return 2 * votes >= len(question.examples)


def everything(question: Question) -> Area:
    """The whole input image."""
    return np.ones(question.image.size[::-1], dtype=np.bool_)


def like_colours(question: Question) -> Area:
    """Pixels whose colour is more frequent in the examples' marked area than outside of it.

    Frequencies are RGB histograms of 16 bins per channel, summed over the examples and smoothed over neighbouring bins;
    a pixel is marked where the likelihood ratio exceeds 1, so colours never seen are not.
    """
    marked, unmarked = (np.zeros(BINS**3) for _ in range(2))
    for example in question.examples:
        bins = _bins(example.image)
        marked += np.bincount(bins[example.area], minlength=BINS**3)
        unmarked += np.bincount(bins[~example.area], minlength=BINS**3)
    likelier = _frequencies(marked) > _frequencies(unmarked)
    return np.asarray(likelier[_bins(question.image)])


BASELINES: dict[str, Answer] = {
    "prompt mask copied": copied,
    "everything": everything,
    "like colours": like_colours,
}


def _bins(image: Image.Image) -> NDArray[np.int64]:
    """(H, W) index of each pixel's colour in [0, 4096)."""
    levels = np.asarray(image).astype(np.int64) * BINS // 256
    return np.asarray(levels @ np.array([BINS * BINS, BINS, 1]))


def _frequencies(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4096,) counts -> (4096,) shares, smoothed by (1, 2, 1) / 4 along each channel."""
    cube = histogram.reshape(BINS, BINS, BINS)
    for axis in range(3):
        padded = np.pad(cube, [(1, 1) if axis == at else (0, 0) for at in range(3)], mode="edge")
        before, here, after = (np.take(padded, range(start, start + BINS), axis=axis) for start in range(3))
        cube = (before + 2 * here + after) / 4
    return np.asarray(cube.ravel() / max(cube.sum(), 1))
