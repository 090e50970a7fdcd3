"""Grey answers -> PNG bytes."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.labels import Label, Labels, palette
from app.masks import (
    binarise,
    encode_colour,
    encode_index,
    encode_mask,
    encode_overlay,
    encode_soft,
    upsample_nearest,
)
from app.overlays import LEAST_LEGEND_WIDTH, encode_classes_overlay
from app.upsampling import upsample_bilinear

Grey = np.ndarray[Any, np.dtype[np.uint8]]
SIDES = st.integers(1, 700)
THREE: Labels = (Label(1, "cat", (255, 0, 0)), Label(7, "dog", (0, 255, 0)), Label(255, "sky", (10, 20, 30)))


def noise(height: int, width: int, seed: int = 0) -> Grey:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def decode(data: bytes) -> tuple[str, Grey]:
    image = Image.open(io.BytesIO(data), formats=("PNG",))
    return image.mode, np.asarray(image)


def chunks(data: bytes) -> list[bytes]:
    """The names of a PNG's chunks."""
    position, names = 8, []
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        names.append(data[position + 4 : position + 8])
        position += 12 + length
    return names


def by_torch(grey: Grey, size: tuple[int, int]) -> Grey:
    tensor = torch.from_numpy(grey)[None, None].float()
    return torch.nn.functional.interpolate(tensor, size=size, mode="nearest")[0, 0].byte().numpy()


@given(SIDES, SIDES, SIDES, SIDES)
@settings(max_examples=100, deadline=None)
def test_upsampling_equals_torchs_nearest(inner_h: int, inner_w: int, outer_h: int, outer_w: int) -> None:
    grey = noise(inner_h, inner_w)
    np.testing.assert_array_equal(upsample_nearest(grey, (outer_h, outer_w)), by_torch(grey, (outer_h, outer_w)))


@pytest.mark.parametrize("inner", [64, 448])
def test_upsampling_equals_torchs_nearest_for_every_long_side(inner: int) -> None:
    # float64 differs from float32 at some of these sizes; the network's two sizes are checked for thousands.
    grey = noise(inner, 1)
    for outer in (*range(1, 3000, 7), 4000, 5184, 8191, 16384):
        np.testing.assert_array_equal(upsample_nearest(grey, (outer, 1)), by_torch(grey, (outer, 1)))


@given(SIDES, SIDES, SIDES, SIDES)
@settings(max_examples=100, deadline=None)
def test_smooth_upsampling_equals_torchs_bilinear(one_h: int, one_w: int, other_h: int, other_w: int) -> None:
    (inner_h, outer_h), (inner_w, outer_w) = sorted((one_h, other_h)), sorted((one_w, other_w))
    grey, size = noise(inner_h, inner_w), (outer_h, outer_w)
    tensor = torch.from_numpy(grey)[None, None].double()
    wanted = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear")[0, 0].numpy()
    ours = upsample_bilinear(grey, size)
    assert ours.dtype == np.uint8
    assert np.abs(ours - wanted).max() <= 1.5  # half a level, and in each direction half a step of the fixed point


@pytest.mark.parametrize(("height", "width"), [(1, 3), (3, 1), (2, 5)])
def test_smooth_shrinking_takes_the_mean_of_what_falls_together(height: int, width: int) -> None:
    grey = noise(30, 60)
    ours = upsample_bilinear(grey, (30 // height, 60 // width))
    mean = grey.reshape(30 // height, height, 60 // width, width).mean((1, 3))
    assert np.abs(ours - mean).max() <= 0.6


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 255))
@settings(max_examples=50, deadline=None)
def test_smooth_upsampling_has_the_size_asked_for_and_leaves_one_level_alone(
    inner_h: int, inner_w: int, outer_h: int, outer_w: int, level: int
) -> None:
    ours = upsample_bilinear(np.full((inner_h, inner_w), level, np.uint8), (outer_h, outer_w))
    assert ours.shape == (outer_h, outer_w)
    assert (ours == level).all()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 200), st.integers(1, 200), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_mask_and_a_soft_mask_decode_to_the_upsampled_answer(
    inner_h: int, inner_w: int, outer_h: int, outer_w: int, threshold: float
) -> None:
    grey, size = noise(inner_h, inner_w), (outer_h, outer_w)
    large = by_torch(grey, size)
    mode, soft = decode(encode_soft(grey, size))
    assert mode == "L"
    np.testing.assert_array_equal(soft, large)
    mode, mask = decode(encode_mask(grey, size, threshold))
    assert mode == "L"
    np.testing.assert_array_equal(mask, np.where(large > threshold * 255, 255, 0))


def test_the_threshold_is_strict_and_half_is_the_references() -> None:
    grey = np.array([[0, 1, 127, 128, 254, 255]], dtype=np.uint8)
    assert binarise(grey, 0).tolist() == [[0, 255, 255, 255, 255, 255]]
    assert binarise(grey, 0.5).tolist() == [[0, 0, 0, 255, 255, 255]]
    assert binarise(grey, 1).tolist() == [[0, 0, 0, 0, 0, 0]]
    assert binarise(grey, 127 / 255).tolist() == [[0, 0, 0, 255, 255, 255]]
    assert binarise(grey, 0.5).dtype == np.uint8


@pytest.mark.parametrize("threshold", [0.2, 0.5])
@pytest.mark.parametrize("size", [(30, 41), (7, 5)])
def test_an_overlay_is_the_originals_formula(size: tuple[int, int], threshold: float) -> None:
    grey = noise(14, 14)
    pixels = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.where(by_torch(grey, size) > threshold * 255, 255, 0)[:, :, None]
    expected = (pixels * (0.6 * mask / 255 + 0.4)).astype(np.uint8)
    mode, overlay = decode(encode_overlay(Image.fromarray(pixels), grey, threshold))
    assert mode == "RGB"
    np.testing.assert_array_equal(overlay, expected)


def test_every_brightness_is_darkened_as_the_original_does() -> None:
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    _, overlay = decode(encode_overlay(Image.fromarray(pixels), np.zeros((2, 2), np.uint8), 0.5))
    np.testing.assert_array_equal(overlay, (pixels * (0.6 * np.zeros(1) / 255 + 0.4)).astype(np.uint8))


def test_outputs_carry_no_metadata() -> None:
    grey = noise(14, 14)
    image = Image.fromarray(np.zeros((20, 20, 3), np.uint8))
    image.info = {"icc_profile": b"profile", "comment": "secret", "dpi": (72, 72), "exif": b"Exif\0\0"}
    for data in (
        encode_mask(grey, (20, 20), 0.5),
        encode_soft(grey, (20, 20)),
        encode_overlay(image, grey, 0.5),
        encode_colour(grey, (20, 20), THREE),
        encode_classes_overlay(image, grey, THREE),
    ):
        assert chunks(data) == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks(encode_index(grey, (20, 20), THREE)) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    assert image.info["comment"] == "secret"


def test_a_large_mask_is_a_small_file() -> None:
    y, x = np.mgrid[0:448, 0:448]
    disc = ((np.hypot(y - 200, x - 220) < 100) * 255).astype(np.uint8)
    data = encode_mask(disc, (3000, 4000), 0.5)
    assert len(data) < 25_000  # 12 million pixels
    np.testing.assert_array_equal(decode(data)[1], upsample_nearest(disc, (3000, 4000)))


def classes_of(height: int, width: int, *, is_coarse: bool) -> Grey:
    """Indices of `THREE` and the background: noise, or four bands with the background on the left."""
    values = np.array([0, 1, 7, 255], np.uint8)
    if is_coarse:
        return np.tile(values[np.arange(width) * 4 // width], (height, 1))
    return np.random.default_rng(height * width).choice(values, (height, width))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 300), st.integers(1, 300), st.booleans())
@settings(max_examples=80, deadline=None)
def test_index_and_colour_pictures_decode_to_the_upsampled_classes(
    inner_h: int, inner_w: int, outer_h: int, outer_w: int, is_coarse: bool
) -> None:
    index, size = classes_of(inner_h, inner_w, is_coarse=is_coarse), (outer_h, outer_w)
    large = by_torch(index, size)
    picture = Image.open(io.BytesIO(encode_index(index, size, THREE)))
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), large)
    table = np.zeros((256, 3), np.uint8)
    for label in THREE:
        table[label.index] = label.colour
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), table[large])
    mode, colours = decode(encode_colour(index, size, THREE))
    assert mode == "RGB"
    np.testing.assert_array_equal(colours, table[large])


@pytest.mark.parametrize("size", [(3, 500), (64, 64), (65, 7), (300, 200), (2000, 900)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_numbers_without_labels_have_colours_of_their_own_or_16_bits(size: tuple[int, int], dtype: Any) -> None:
    highest = np.iinfo(dtype).max
    numbers = np.random.default_rng(1).integers(0, highest, (37, 41), dtype=dtype, endpoint=True)
    numbers[0, 0] = highest
    picture = Image.open(io.BytesIO(encode_index(numbers, size, None)))
    rows, columns = (
        torch.nn.functional.interpolate(torch.arange(inner)[None, None].float(), size=outer)[0, 0].long().numpy()
        for inner, outer in zip(numbers.shape, size, strict=True)
    )
    np.testing.assert_array_equal(np.asarray(picture), numbers[rows][:, columns])
    if dtype == np.uint8:
        np.testing.assert_array_equal(np.array(picture.getpalette()).reshape(-1, 3), palette(255))


def test_few_numbers_in_16_bits_are_an_8_bit_picture() -> None:
    picture = Image.open(io.BytesIO(encode_index(np.array([[0, 1, 2]], np.uint16), (4, 9), None)))
    assert picture.mode == "P"
    assert np.asarray(picture)[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_large_picture_of_classes_is_a_small_file() -> None:
    y, x = np.mgrid[0:448, 0:448]
    index = np.array([0, 1, 7, 255], np.uint8)[(np.hypot(y - 200, x - 220) // 60).clip(0, 3).astype(int)]
    large = upsample_nearest(index, (3000, 4000))
    for encoded in (encode_index(index, (3000, 4000), THREE), encode_colour(index, (3000, 4000), THREE)):
        assert len(encoded) < 100_000  # 12 million pixels
    np.testing.assert_array_equal(decode(encode_index(index, (3000, 4000), THREE))[1], large)


@pytest.mark.parametrize("size", [(60, 80), (300, 200), (64, 49), (1, 700), (900, 1000)])
@pytest.mark.parametrize("is_coarse", [True, False])
def test_an_overlay_of_classes_darkens_the_background_and_tints_the_rest(
    size: tuple[int, int], is_coarse: bool
) -> None:
    height, width = size
    index = classes_of(20, 24, is_coarse=is_coarse)
    large = by_torch(index, size)
    pixels = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    mode, overlay = decode(encode_classes_overlay(Image.fromarray(pixels), index, THREE))
    assert mode == "RGB"
    assert overlay.shape[1] == width
    picture = overlay[:height].astype(int)
    background = large == 0
    np.testing.assert_array_equal(picture[background], (pixels[background] * 0.55).astype(int))
    line = max(1, min(size) // 350)
    around = np.pad(large, line, mode="edge")
    is_edge = np.zeros(size, bool)
    for down, right in ((-line, 0), (line, 0), (0, -line), (0, line)):
        is_edge |= around[line + down :, line + right :][:height, :width] != large
    for label in THREE:
        own = large == label.index
        inside = (pixels[own & ~is_edge].astype(int) + label.colour) / 2
        assert abs(picture[own & ~is_edge] - inside).max(initial=0) <= 1
        assert (picture[own & is_edge] == label.colour).all()


def test_the_legend_is_below_the_picture_and_shows_the_classes_that_are_there() -> None:
    index = np.array([[0, 1], [0, 255]], np.uint8)
    image = Image.fromarray(np.full((90, 400, 3), 200, np.uint8))
    _, overlay = decode(encode_classes_overlay(image, index, THREE))
    legend = overlay[90:]
    assert 12 < len(legend) < 40
    counts = {label.name: int((legend == label.colour).all(axis=2).sum()) for label in THREE}
    assert counts["cat"] > 50
    assert counts["sky"] > 50
    assert counts["dog"] == 0
    assert legend.max(axis=2)[1:, 300:].max() < 40, "two short names leave the right side empty"


def test_many_and_long_and_foreign_names_take_more_rows_and_stay_inside() -> None:
    names = [
        "x" * 100,
        "a name of some length",
        "Stra\u00dfe",
        "\u732b",
        "caf\u00e9",
        *(f"class {n}" for n in range(59)),
    ]
    labels = tuple(Label(n, name, (n, 255, 255 - n)) for n, name in enumerate(names, start=1))
    index = np.arange(65, dtype=np.uint8).reshape(5, 13)
    heights = []
    for width in (LEAST_LEGEND_WIDTH, 200, 1000):
        image = Image.fromarray(np.zeros((100, width, 3), np.uint8))
        _, overlay = decode(encode_classes_overlay(image, index, labels))
        heights.append(len(overlay) - 100)
        for label in labels:
            assert (overlay[100:] == label.colour).all(axis=2).any(), label.name
        assert (overlay[101:, -4:].max(axis=2) < 40).all(), "nothing runs over the edge"
    assert heights == sorted(heights, reverse=True)


def test_a_picture_without_classes_says_so_and_a_narrow_one_has_no_legend() -> None:
    nothing = np.zeros((4, 4), np.uint8)
    _, overlay = decode(encode_classes_overlay(Image.fromarray(np.zeros((50, 200, 3), np.uint8)), nothing, THREE))
    assert (overlay[50:].min(axis=2) > 100).any()
    narrow = Image.fromarray(np.zeros((50, LEAST_LEGEND_WIDTH - 1, 3), np.uint8))
    assert decode(encode_classes_overlay(narrow, nothing, THREE))[1].shape == (50, LEAST_LEGEND_WIDTH - 1, 3)
