"""`python -m training.kinds`: regions of photos, and which of them are alike, without anyone's masks or names.

Places of a photo that look alike to the teacher are a region of it; regions of many photos that look alike are a kind:
bodies of animals, hands, sails, floors, skies. Two photos with a region of one kind are a pair to learn from as two
photos with a class are, so everything in every photo says what the teacher knows. Sources: DINOv2 as in
`training.teacher`; He et al., "Guided image filtering", ECCV 2010, for the edges.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from tqdm import tqdm

from training.arguments import existing_folder
from training.photos import MAX_REGION, MIN_REGION, PHOTO_SIZE, kinds_path, read_photo
from training.teacher import SOURCE, Teacher

PLACES = 24  # rows and columns in which the teacher looks at a photo
MOST_KINDS = 250  # bytes name them, and 0 is none
_REGIONS_OF_A_KIND = 8  # at least, on the average
_MEASURED = 256  # photos that tell what the teacher always sees, and what it sees at each place of any photo
_UNLIKE = 0.72  # mean of 1 - cosine up to which two parts of a photo are one region
_LEAST_PLACES = 12  # of a region; what is smaller goes to the regions that it is most like
_DOUBT = 0.06  # cosine by which a place must be more like one region than another to be it
_RADIUS, _EDGE = 6, 3e-4  # of the guided filter: pixels; variance of grey from which on something is an edge
_LEAST_LIKENESS = 0.5  # cosine of a region with the middle of its kind
_AT_A_TIME = 8  # photos

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class Onlooker:
    """A teacher that tells what is special about each place of a photo."""

    def __init__(self, teacher: Teacher, some: Sequence[Path]) -> None:
        """Take the teacher, and photos that show what it sees in any."""
        self._teacher = teacher
        self._usual: Floats = np.zeros((1, 1), np.float32)
        first = [teacher.pixels(read_photo(path), PLACES) for path in some[:_AT_A_TIME]]
        teacher.measure(torch.cat(first), (PLACES, PLACES))
        self._usual = np.mean([self([read_photo(path)])[0] for path in some], 0)

    def __call__(self, pictures: Sequence[Image.Image]) -> Floats:
        """(N, PLACES * PLACES, features) of photos, without what is usual at each place."""
        pixels = torch.cat([self._teacher.pixels(picture, PLACES) for picture in pictures])
        # The later of its layers that are listened to: things of one name are most alike there.
        seen: Floats = self._teacher(pixels, (PLACES, PLACES))[-1].numpy()
        return seen - self._usual


def regions(seen: Floats) -> tuple[Floats, Floats]:
    """Tell apart what a photo shows.

    Args:
        seen: (PLACES * PLACES, features) of it.

    Returns:
        (R, features) of length 1, what each region looks like, and (PLACES, PLACES, R), how much each place is it; of
        each place the sum is 1.
    """
    # Only training needs it.
    from sklearn.cluster import AgglomerativeClustering  # noqa: PLC0415

    # Half of what is around each place: regions get fewer specks.
    each = torch.from_numpy(_unit(seen))
    around = functional.avg_pool2d(each.T.view(1, -1, PLACES, PLACES), 3, 1, 1, count_include_pad=False)
    directions = _unit((each + around.flatten(2)[0].T).numpy())
    parts = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=_UNLIKE).fit_predict(
        directions
    )
    counts = np.bincount(parts)
    large = np.nonzero(counts >= min(_LEAST_PLACES, counts.max()))[0]
    looks = _unit(np.stack([directions[parts == part].mean(0) for part in large]))
    likeness = directions @ looks.T / _DOUBT
    shares = np.exp(likeness - likeness.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return looks, shares.reshape(PLACES, PLACES, -1).astype(np.float32)


def outlined(picture: Image.Image, shares: Floats) -> Bytes:
    """(H, W) number of the region of each pixel: as the places say, with edges where the picture has some."""
    grey = np.asarray(picture.convert("L"), np.float32) / np.float32(255)
    usual = _around(grey)
    variance = _around(grey * grey) - usual * usual + _EDGE

    def guided(share: Floats) -> Floats:
        """Around each pixel linear in the grey value: it gets edges where the picture has edges."""
        value = _around(share)
        slope = (_around(grey * share) - usual * value) / variance
        return _around(slope) * grey + _around(value - slope * usual)

    enlarged = (
        cv2.resize(np.ascontiguousarray(shares[..., region]), picture.size, interpolation=cv2.INTER_CUBIC)
        for region in range(shares.shape[2])
    )
    best = np.stack([guided(np.asarray(share, np.float32)) for share in enlarged]).argmax(0)
    return np.asarray(best, np.uint8)


def _around(values: NDArray[np.floating]) -> Floats:
    """The mean of what is near each of (H, W) pixels."""
    return np.asarray(cv2.blur(values, (2 * _RADIUS + 1,) * 2), np.float32)


def kinds(looks: Floats, most: int = MOST_KINDS, seed: int = 0) -> NDArray[np.int64]:
    """Which regions are alike.

    Args:
        looks: (N, features) of length 1.
        most: kinds; of few regions there are fewer.
        seed: of the first guess.

    Returns:
        (N,) numbers from 1; 0 is a region that is like no kind.
    """
    # Only training needs it.
    from sklearn.cluster import KMeans  # noqa: PLC0415

    count = max(1, min(most, len(looks) // _REGIONS_OF_A_KIND))
    found = KMeans(count, n_init=1, random_state=seed).fit(looks)
    likeness = (looks * _unit(found.cluster_centers_)[found.labels_]).sum(1)
    return np.where(likeness < _LEAST_LIKENESS, 0, found.labels_ + 1)


def write_kinds(data: Path, teacher: Teacher) -> int:
    """Find the kinds in photos/ and things/ of a data folder and write them to its kinds/; returns how many photos.

    Raises:
        FileNotFoundError: there is no photo.
    """
    photos = sorted([*(data / "photos").glob("*.jpg"), *(data / "things").glob("*/images/*")])
    if not photos:
        raise FileNotFoundError(f"no photos/*.jpg and no things/<category>/images/* in {data}")
    dice = np.random.default_rng(0)
    onlooker = Onlooker(teacher, [photos[place] for place in dice.permutation(len(photos))[:_MEASURED]])
    found: list[tuple[Bytes, NDArray[np.intp]]] = []  # of each photo: its pixels' regions, and those of a fair size
    looks: list[Floats] = []
    for first in tqdm(range(0, len(photos), _AT_A_TIME), disable=None):
        pictures = [read_photo(path) for path in photos[first : first + _AT_A_TIME]]
        for picture, seen in zip(pictures, onlooker(pictures), strict=True):
            own, shares = regions(seen)
            pixels = outlined(picture.resize((PHOTO_SIZE,) * 2, Image.Resampling.BICUBIC), shares)
            area = np.bincount(pixels.ravel(), minlength=len(own)) / pixels.size
            fair = np.nonzero((area >= MIN_REGION) & (area <= MAX_REGION))[0]
            found.append((pixels, fair))
            looks.append(own[fair])
    numbers = iter(kinds(np.concatenate(looks)))
    for path, (pixels, fair) in zip(photos, found, strict=True):
        number = np.zeros(256, np.uint8)  # by region
        for region in fair:
            number[region] = next(numbers)
        written = kinds_path(data, path)
        written.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(number[pixels]).save(written)
    return len(photos)


def _unit(vectors: Floats) -> Floats:
    """Vectors in the last axis, of length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and look."""
    parser = argparse.ArgumentParser(prog="python -m training.kinds", description=__doc__)
    parser.add_argument(
        "--data", type=existing_folder, required=True, help="has photos/*.jpg, things/*/images/*; gets kinds/"
    )
    parser.add_argument("--teacher", default=SOURCE, help="hub id or folder of a DINOv2 (default %(default)s)")
    given = parser.parse_args(arguments)
    try:
        print(f"{write_kinds(given.data, Teacher(given.teacher))} photos")
    except OSError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
