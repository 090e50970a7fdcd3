"""`python -m training.outlines`: masks for photos that are only sorted by category.

A category's photos show their thing in the middle, and it is what they have in common. So for each category a small
classifier learns what the middle of its photos shows, and neither their borders nor photos of other things do, from the
features of the teacher's places. GrabCut follows the edges from there. Masks in which both disagree are left out;
most of the rest are good, some are rough. Sources: DINOv2 as in `training.teacher`; Rother et al., "GrabCut", SIGGRAPH
2004.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from training.arguments import existing_folder
from training.photos import read_photo
from training.teacher import SOURCE, Teacher

LONGEST_SIDE = 192  # of the pictures that are kept, in pixels
PLACES = 20  # rows and columns in which the teacher looks at a photo
MIDDLE, BORDER = 6, 1  # places from the edge: the thing is where it is at least so far, and not in the outermost ones
_MEASURED = 32  # photos of other things that tell what the teacher always sees
_OTHERS = 12  # places taken from each photo of other things
_MOST = 5000  # places of a kind that a classifier learns from
_ROUNDS = 3  # of learning, each with the places that the last one found
_WEAK = 0.02  # of scikit-learn's C: few photos, many features
_CUT_ROUNDS = 4
# Where the classifier is sure, in shares of the found area's greatest depth; around it colours decide.
_SURE_DEPTH, _DOUBTFUL_DEPTH, _DOUBTFUL_RIM = 0.75, 0.35, 0.03
_LEAST_PART, _LARGEST_HOLE = 0.1, 0.01  # of the largest part, of the picture
MIN_AREA, MAX_AREA, MIN_AGREEMENT = 0.04, 0.85, 0.35

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def places(teacher: Teacher, pictures: Sequence[Image.Image]) -> Floats:
    """What the teacher sees: (N, PLACES, PLACES, features), each of its two layers scaled to length 10."""
    seen = []
    for picture in pictures:
        layers = teacher(teacher.pixels(picture, PLACES), (PLACES, PLACES))
        both = torch.nn.functional.normalize(layers[:, 0], dim=2).movedim(0, 1).flatten(1)
        seen.append(10 * both.numpy())
    return np.stack(seen).reshape(len(seen), PLACES, PLACES, -1)


def likely(seen: Floats, others: Floats, seed: int = 0) -> Floats:
    """How likely each place shows what the photos have in common.

    Args:
        seen: from `places`, of one category's photos.
        others: of photos that show other things.
        seed: of the choice of places to learn from.

    Returns:
        (N, PLACES, PLACES) in [0, 1].
    """
    # Only training needs it.
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    dice = np.random.default_rng(seed)
    row, column = np.mgrid[:PLACES, :PLACES]
    edge = np.minimum(np.minimum(row, column), PLACES - 1 - np.maximum(row, column))
    rest = np.concatenate(
        [other.reshape(-1, other.shape[-1])[dice.choice(PLACES**2, _OTHERS, replace=False)] for other in others]
    )
    inside = np.broadcast_to(edge >= MIDDLE, seen.shape[:3])
    outside = np.broadcast_to(edge < BORDER, seen.shape[:3])
    for _ in range(_ROUNDS):
        chosen = [_some(seen[inside], dice), _some(seen[outside], dice), rest]
        wanted = np.repeat([1, 0, 0], [len(part) for part in chosen])
        classifier = LogisticRegression(C=_WEAK, max_iter=200, class_weight="balanced")
        classifier.fit(np.concatenate(chosen), wanted)
        two: Floats = classifier.predict_proba(seen.reshape(-1, seen.shape[-1])).astype(np.float32)
        chances = two[:, 1].reshape(seen.shape[:3])
        inside = ((chances > 0.6) & (edge >= 2)) | ((chances > 0.4) & (edge >= MIDDLE))
        outside = ((chances < 0.5) & (edge < BORDER)) | (chances < 0.15)
    return chances


def _some(rows: Floats, dice: np.random.Generator) -> Floats:
    return rows if len(rows) <= _MOST else rows[dice.choice(len(rows), _MOST, replace=False)]


def cut(picture: Image.Image, chances: Floats) -> Mask | None:
    """The outline of what the places show.

    Args:
        picture: RGB.
        chances: (PLACES, PLACES) from `likely`.

    Returns:
        (H, W); None where colours and places disagree, or hardly anything or nearly all would be marked.
    """
    found = cv2.resize(chances, picture.size, interpolation=cv2.INTER_CUBIC) > 0.5
    if not MIN_AREA < found.mean() < MAX_AREA:
        return None
    depth = cv2.distanceTransform(np.pad(found, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    away = cv2.distanceTransform((~found).astype(np.uint8), cv2.DIST_L2, 5)
    labels = np.full(found.shape, cv2.GC_BGD, np.uint8)
    labels[away < _DOUBTFUL_RIM * max(picture.size)] = cv2.GC_PR_BGD
    labels[found] = cv2.GC_PR_FGD
    labels[found & (depth < _DOUBTFUL_DEPTH * depth.max())] = cv2.GC_PR_BGD
    labels[depth > _SURE_DEPTH * depth.max()] = cv2.GC_FGD
    if not (labels == cv2.GC_BGD).any():
        return None
    colours = np.ascontiguousarray(np.array(picture)[..., ::-1])
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(colours, labels, (0, 0, 1, 1), *models, _CUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    area = _tidied(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)))
    agreement = (area & found).sum() / max(1, (area | found).sum())
    return area if MIN_AREA < area.mean() < MAX_AREA and agreement >= MIN_AGREEMENT else None


def _tidied(area: Mask) -> Mask:
    """Without specks and small holes."""
    smooth = cv2.medianBlur(area.astype(np.uint8), 5)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(smooth)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    if not len(sizes):
        return np.zeros_like(area)
    kept = np.isin(parts, 1 + np.nonzero(sizes >= _LEAST_PART * sizes.max())[0])
    _, holes, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8))
    small = 1 + np.nonzero(stats[1:, cv2.CC_STAT_AREA] < _LARGEST_HOLE * area.size)[0]
    return np.asarray(kept | np.isin(holes, small))


def outlined(
    teacher: Teacher, pictures: Sequence[Image.Image], others: Floats, seed: int = 0
) -> Iterator[tuple[Image.Image, Mask | None]]:
    """One category's pictures, reduced to LONGEST_SIDE, with their masks; arguments as `likely`'s."""
    chances = likely(places(teacher, pictures), others, seed)
    for picture, own in zip(pictures, chances, strict=True):
        small = picture.convert("RGB")
        small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BICUBIC)
        yield small, cut(small, own)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and outline."""
    parser = argparse.ArgumentParser(prog="python -m training.outlines", description=__doc__)
    parser.add_argument(
        "--photos", type=existing_folder, required=True, help="<category>/*.jpg, their things in the middle"
    )
    parser.add_argument(
        "--others", type=existing_folder, required=True, help="*.jpg that show all sorts of other things"
    )
    parser.add_argument("--out", type=Path, required=True, help="gets <category>/images/*.jpg and masks/*.png")
    parser.add_argument("--teacher", default=SOURCE, help="hub id or folder of a DINOv2 (default %(default)s)")
    parser.add_argument("--most", type=int, default=70, help="photos of each category (default %(default)s)")
    given = parser.parse_args(arguments)
    elsewhere = [read_photo(path) for path in _chosen(given.others, 360)]
    if not elsewhere:
        parser.error(f"argument --others: no *.jpg in {given.others}")
    teacher = Teacher(given.teacher)
    teacher.measure(torch.cat([teacher.pixels(photo, PLACES) for photo in elsewhere[:_MEASURED]]), (PLACES, PLACES))
    others = places(teacher, elsewhere)
    for folder in tqdm(sorted(path for path in given.photos.iterdir() if path.is_dir()), disable=None):
        paths = _chosen(folder, given.most)
        if not paths:
            continue
        images, masks = given.out / folder.name / "images", given.out / folder.name / "masks"
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(exist_ok=True)
        pairs = outlined(teacher, [read_photo(path) for path in paths], others)
        for path, (picture, area) in zip(paths, pairs, strict=True):
            if area is not None:
                picture.save(images / f"{path.stem}.jpg", quality=92)
                Image.fromarray(area).save(masks / f"{path.stem}.png")


def _chosen(folder: Path, most: int) -> list[Path]:
    """So many of a folder's photos, the same at every call."""
    paths = sorted(folder.glob("*.jpg"))
    return sorted(paths[place] for place in np.random.default_rng(0).permutation(len(paths))[:most])


if __name__ == "__main__":
    main()
