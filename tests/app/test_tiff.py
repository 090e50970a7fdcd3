"""TIFFs of kinds that Pillow reads otherwise than their tags say, or not at all."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import InvalidLabels, UndecodableImage, UnsupportedImageType
from app.images import check_header, decode_image, decode_index_mask, decode_mask
from tests.app.files import LIMITS, encode, raw_tiff

BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, FORMAT = 258, 259, 262, 277, 284, 339
DEFLATE, WEBP, WHITE_IS_ZERO, RGB, SEPARATE, SIGNED, FLOAT = 8, 50001, 0, 2, 2, 2, 3
COLOUR = {BITS: (8,) * 3, PHOTOMETRIC: RGB, SAMPLES: 3}


def row(values: list[float], dtype: str, **options: Any) -> bytes:
    """A file of one row of grey."""
    return raw_tiff(1, len(values), np.array(values, dtype).tobytes(), **options)


def grey(data: bytes) -> list[int]:
    """The red channel of the first row of what a file shows."""
    return np.asarray(decode_image(data, LIMITS))[0, :, 0].tolist()


def twelve_bits(values: list[int], *, deflated: bool) -> bytes:
    packed = int("".join(f"{value:012b}" for value in values), 2).to_bytes(len(values) * 3 // 2, "big")
    tags = {BITS: 12, COMPRESSION: DEFLATE if deflated else 1}
    return raw_tiff(1, len(values), zlib.compress(packed) if deflated else packed, tags=tags)


@pytest.mark.parametrize("deflated", [False, True])
def test_twelve_bits_are_scaled_to_the_full_brightness_and_indices_are_not(deflated: bool) -> None:
    assert grey(twelve_bits([0, 16, 2048, 4095], deflated=deflated)) == [0, 1, 128, 255]
    indices = decode_index_mask(twelve_bits([0, 3, 200, 255], deflated=deflated), LIMITS)
    assert np.asarray(indices).tolist() == [[0, 3, 200, 255]]


def test_sixteen_bits_whose_white_is_zero_are_turned_round() -> None:
    data = row([65535, 32767, 257, 0], "<u2", tags={BITS: 16, PHOTOMETRIC: WHITE_IS_ZERO})
    assert grey(data) == [0, 128, 254, 255]
    assert np.asarray(decode_mask(data, LIMITS)).tolist() == [[0, 255, 255, 255]]


def test_unsigned_integers_of_32_bits_are_read_as_far_as_pillow_can() -> None:
    tags = {BITS: 32, FORMAT: 1}
    assert grey(row([0, 2**30, 2**31 - 1], "<u4", tags=tags)) == [0, 128, 255]
    with pytest.raises(UnsupportedImageType, match=r"prompt_image: got a TIFF of unsigned 32-bit .* above 2147483647"):
        decode_image(row([5, 2**31], "<u4", tags=tags), LIMITS, "prompt_image")


def test_signed_integers_of_8_bits_are_read_unless_they_are_negative() -> None:
    tags = {BITS: 8, FORMAT: SIGNED}
    assert grey(row([0, 127], "i1", tags=tags)) == [0, 127]
    with pytest.raises(UnsupportedImageType, match="negative 8-bit"):
        decode_image(row([5, -1], "i1", tags=tags), LIMITS)


def planes(dtype: str, *, deflated: bool) -> bytes:
    """Red and then green, each channel in a plane of its own."""
    colours = np.array([[255, 0], [0, 255], [0, 0]], dtype) * np.array(257 if dtype == "<u2" else 1, dtype)
    strips = [zlib.compress(plane.tobytes()) if deflated else plane.tobytes() for plane in colours]
    tags = {BITS: (8 * colours.itemsize,) * 3, PHOTOMETRIC: RGB, SAMPLES: 3, PLANAR: SEPARATE}
    return raw_tiff(1, 2, *strips, tags=tags | {COMPRESSION: DEFLATE if deflated else 1})


def test_channels_in_planes_are_read_or_refused() -> None:
    for data in (planes("u1", deflated=False), planes("u1", deflated=True), planes("<u2", deflated=True)):
        assert np.asarray(decode_image(data, LIMITS)).tolist() == [[[255, 0, 0], [0, 255, 0]]]
    for read in (decode_image, check_header):
        with pytest.raises(UnsupportedImageType, match=r"uncompressed TIFF of 16 bits .* plane"):
            read(planes("<u2", deflated=False), LIMITS)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (row([0, 1], "<f8", tags={BITS: 64, FORMAT: FLOAT}), "a little-endian TIFF of 64-bit floats"),
        (row([0, 1], "<f2", tags={BITS: 16, FORMAT: FLOAT}), "a little-endian TIFF of 16-bit floats"),
        (row([0, 1], ">u4", tags={BITS: 32}, order=">"), "a big-endian TIFF of 32-bit unsigned integers"),
        (
            row([0, 1], "<f4", tags={BITS: 32, FORMAT: FLOAT, PHOTOMETRIC: WHITE_IS_ZERO}),
            "a TIFF of floats whose white",
        ),
        (
            raw_tiff(1, 1, bytes(12), tags={BITS: (32,) * 3, PHOTOMETRIC: RGB, SAMPLES: 3, FORMAT: (FLOAT,) * 3}),
            "a little-endian TIFF of 32-bit floats, 3 a pixel",
        ),
        (raw_tiff(1, 1, b"x", tags={COMPRESSION: 34887}), "compression 34887"),
        (
            raw_tiff(4, 4, encode(Image.new("RGB", (4, 4)), "WEBP"), tags=COLOUR | {COMPRESSION: WEBP}),
            "a TIFF compressed as WebP",
        ),
    ],
)
def test_what_pillow_cannot_read_is_unsupported_and_not_damaged(data: bytes, said: str) -> None:
    for read in (decode_image, decode_mask, check_header):
        with pytest.raises(UnsupportedImageType, match=said):
            read(data, LIMITS)


def test_words_in_the_place_of_numbers_are_damage_and_not_repeated() -> None:
    for tag in (COMPRESSION, PHOTOMETRIC, SAMPLES):
        number = raw_tiff(1, 1, b"x", tags={COMPRESSION: 34887, tag: 34887})
        word = number.replace(struct.pack("<HHII", tag, 4, 1, 34887), struct.pack("<HHI4s", tag, 2, 4, b"<b>"))
        with pytest.raises(UndecodableImage) as refused:
            decode_image(word, LIMITS)
        assert "<b>" not in refused.value.detail


@pytest.mark.parametrize(("values", "wrong"), [([0, -1, 3], -1), ([0, 256, 3], 256)])
def test_an_index_that_cannot_be_is_named(values: list[float], wrong: int) -> None:
    with pytest.raises(InvalidLabels, match=f"got the value {wrong}; indices are 0 to 255"):
        decode_index_mask(row(values, "<i2", tags={BITS: 16, FORMAT: SIGNED}), LIMITS)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize(("bits", "packed", "indices"), [(2, 0b00011011, [0, 1, 2, 3]), (4, 0x1F, [1, 15])])
def test_indices_of_few_bits_are_as_in_the_file(bits: int, packed: int, indices: list[int], deflated: bool) -> None:
    strip = zlib.compress(bytes([packed])) if deflated else bytes([packed])
    data = raw_tiff(1, len(indices), strip, tags={BITS: bits, COMPRESSION: DEFLATE if deflated else 1})
    assert np.asarray(decode_index_mask(data, LIMITS)).tolist() == [indices]
    assert grey(data) == [index * 255 // (2**bits - 1) for index in indices]
