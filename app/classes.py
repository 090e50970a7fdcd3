"""What the network painted -> which class is where, and how surely. Sizes are (height, width).

At the network's size, or for smooth edges at the input image's. The network shows classes by colours. One class is
white on black, and its grey value says how surely a pixel belongs to it; several are colours far apart, and a pixel
belongs to the nearest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.labels import Label, Labels, palette
from app.levels import above, kept
from app.upsampling import upsample_bilinear

Pixels = NDArray[np.uint8]

DEFAULT_THRESHOLD: Final = 0.5
_GREY: Final = 3


@dataclass(frozen=True)
class ClassMap:
    """Classes of one answer.

    Args:
        index: (h, w) uint8, 0 for the background, else a label's index.
        score: (h, w) uint8 in [0, 255], how surely the pixel belongs to the class shown there; 0 for the background.
        labels: the classes that there may be.
        soft: by a label's index, (h, w) uint8 in [0, 255]: how surely each pixel belongs to that class.
    """

    index: Pixels
    score: Pixels
    labels: Labels
    soft: Mapping[int, Pixels]


def decode(
    levels: Pixels,
    labels: Labels,
    threshold: float | None,
    size: tuple[int, int] | None = None,
    shown: Collection[int] | None = None,
) -> ClassMap:
    """Read one painted answer.

    Args:
        levels: (h, w, 4) uint8, painted RGB and its mean.
        labels: the classes that were shown to the network, in `palette`'s colours by their order.
        threshold: in [0, 1]; a pixel belongs to its class when its soft value is above threshold * 255. None is 0.5,
            which with several classes keeps every pixel whose nearest colour is a class's.
        size: (H, W) of the map, to which the soft values are enlarged by bilinear before they are compared; None is
            (h, w). Enlarged colours would not do: half way between two classes' lies the colour of a third.
        shown: indices of the labels that examples showed; the others of several are nowhere. None is all.
    """
    if len(labels) == 1:
        grey = np.ascontiguousarray(levels[..., _GREY])
        if size is not None:
            grey = upsample_bilinear(grey, size)
        is_class = above(grey, DEFAULT_THRESHOLD if threshold is None else threshold)
        index = kept(is_class, np.uint8(labels[0].index))
        return ClassMap(index, kept(is_class, grey), labels, {labels[0].index: grey})
    maps = SoftMaps(levels, labels, [label.index for label in labels] if shown is None else shown)
    soft: Mapping[int, Pixels] = maps
    if size is None:
        place, value = maps.nearest()
        index = np.array([0, *(label.index for label in labels)], np.uint8)[place]
    else:
        soft = _Enlarged(maps, size)
        index, value = _surest(upsample_bilinear(maps.background(), size), soft)
    if threshold is not None and threshold > DEFAULT_THRESHOLD:
        index = kept(above(value, threshold), index)
    return ClassMap(index, kept(index > 0, value), labels, soft)


def _surest(background: Pixels, soft: Mapping[int, Pixels]) -> tuple[Pixels, Pixels]:
    """Which class is surest at each pixel, 0 for the background, and how sure; the earlier of equal ones."""
    index, value = np.zeros_like(background), background.copy()
    for class_index, own in soft.items():
        index[own > value] = class_index
        np.maximum(value, own, out=value)
    return index, value


class SoftMaps(Mapping[int, Pixels]):
    """How surely each pixel belongs to each of several classes, computed when it is asked for.

    A pixel whose colour is `a` away from the class's and `b` away from the nearest other one (the background's is one)
    has b / (a + b): 255 at the class's own colour, 127 or 128 half way to another.

    Args:
        levels: (h, w, 4) uint8, painted RGB and its mean.
        labels: in `palette`'s order.
        shown: indices of the labels that can be there at all.
    """

    def __init__(self, levels: Pixels, labels: Labels, shown: Collection[int]) -> None:
        self._places = {label.index: place for place, label in enumerate(labels, start=1)}
        self._shown = shown
        self._painted = levels[..., :3].astype(np.float32)
        self._colours = palette(len(labels)).astype(np.float32)
        shape = levels.shape[:2]
        self._nearest = np.zeros(shape, np.uint8)
        self._first: NDArray[np.float32] = np.full(shape, np.inf, np.float32)
        self._second: NDArray[np.float32] = np.full(shape, np.inf, np.float32)
        for place in (0, *(place for index, place in self._places.items() if index in shown)):
            distance = self._distance(place)
            is_nearer = distance < self._first
            self._second = np.where(is_nearer, self._first, np.minimum(self._second, distance))
            self._first = np.where(is_nearer, distance, self._first)
            self._nearest[is_nearer] = place

    def nearest(self) -> tuple[Pixels, Pixels]:
        """(h, w) the nearest colour's place in the palette, and (h, w) its soft value in [0, 255]."""
        both: NDArray[np.float32] = self._first + self._second
        return self._nearest, _levels_of(np.divide(self._second, both, dtype=np.float32))

    def background(self) -> Pixels:
        """How surely each pixel belongs to no class: (h, w)."""
        return self._of(0)

    def __getitem__(self, index: int) -> Pixels:
        return self._of(self._places[index]) if index in self._shown else np.zeros_like(self._nearest)

    def _of(self, place: int) -> Pixels:
        own = self._distance(place)
        other = np.where(self._nearest == place, self._second, self._first)
        both: NDArray[np.float32] = np.maximum(own + other, np.float32(1e-6))
        return _levels_of(np.divide(other, both, dtype=np.float32))

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _distance(self, place: int) -> NDArray[np.float32]:
        difference = self._painted - self._colours[place]
        distance: NDArray[np.float32] = np.sqrt(np.square(difference).sum(axis=-1, dtype=np.float32))
        return distance


def renumbered(parts: Sequence[tuple[str, Labels]]) -> list[Labels]:
    """Labels of several concepts of one request, told apart.

    Where indices collide all are numbered anew in the order of the concepts; where names collide the concept's name
    stands before the label's, or in its place when the concept has one label only, and a number behind both where even
    these collide. Drawing colours are spread anew.

    Args:
        parts: each concept's name and labels.
    """
    every = [label for _, labels in parts for label in labels]
    is_unique = len({label.index for label in every}) == len(every)
    spread = palette(max(2, len(every)))[1 : len(every) + 1].tolist()
    new = iter(
        Label(label.index if is_unique else number, name, (red, green, blue))
        for number, (label, name, (red, green, blue)) in enumerate(zip(every, _distinct(parts), spread, strict=True), 1)
    )
    return [tuple(islice(new, len(labels))) for _, labels in parts]


def _distinct(parts: Sequence[tuple[str, Labels]]) -> list[str]:
    """A name for each label of `renumbered`: of those that collide all move on to their next candidate together."""
    candidates: list[list[str]] = []
    for concept, labels in parts:
        for label in labels:
            both = f"{concept}: {label.name}"
            own = [concept] if len(labels) == 1 else []
            candidates.append([label.name, *own, both, f"{both} ({len(candidates) + 1})"])
    while True:
        times = Counter(names[0] for names in candidates)
        if len(times) == len(candidates):
            return [names[0] for names in candidates]
        # The last ones differ by their numbers.
        candidates = [names[1:] if times[names[0]] > 1 and len(names) > 1 else names for names in candidates]


def merged(maps: Sequence[ClassMap], labels: Sequence[Labels]) -> ClassMap:
    """One map of several concepts on one image: where they overlap the surer one has the pixel, the earlier if equal.

    Args:
        maps: of one size.
        labels: the new labels of each, in the order of its own.
    """
    index, score = np.zeros_like(maps[0].index), np.zeros_like(maps[0].score)
    soft: dict[int, Mapping[int, Pixels]] = {}
    origin: dict[int, int] = {}
    for one, new in zip(maps, labels, strict=True):
        table = np.zeros(256, np.uint8)
        for before, after in zip(one.labels, new, strict=True):
            table[before.index] = after.index
            soft[after.index], origin[after.index] = one.soft, before.index
        is_surer = (one.index > 0) & (one.score > score)
        index = np.where(is_surer, table[one.index], index)
        score = np.where(is_surer, one.score, score)
    together = tuple(sorted((label for part in labels for label in part), key=lambda label: label.index))
    return ClassMap(index, score, together, _Renamed(soft, origin))


def only(classes: ClassMap, label: Label) -> ClassMap:
    """The same with one class alone."""
    is_class = classes.index == label.index
    return replace(classes, index=kept(is_class, classes.index), score=kept(is_class, classes.score), labels=(label,))


class _Enlarged(Mapping[int, Pixels]):
    """Soft maps at another size, each made when it is asked for."""

    def __init__(self, soft: Mapping[int, Pixels], size: tuple[int, int]) -> None:
        self._soft, self._size = soft, size

    def __getitem__(self, index: int) -> Pixels:
        return upsample_bilinear(self._soft[index], self._size)

    def __iter__(self) -> Iterator[int]:
        return iter(self._soft)

    def __len__(self) -> int:
        return len(self._soft)


class _Renamed(Mapping[int, Pixels]):
    def __init__(self, soft: Mapping[int, Mapping[int, Pixels]], origin: Mapping[int, int]) -> None:
        self._soft, self._origin = soft, origin

    def __getitem__(self, index: int) -> Pixels:
        return self._soft[index][self._origin[index]]

    def __iter__(self) -> Iterator[int]:
        return iter(self._origin)

    def __len__(self) -> int:
        return len(self._origin)


def _levels_of(share: NDArray[np.float32]) -> Pixels:
    """[0, 1] -> [0, 255]; half rounds down, as the worker's levels do."""
    levels: Pixels = np.ceil(share * np.float32(255) - np.float32(0.5)).clip(0, 255).astype(np.uint8)
    return levels
