"""Class maps -> areas, boxes, scores, run lengths and polygons; pycocotools is the oracle."""

from __future__ import annotations

import io
import time
import tracemalloc
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from app.classes import ClassMap
from app.labels import BINARY, Label, Labels
from app.masks import encode_index, upsample_nearest
from app.schemas import Segment, SegmentationBody
from app.segments import MOST_INSTANCES, body, find_segments, instance_map

Grey = np.ndarray[Any, np.dtype[np.uint8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
THREE: Labels = (Label(1, "cat", (255, 0, 0)), Label(7, "dog", (0, 255, 0)), Label(255, "sky", (0, 0, 255)))
CROSS = np.array([[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]])


def class_map(index: Any, labels: Labels = BINARY, seed: int = 0) -> ClassMap:
    index = np.asarray(index, np.uint8)
    score = np.random.default_rng(seed).integers(1, 256, index.shape, dtype=np.uint8)
    return ClassMap(index, np.where(index > 0, score, 0).astype(np.uint8), labels, {})


def disc(side: int = 448) -> Grey:
    """A disc with a round hole."""
    y, x = np.mgrid[0:side, 0:side]
    distance = np.hypot(y - 0.45 * side, x - 0.5 * side) / side
    return ((distance < 0.3) & (distance > 0.1)).astype(np.uint8)


def decoded(segment: Segment) -> Mask:
    return coco.decode(segment.rle.model_dump()).astype(bool)


def drawn(segment: Segment) -> Mask:
    """The polygons, filled by the even-odd rule at pixel centres: edges lie between pixels, so none is in doubt."""
    height, width = segment.rle.size
    filled = np.zeros((height, width), bool)
    for polygon in segment.polygons:
        for ring in polygon:
            points = np.array(ring).reshape(-1, 2)
            filled ^= ring_mask(points, height, width)
    return filled


def ring_mask(points: Any, height: int, width: int) -> Mask:
    """Pixels whose centre a horizontal ray from the left leaves inside: each vertical edge turns all to its right."""
    turned = np.zeros((height, width + 1), bool)
    for (x, y), (next_x, next_y) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y != next_y:
            assert x == next_x, "an exact outline is level or upright"
            turned[min(y, next_y) : max(y, next_y), x] ^= True
    return np.logical_xor.accumulate(turned, axis=1)[:, :width]


def signed_area(segment: Segment) -> float:
    """Outlines less holes."""
    rings = [[cv2.contourArea(np.array(ring, np.int32).reshape(-1, 2)) for ring in p] for p in segment.polygons]
    return sum(outline - sum(holes) for outline, *holes in rings)


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


@st.composite
def class_maps(draw: st.DrawFn) -> ClassMap:
    """Small maps of up to three classes: blocks, lines, specks, holes, and pixels that touch at corners."""
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = [0, *draw(st.lists(st.sampled_from([1, 7, 255]), min_size=1, max_size=3, unique=True))]
    if draw(st.booleans()):
        index = random.choice(values, (height, width))
    else:
        coarse = random.choice(values, (-(-height // 3), -(-width // 3)))
        index = np.repeat(np.repeat(coarse, 3, axis=0), 3, axis=1)[:height, :width]
    return class_map(index, THREE, seed=int(index.sum()))


SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))


def check(segment: Segment, mask: Mask, score: Grey) -> None:
    """Everything that a segment says of its mask of full size."""
    rle = segment.rle.model_dump()
    oracle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle["counts"] == oracle["counts"].decode()
    np.testing.assert_array_equal(decoded(segment), mask)
    assert segment.area == coco.area(rle) == mask.sum()
    assert list(segment.bbox) == coco.toBbox(rle).tolist()
    assert segment.score == pytest.approx(score[mask].mean() / 255)


@given(class_maps(), SIZES)
@settings(max_examples=150, deadline=None)
def test_each_class_that_is_there_is_a_segment_exact_to_the_pixel(classes: ClassMap, size: tuple[int, int]) -> None:
    index, score = upsample_nearest(classes.index, size), upsample_nearest(classes.score, size)
    segments = find_segments(classes, size, tolerance=0)
    assert [segment.index for segment in segments] == [label.index for label in THREE if (index == label.index).any()]
    for segment in segments:
        mask = index == segment.index
        check(segment, mask, score)
        assert segment.instance is None
        assert segment.label == {1: "cat", 7: "dog", 255: "sky"}[segment.index]
        np.testing.assert_array_equal(drawn(segment), mask)
        assert signed_area(segment) == segment.area


@given(class_maps(), SIZES, st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_each_connected_object_is_a_segment_unless_it_is_too_small(
    classes: ClassMap, size: tuple[int, int], min_area: int
) -> None:
    index, score = upsample_nearest(classes.index, size), upsample_nearest(classes.score, size)
    segments = find_segments(classes, size, instances=True, min_area=min_area, tolerance=0)
    expected = 0
    for label in THREE:
        count, numbers = cv2.connectedComponents((index == label.index).astype(np.uint8), connectivity=8)
        areas = np.bincount(numbers.ravel(), minlength=count)[1:]
        kept = sorted((int(area) for area in areas if area >= min_area), reverse=True)
        own = [segment for segment in segments if segment.index == label.index]
        assert [segment.area for segment in own] == kept
        expected += len(kept)
        for segment in own:
            mask = decoded(segment)
            (number,) = np.unique(numbers[mask])
            check(segment, numbers == number, score)
            assert len(segment.polygons) == 1
            np.testing.assert_array_equal(drawn(segment), mask)
    assert len(segments) == expected
    assert [segment.instance for segment in segments] == list(range(1, expected + 1))
    assert [segment.index for segment in segments] == sorted(segment.index for segment in segments)


@given(class_maps(), SIZES, st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_the_picture_of_instances_shows_the_segments_numbers(
    classes: ClassMap, size: tuple[int, int], min_area: int
) -> None:
    numbers = instance_map(classes, size, min_area)
    assert numbers.dtype == np.uint16
    assert numbers.shape == classes.index.shape
    picture = np.asarray(Image.open(io.BytesIO(encode_index(numbers, size, None))))
    segments = find_segments(classes, size, instances=True, min_area=min_area)
    assert set(np.unique(picture)) - {0} == {segment.instance for segment in segments}
    for segment in segments:
        np.testing.assert_array_equal(picture == segment.instance, decoded(segment))


@pytest.mark.parametrize("instances", [False, True])
def test_nothing_found_is_no_segments(instances: bool) -> None:
    classes = class_map(np.zeros((5, 4)), THREE)
    assert find_segments(classes, (50, 40), instances=instances) == []
    assert not instance_map(classes, (50, 40), 0).any()


def test_one_pixel_of_the_answer_is_a_rectangle() -> None:
    index = np.zeros((4, 8))
    index[1, 2] = 1
    (segment,) = find_segments(class_map(index), (40, 160))
    assert segment.area == 200
    assert segment.bbox == (40, 10, 20, 10)
    ((outline,),) = segment.polygons
    assert {tuple(point) for point in np.array(outline).reshape(-1, 2).tolist()} == {
        (40, 10), (60, 10), (60, 20), (40, 20)
    }  # fmt: skip


def test_a_mask_of_the_whole_image_and_one_of_its_first_pixel_are_coded_as_pycocotools_does() -> None:
    (whole,) = find_segments(class_map(np.ones((3, 3))), (7, 5))
    check(whole, np.ones((7, 5), bool), upsample_nearest(class_map(np.ones((3, 3))).score, (7, 5)))
    assert whole.polygons[0][0][:2] in ([0, 0], [5, 0], [5, 7], [0, 7])
    first = np.zeros((3, 3))
    first[0, 0] = 1
    (corner,) = find_segments(class_map(first), (3, 3))
    assert corner.area == 1
    assert decoded(corner)[0, 0]


def test_a_hole_stays_a_hole_and_what_lies_in_it_is_another_part() -> None:
    index = np.ones((7, 7))
    index[1:6, 1:6] = 0
    index[3, 3] = 1
    (segment,) = find_segments(class_map(index), (70, 70), tolerance=0)
    frame, speck = segment.polygons
    assert [len(ring) for ring in frame] == [8, 8]
    assert [len(ring) for ring in speck] == [8]
    assert signed_area(segment) == segment.area == 2500
    outer, inner = find_segments(class_map(index), (70, 70), instances=True)
    assert (outer.area, inner.area) == (2400, 100)


def test_pixels_that_touch_at_a_corner_are_one_object_and_one_polygon() -> None:
    (segment,) = find_segments(class_map(np.eye(3)), (30, 30), instances=True, tolerance=0)
    assert segment.area == 300
    assert len(segment.polygons) == 1
    np.testing.assert_array_equal(drawn(segment), decoded(segment))


def test_the_score_weighs_pixels_by_how_large_they_are_shown() -> None:
    index, score = np.array([[1, 1]], np.uint8), np.array([[255, 0]], np.uint8)
    (segment,) = find_segments(ClassMap(index, score, BINARY, {}), (1, 3))
    assert segment.score == pytest.approx(2 / 3)


def test_min_area_means_nothing_for_whole_classes() -> None:
    index = np.zeros((4, 4))
    index[0, 0] = 1
    assert len(find_segments(class_map(index), (4, 4), min_area=100)) == 1
    assert find_segments(class_map(index), (4, 4), min_area=2, instances=True) == []
    assert len(find_segments(class_map(index), (4, 4), min_area=1, instances=True)) == 1


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 4.0])
def test_simplified_polygons_have_fewer_points_and_stay_close(tolerance: float) -> None:
    classes, size = class_map(disc()), (1500, 2000)
    (exact,) = find_segments(classes, size, tolerance=0)
    (simple,) = find_segments(classes, size, tolerance=tolerance)
    assert simple.rle == exact.rle
    assert [len(polygon) for polygon in simple.polygons] == [len(polygon) for polygon in exact.polygons] == [2]
    points, all_points = (sum(len(ring) for ring in one.polygons[0]) for one in (simple, exact))
    assert points < all_points / 4 if tolerance == 4 else points <= all_points
    canvas = Image.new("1", size[::-1])
    outline, hole = simple.polygons[0]
    ImageDraw.Draw(canvas).polygon(outline, fill=1)
    ImageDraw.Draw(canvas).polygon(hole, fill=0)
    assert overlap(np.asarray(canvas), decoded(simple)) > 0.99


def test_no_tolerance_makes_a_thing_vanish() -> None:
    index = np.zeros((40, 40))
    index[3:8, 3:8] = CROSS
    index[5, 5] = 0
    index[30, 30] = 1
    (segment,) = find_segments(class_map(index), (40, 40), tolerance=1000)
    assert [len(polygon) for polygon in segment.polygons] == [2, 1]
    assert all(len(ring) >= 6 for polygon in segment.polygons for ring in polygon)
    assert all(cv2.contourArea(np.array(ring, np.int32).reshape(-1, 2)) > 0 for p in segment.polygons for ring in p)


def test_of_more_objects_than_anybody_reads_the_largest_are_answered() -> None:
    index = np.zeros((300, 300))
    index[::2, ::2] = 1  # 22 500 specks
    index[100:103, 100:104] = 1
    classes = class_map(index)
    segments = find_segments(classes, (300, 300), instances=True)
    assert len(segments) == MOST_INSTANCES
    assert segments[0].area > segments[1].area
    assert instance_map(classes, (300, 300), 0).max() == MOST_INSTANCES


def test_a_picture_of_more_than_255_instances_has_16_bits() -> None:
    index = np.zeros((60, 60))
    index[::3, ::3] = 1
    numbers = instance_map(class_map(index), (90, 120), 0)
    data = encode_index(numbers, (90, 120), None)
    assert data[24] == 16
    picture = Image.open(io.BytesIO(data))
    assert picture.mode.startswith("I")
    assert np.asarray(picture).max() == 400
    rows, columns = np.arange(90) * 60 // 90, np.arange(120) * 60 // 120
    np.testing.assert_array_equal(np.asarray(picture), numbers[rows][:, columns])


@pytest.mark.parametrize("instances", [False, True])
def test_the_segments_of_24_megapixels_are_quick_and_never_a_mask_of_that_size(instances: bool) -> None:
    classes, size = class_map(disc()), (4000, 6000)
    tracemalloc.start()
    try:
        start = time.perf_counter()
        (segment,) = find_segments(classes, size, instances=instances)
        elapsed_s = time.perf_counter() - start
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert elapsed_s < 1
    assert peak_bytes < 8_000_000
    large = upsample_nearest(classes.index, size)
    assert segment.area == int(large.sum())
    np.testing.assert_array_equal(decoded(segment), large)


def test_the_body_is_the_json_that_the_interface_promises() -> None:
    index = np.zeros((4, 4))
    index[1:3, 1:3] = 7
    answer = body(class_map(index, THREE), (8, 8), timings_ms={"decode": 1.5})
    text = answer.model_dump_json()
    assert SegmentationBody.model_validate_json(text) == answer
    content = answer.model_dump(mode="json")
    assert content["labels"][1] == {"index": 7, "name": "dog", "colour": "#00ff00"}
    assert (content["height"], content["width"], content["timings_ms"]) == (8, 8, {"decode": 1.5})
    (segment,) = content["segments"]
    assert segment.keys() == {"index", "label", "instance", "area", "bbox", "score", "rle", "polygons"}
    assert segment["bbox"] == [2, 2, 4, 4]
    assert coco.decode(segment["rle"]).sum() == segment["area"] == 16
