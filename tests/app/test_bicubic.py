"""Our bicubic resize beside Pillow's."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.bicubic import Box, bicubic

side = st.integers(1, 90)
share = st.floats(0, 1)


def noise(height: int, width: int, seed: int = 0, levels: tuple[int, ...] = ()) -> Image.Image:
    generator = np.random.default_rng(seed)
    pixels = generator.choice(levels, (height, width, 3)) if levels else generator.integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def expect_equal(image: Image.Image, size: tuple[int, int], box: Box | None = None) -> None:
    before = image.tobytes()
    resized = bicubic(image, size, box)
    assert (resized.dtype, resized.flags.c_contiguous) == (np.uint8, True)
    np.testing.assert_array_equal(resized, np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC, box)))
    assert image.tobytes() == before


@given(inner=st.tuples(side, side), outer=st.tuples(side, side), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_noise_of_any_size_comes_out_as_from_pillow(inner: tuple[int, int], outer: tuple[int, int], seed: int) -> None:
    expect_equal(noise(*inner, seed), outer)


@given(inner=st.tuples(side, side), outer=st.tuples(side, side), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_black_and_white_which_overshoot_come_out_as_from_pillow(
    inner: tuple[int, int], outer: tuple[int, int], seed: int
) -> None:
    expect_equal(noise(*inner, seed, levels=(0, 255)), outer)


@given(inner=st.tuples(side, side), outer=st.tuples(side, side), corners=st.tuples(share, share, share, share))
@settings(max_examples=300, deadline=None)
def test_a_box_comes_out_as_from_pillow(
    inner: tuple[int, int], outer: tuple[int, int], corners: tuple[float, float, float, float]
) -> None:
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    box = (left * inner[1], top * inner[0], right * inner[1], bottom * inner[0])
    if box[2] - box[0] > 1e-3 and box[3] - box[1] > 1e-3:
        expect_equal(noise(*inner), outer, box)


@pytest.mark.parametrize("network", [(128, 128), (448, 448), (448, 896)])
@pytest.mark.parametrize(
    "picture", [(480, 640), (640, 480), (1080, 1920), (3, 2000), (2000, 3), (448, 448), (2000, 900)]
)
def test_real_sizes_come_out_as_from_pillow(picture: tuple[int, int], network: tuple[int, int]) -> None:
    expect_equal(noise(*picture), network)


def test_a_photo_of_several_of_pillows_blocks_comes_out_as_from_pillow() -> None:
    image = noise(2400, 3200)  # 31 MB; a block has 16
    expect_equal(image, (128, 128))
    expect_equal(image, (128, 128), (100.5, 1000.25, 1100.5, 2000.75))


def test_a_picture_lives_as_long_as_it_is_read() -> None:
    for seed in range(20):
        expected = np.asarray(noise(300, 300, seed).resize((64, 64), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(bicubic(noise(300, 300, seed), (64, 64)), expected)


def test_several_threads_resize_at_once() -> None:
    images = [noise(200 + 7 * seed, 300 - 5 * seed, seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: bicubic(image, (128, 128)), images))
    for image, resized in zip(images, found, strict=True):
        np.testing.assert_array_equal(resized, np.asarray(image.resize((128, 128), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_another_mode_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode}; allowed is RGB"):
        bicubic(Image.new(mode, (8, 8)), (4, 4))


@pytest.mark.parametrize(
    "box", [(-1, 0, 4, 4), (0, 0, 9, 4), (0, 0, 4, 6.5), (2, 0, 2, 4), (0, 3, 4, 1), (0, 0, float("nan"), 4)]
)
def test_a_box_outside_of_the_picture_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match="of a picture of 8x6 pixels"):
        bicubic(noise(6, 8), (4, 4), box)
