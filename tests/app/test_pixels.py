"""Pixels of every mode and masks of every make, as they come out of real files."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from app.errors import EmptyMask, UndecodableImage
from app.images import decode_image, decode_mask
from tests.app.files import LIMITS, blob, encode, exif, object_of, raw_png, raw_tiff, scene


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_what_pillow_shows_of_it(mode: str) -> None:
    source = scene().convert("L").convert("I").point(lambda value: value * 257).convert("I;16")
    image = source if mode == "I;16" else scene().convert(mode)
    expected = scene().convert("L").convert("RGB") if mode == "I;16" else image.convert("RGB")
    decoded = decode_image(encode(image, "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG"), LIMITS)
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(expected))


def test_an_adobe_cmyk_jpeg_is_not_inverted() -> None:
    white = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    assert decode_image(encode(white, "JPEG"), LIMITS).getpixel((4, 4)) == (255, 255, 255)


def test_lab_becomes_rgb() -> None:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(scene(), srgb, lab, outputMode="LAB")
    assert image
    decoded = decode_image(encode(image, "TIFF"), LIMITS)
    difference = np.abs(np.asarray(decoded, dtype=int) - np.asarray(scene(), dtype=int))
    assert difference.mean() < 8


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = np.array([[0, 256, 257, 32768, 65535]], dtype=np.uint16)
    for data in (encode(Image.fromarray(deep)), encode(Image.fromarray(deep), "TIFF"), big_endian_tiff(deep)):
        pixels = np.asarray(decode_image(data, LIMITS))
        assert pixels[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def big_endian_tiff(deep: np.ndarray[Any, np.dtype[np.uint16]]) -> bytes:
    """Pillow opens it with mode "I;16B"."""
    data = raw_tiff(*deep.shape, deep.astype(">u2").tobytes(), tags={258: 16}, order=">")
    assert Image.open(io.BytesIO(data)).mode == "I;16B"
    return data


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 2000, 4000]], np.int32), [0, 128, 255]),
        (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[-40, 0, 60]], np.int32), [0, 102, 255]),
        (np.array([[-0.02, 0.6, 1.02]], np.float32), [0, 152, 255]),
        (np.array([[0, 0.6, 1.02]], np.float32), [0, 150, 255]),
        (np.array([[10, 100, 200]], np.float32), [10, 100, 200]),
        (np.array([[0, 5, 10]], np.float32), [0, 128, 255]),
        (np.array([[0, 5e5, 1e6]], np.float32), [0, 128, 255]),
        (np.array([[300, 300, 300]], np.float32), [255, 255, 255]),
        (np.array([[5, 5, 5]], np.float32), [5, 5, 5]),
        (np.array([[-3, -3, -3]], np.float32), [0, 0, 0]),
        (np.array([[70000, 70000]], np.int32), [255, 255]),
    ],
)
def test_integers_and_floats_are_levels_shares_or_scaled_by_their_range(
    values: np.ndarray[Any, Any], expected: list[int]
) -> None:
    pixels = np.asarray(decode_image(encode(Image.fromarray(values), "TIFF"), LIMITS))
    assert pixels[0, :, 0].tolist() == expected


def test_floats_that_are_not_finite_are_refused() -> None:
    values = np.array([[0, np.inf]], np.float32)
    data = encode(Image.fromarray(values), "TIFF")
    with pytest.raises(UndecodableImage):
        decode_image(data, LIMITS)
    with pytest.raises(UndecodableImage):
        decode_mask(data, LIMITS)


def test_transparent_pixels_of_a_picture_are_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    rgba.putpixel((1, 0), (10, 20, 30, 0))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    grey = Image.new("L", (2, 1), 10)
    grey.putpixel((1, 0), 20)
    cases = (
        (encode(rgba), (10, 20, 30)),
        (encode(rgba, "WEBP", lossless=True, exact=True), (10, 20, 30)),
        (encode(palette, transparency=1), (10, 20, 30)),
        (encode(palette, transparency=bytes([255, 0])), (10, 20, 30)),
        (encode(grey, transparency=20), (10, 10, 10)),
        (raw_png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 2570, 300), struct.pack(">H", 300)), (10, 10, 10)),
        (raw_png(2, 1, 4, 0, b"\0\x21", struct.pack(">H", 1)), (34, 34, 34)),
        (raw_png(2, 1, 2, 0, b"\0\x90", struct.pack(">H", 1)), (170, 170, 170)),
        (raw_png(2, 1, 1, 0, b"\0\x40", struct.pack(">H", 1)), (0, 0, 0)),
    )
    for data, colour in cases:
        image = decode_image(data, LIMITS)
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [colour, (255, 255, 255)]


def test_the_transparent_colour_of_sixteen_bits_is_that_colour_only() -> None:
    clear = (0x0AFF, 0x14FF, 0x1EFF)
    near = [(0x0AFF, 0x14FF, 0x1EFE), (0x0BFF, 0x14FF, 0x1EFF), (0xFFFF, 0xFFFF, 0xFFFF)]
    row = b"\0" + struct.pack(">12H", *clear, *near[0], *near[1], *near[2])
    data = raw_png(4, 1, 16, 2, row, struct.pack(">3H", *clear))
    image = decode_image(data, LIMITS)
    assert [image.getpixel((x, 0)) for x in range(3)] == [(255, 255, 255), (10, 20, 30), (11, 20, 30)]
    assert object_of(data)[0].tolist() == [False, True, True, True]
    white = struct.pack(">3H", 0x00FF, 0x00FF, 0x00FF)  # Pillow compares 8 bits: it would clear the last pixel
    assert object_of(raw_png(4, 1, 16, 2, row, white))[0].tolist() == [True] * 4


def masks_of(truth: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, bytes]:
    """One mask, stored in every way that people store masks."""
    ones, full = truth.astype(np.uint8), truth.astype(np.uint8) * 255
    size = (truth.shape[1], truth.shape[0])
    voc = Image.fromarray(ones * 15)
    voc.putpalette([value for index in range(256) for value in (64 * (index % 4), 128 * (index // 8 % 2), 0)])
    black_palette = Image.fromarray(ones)
    black_palette.putpalette([0] * 768)
    clear = Image.new("RGBA", size, (255, 255, 255, 0))
    clear.putalpha(Image.fromarray(full))
    inverse = Image.fromarray(1 - ones)
    inverse.putpalette([255, 255, 255, 0, 0, 0])
    colours = np.zeros((*truth.shape, 3), np.uint8)
    colours[truth] = (0, 0, 9)
    colours[1, 2] = (128, 64, 0)
    deep = np.where(truth, 300, 500).astype(">u2")
    cleared_rows = b"".join(b"\0" + row.tobytes() for row in deep)
    cleared_palette = Image.fromarray(ones)
    cleared_palette.putpalette([255, 255, 255, 255, 255, 255])
    return {
        "0/1": encode(Image.fromarray(ones)),
        "0/255": encode(Image.fromarray(full)),
        "boolean": encode(Image.fromarray(full).convert("1")),
        "boolean TIFF": encode(Image.fromarray(full).convert("1"), "TIFF", compression="group4"),
        "VOC palette": encode(voc),
        "black palette": encode(black_palette),
        "white-first palette": encode(inverse),
        "palette, background transparent": encode(cleared_palette, transparency=0),
        "dark colours": encode(Image.fromarray(colours)),
        "dark colours, lossless WebP": encode(Image.fromarray(colours), "WEBP", lossless=True),
        "dark colours, lossless WebP with EXIF": encode(Image.fromarray(colours), "WEBP", lossless=True, exif=exif(1)),
        "BMP": encode(Image.fromarray(colours), "BMP"),
        "white on transparent": encode(clear),
        "LA": encode(clear.convert("LA")),
        "16 bits, 0/65535": encode(Image.fromarray(truth.astype(np.uint16) * 65535)),
        "16 bits, 0/1": encode(Image.fromarray(truth.astype(np.uint16))),
        "16 bits, big-endian": big_endian_tiff(truth.astype(np.uint16)),
        "16 bits, background transparent": raw_png(*size, 16, 0, cleared_rows, struct.pack(">H", 500)),
        "integers, 0/1": encode(Image.fromarray(truth.astype(np.int32)), "TIFF"),
        "floats, 0/1": encode(Image.fromarray(truth.astype(np.float32)), "TIFF"),
        "floats, 0/0.001": encode(Image.fromarray(truth.astype(np.float32) / 1000), "TIFF"),
        "labels 7 and 255 on 0": encode(
            Image.fromarray(np.where(colours[:, :, 0] > 0, 255, ones * 7).astype(np.uint8))
        ),
    }


@pytest.mark.parametrize("way", list(masks_of(blob())))
def test_a_mask_means_the_same_however_it_is_stored(way: str) -> None:
    truth = blob()
    np.testing.assert_array_equal(object_of(masks_of(truth)[way]), truth)


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
@pytest.mark.parametrize(("kind", "colour"), [("JPEG", 255), ("JPEG", 128), ("WEBP", 255)])
def test_the_noise_of_a_lossy_mask_is_background(kind: str, colour: int, quality: int) -> None:
    truth = blob(120, 160)
    data = encode(Image.fromarray(truth.astype(np.uint8) * colour), kind, quality=quality)
    found = object_of(data)
    assert (found & truth).sum() / (found | truth).sum() > 0.97


def test_a_soft_mask_is_cut_at_half_of_its_brightest_value() -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8), (4, 1))
    np.testing.assert_array_equal(object_of(encode(Image.fromarray(ramp))), ramp >= 100)
    deep = ramp.astype(np.int32) * 1000
    np.testing.assert_array_equal(object_of(encode(Image.fromarray(deep), "TIFF")), ramp >= 100)
    floats = ramp.astype(np.float32) / 200
    np.testing.assert_array_equal(object_of(encode(Image.fromarray(floats), "TIFF")), ramp >= 100)
    wide = (ramp.astype(np.uint16) * 300) + 1
    np.testing.assert_array_equal(object_of(encode(Image.fromarray(wide))), ramp >= 100)


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.new("L", (8, 8))),
        encode(Image.new("P", (8, 8))),
        encode(Image.new("RGBA", (8, 8), (255, 255, 255, 0))),
        encode(Image.new("L", (8, 8)), "JPEG"),
        encode(Image.new("L", (8, 8), 3), "JPEG"),
        encode(Image.fromarray(blob(64, 64).astype(np.uint8)), "JPEG"),
        encode(Image.fromarray(np.zeros((8, 8), np.uint16))),
        encode(Image.fromarray(np.full((8, 8), -1, np.int32)), "TIFF"),
    ],
)
def test_a_mask_without_foreground_is_refused(data: bytes) -> None:
    with pytest.raises(EmptyMask) as caught:
        decode_mask(data, LIMITS, field="prompt_mask[0]")
    assert caught.value.extra["field"] == "prompt_mask[0]"
