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

from app.masks import binarise, encode_mask, encode_overlay, encode_soft, upsample_nearest

Grey = np.ndarray[Any, np.dtype[np.uint8]]
SIDES = st.integers(1, 700)


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
    ):
        assert chunks(data) == [b"IHDR", b"IDAT", b"IEND"]
    assert image.info["comment"] == "secret"


def test_a_large_mask_is_a_small_file() -> None:
    y, x = np.mgrid[0:448, 0:448]
    disc = ((np.hypot(y - 200, x - 220) < 100) * 255).astype(np.uint8)
    data = encode_mask(disc, (3000, 4000), 0.5)
    assert len(data) < 25_000  # 12 million pixels
    np.testing.assert_array_equal(decode(data)[1], upsample_nearest(disc, (3000, 4000)))
