"""Bytes -> pictures and masks: types, modes, orientation, limits, damage."""

import struct
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin
from transformers.models.seggpt.image_processing_pil_seggpt import SegGptImageProcessorPil

from app.errors import (
    ImageTooLarge,
    MaskAspect,
    Problem,
    UndecodableImage,
    UnsupportedImageType,
)
from app.images import (
    ImageHeader,
    Limits,
    check_aspect,
    check_header,
    decode_image,
    decode_index_mask,
    decode_mask,
)
from app.preprocess import mask_to_cell, to_cell
from tests.app.files import LIMITS, ORIENTATION, blob, encode, exif, object_of, raw_png, raw_tiff, scene

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


# Pictures


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_type_is_read(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(scene(), kind, **options)
    image = decode_image(data, LIMITS)
    assert (image.mode, image.size) == ("RGB", (16, 12))
    assert check_header(data, LIMITS) == ImageHeader(kind, height=12, width=16)
    difference = np.abs(np.asarray(image, dtype=int) - np.asarray(scene(), dtype=int))
    assert difference.max() <= (40 if kind == "JPEG" else 0)


def test_sixteen_bit_colour_is_read() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 0, 32896, 257, 256, 0) for _ in range(2))
    image = decode_image(raw_png(2, 2, 16, 2, rows), LIMITS)
    assert (image.getpixel((0, 0)), image.getpixel((1, 1))) == ((255, 0, 128), (1, 1, 0))


@pytest.mark.parametrize(
    ("bits", "packed", "indices"), [(1, 0x60, [0, 1, 1]), (2, 0x1B, [0, 1, 2, 3]), (4, 0x1F, [1, 15])]
)
def test_indices_of_few_bits_are_as_in_the_file_and_pictures_of_them_bright(
    bits: int, packed: int, indices: list[int]
) -> None:
    data = raw_png(len(indices), 1, bits, 0, bytes([0, packed]))
    assert np.asarray(decode_index_mask(data, LIMITS)).tolist() == [indices]
    shown = np.asarray(decode_image(data, LIMITS))[0, :, 0]
    assert shown.tolist() == [255 * index // (2**bits - 1) for index in indices]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pictures_and_masks(kind: str, orientation: int) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    turns = {
        1: lambda pixels: pixels,
        2: np.fliplr,
        3: lambda pixels: np.rot90(pixels, 2),
        4: np.flipud,
        5: lambda pixels: np.swapaxes(pixels, 0, 1),
        6: lambda pixels: np.rot90(pixels, -1),
        7: lambda pixels: np.rot90(np.swapaxes(pixels, 0, 1), 2),
        8: np.rot90,
    }
    truth = blob(24, 32)
    data = encode(Image.fromarray(truth.astype(np.uint8) * 255), kind, exif=exif(orientation), **options)
    expected = turns[orientation](truth)
    assert (object_of(data) == expected).mean() > (0.98 if kind == "JPEG" else 0.9999)
    pixels = np.asarray(decode_image(data, LIMITS))[:, :, 0] > 127
    assert (pixels == expected).mean() > (0.98 if kind == "JPEG" else 0.9999)
    header = check_header(data, LIMITS)
    assert (header.height, header.width) == expected.shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [None, 1, 6])
def test_an_orientation_in_xmp_is_passed_over_as_browsers_do(kind: str, orientation: int | None) -> None:
    packet = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    options: dict[str, Any] = {"exif": exif(orientation)} if orientation else {}
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet)
    elif kind == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[TiffImagePlugin.XMP] = packet.encode()
        if orientation:
            tags[ORIENTATION] = orientation
        options["tiffinfo"] = tags
    else:
        options["xmp"] = packet.encode()
    data = encode(scene(), kind, **options)
    assert packet.encode() in data
    plain = encode(scene(), kind, exif=exif(orientation or 1))
    np.testing.assert_array_equal(np.asarray(decode_image(data, LIMITS)), np.asarray(decode_image(plain, LIMITS)))
    assert check_header(data, LIMITS) == check_header(plain, LIMITS)


def test_damaged_exif_data_does_not_make_a_picture_unreadable() -> None:
    data = encode(scene(), "PNG", exif=b"Exif\0\0nonsense")
    assert decode_image(data, LIMITS).size == (16, 12)


def test_metadata_is_dropped() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encode(scene(), "PNG", icc_profile=profile, exif=exif(6))
    image = decode_image(data, LIMITS)
    assert image.info == {}
    assert len(encode(image)) < len(profile)


def test_the_primary_picture_of_a_phones_jpeg_is_taken() -> None:
    data = encode(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 12))])
    assert data[:3] == b"\xff\xd8\xff"
    assert np.asarray(decode_image(data, LIMITS))[:, :, 0].max() > 150
    assert check_header(data, LIMITS).width == 16


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_several_frames_or_pages_are_refused(kind: str) -> None:
    data = encode(scene(), kind, save_all=True, append_images=[Image.new("RGB", (16, 12))])
    for read in (decode_image, decode_mask, check_header):
        with pytest.raises(UnsupportedImageType, match="several frames or pages; allowed is one"):
            read(data, LIMITS)


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (encode(scene().convert("P"), "GIF"), "GIF"),
        (encode(scene(), "JPEG2000"), "JPEG 2000"),
        (b"MM\0+\0\x08\0\0", "big-endian BigTIFF"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg></svg>", "SVG"),
        (b"<?xml version='1.0'?>\n<svg></svg>", "SVG or other XML"),
        (b"\n<!doctype html>\n<title>404</title>", "HTML"),
        (b"<HTML></HTML>", "HTML"),
        (b"\0\0\0\x1cftypavif", "HEIC, AVIF or video"),
        (encode(scene(), "PPM"), "an unknown file type"),
        (b"hello", "an unknown file type"),
    ],
)
def test_other_types_are_refused_by_name(data: bytes, got: str) -> None:
    with pytest.raises(UnsupportedImageType, match=f"got {got}; allowed are JPEG, PNG, WebP, BMP, TIFF") as caught:
        decode_image(data, LIMITS, field="prompt_image[2]")
    assert caught.value.extra == {"field": "prompt_image[2]"}


def test_an_empty_file_is_undecodable() -> None:
    with pytest.raises(UndecodableImage, match="empty file"):
        decode_image(b"", LIMITS)


def test_pixels_and_sides_are_checked_before_decoding() -> None:
    # These two hold no pixels at all: only the header can have been read.
    too_many = raw_png(1999, 1999, 8, 0, b"")
    too_long = raw_png(2001, 1, 8, 0, b"")
    for read in (decode_image, decode_mask, check_header):
        with pytest.raises(ImageTooLarge, match="1999x1999 = 3996001 pixels; allowed are 1000000") as caught:
            read(too_many, LIMITS)
        assert (caught.value.extra["got"], caught.value.extra["limit"]) == (3_996_001, 1_000_000)
        with pytest.raises(ImageTooLarge, match="sides up to 2000"):
            read(too_long, LIMITS)


def test_a_small_tiff_of_one_enormous_tile_is_refused_before_decoding() -> None:
    tags = [(256, 10), (257, 10), (258, 8), (259, 8), (262, 1), (277, 1), (322, 32768), (323, 32768), (324, 200)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (325, 100)])
    data = struct.pack("<2sHIH", b"II", 42, 8, len(tags) + 1) + entries + bytes(200)
    with pytest.raises(ImageTooLarge, match="32768x32768"):
        decode_image(data, Limits(max_pixels=1_000_000, max_side=40_000))


def test_pillows_own_limit_does_not_warn_and_ours_governs() -> None:
    large = raw_png(20_000, 10_000, 1, 0, (b"\0" + bytes(2500)) * 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = check_header(large, Limits(max_pixels=200_000_000, max_side=20_000))
    assert (header.height, header.width) == (10_000, 20_000)


# Damage


def samples() -> list[bytes]:
    """A real file of every type, and some with more inside."""
    grey = Image.fromarray(blob().astype(np.uint8) * 255)
    files = [encode(scene(), kind) for kind in FORMATS]
    files += [encode(scene(), "WEBP", lossless=True), encode(scene(), "JPEG", progressive=True, exif=exif(6))]
    files += [encode(scene(), "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "tiff_deflate")]
    files += [encode(scene().convert("P"), transparency=3), encode(grey.convert("1"), "TIFF", compression="group4")]
    files += [encode(scene().convert(mode)) for mode in ("RGBA", "LA", "1")]
    files += [encode(scene(), "MPO", save_all=True, append_images=[scene()])]
    files += [raw_tiff(4, 8, bytes(range(48)), tags={258: 12}), raw_tiff(4, 8, bytes(128), tags={258: 32, 339: 1})]
    files += [raw_tiff(4, 8, *[bytes(range(32))] * 3, tags={258: (8,) * 3, 262: 2, 277: 3, 284: 2})]
    files += [raw_png(4, 2, 2, 0, b"\0\x1b\0\x1b", b"\0\1"), raw_png(2, 1, 16, 0, b"\0\1\2\3\4", b"\1\2")]
    return files


SAMPLES = samples()


def never_anything_but_a_problem_or_a_picture(data: bytes) -> None:
    for read in (decode_image, decode_mask, decode_index_mask, check_header):
        try:
            result = read(data, LIMITS)
        except Problem:
            continue
        if isinstance(result, Image.Image):
            assert result.mode == ("RGB" if read is decode_image else "L")
            assert result.width * result.height <= LIMITS.max_pixels


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=150, deadline=None)
def test_flipped_bits_give_a_problem_or_a_picture(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    # Half of the flips go to the headers, where they do most.
    places = st.one_of(st.integers(0, min(len(data), 200) - 1), st.integers(0, len(data) - 1))
    for place, bit in draw.draw(st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=8)):
        damaged[place] ^= 1 << bit
    never_anything_but_a_problem_or_a_picture(bytes(damaged))


@given(st.sampled_from(SAMPLES), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_cut_file_gives_a_problem_or_a_picture(data: bytes, share: float) -> None:
    never_anything_but_a_problem_or_a_picture(data[: int(len(data) * share)])


@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"II+\0"]), st.binary())
@settings(max_examples=100, deadline=None)
def test_noise_behind_a_signature_gives_a_problem_or_a_picture(signature: bytes, noise: bytes) -> None:
    never_anything_but_a_problem_or_a_picture(signature + noise)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_in_half_is_undecodable(kind: str) -> None:
    data = encode(scene(120, 160), kind)
    with pytest.raises(UndecodableImage, match=f"this {kind} of {len(data) // 2} bytes, which is damaged"):
        decode_image(data[: len(data) // 2], LIMITS)


@pytest.mark.parametrize("mask_size", [(480, 640), (240, 320), (120, 160), (960, 1280), (448, 597), (341, 455)])
def test_a_mask_of_the_same_aspect_is_accepted(mask_size: tuple[int, int]) -> None:
    check_aspect((480, 640), mask_size)


@pytest.mark.parametrize("mask_size", [(640, 480), (448, 448), (480, 643), (475, 640), (1, 640)])
def test_a_mask_of_another_aspect_is_refused(mask_size: tuple[int, int]) -> None:
    with pytest.raises(MaskAspect, match="for an image of 640x480") as caught:
        check_aspect((480, 640), mask_size, field="prompt_mask[3]")
    assert caught.value.extra["field"] == "prompt_mask[3]"


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0.05, 4), st.sampled_from(["floor", "ceil", "rint"]))
def test_a_scaled_mask_is_accepted_however_it_was_rounded(height: int, width: int, scale: float, rounding: str) -> None:
    scaled = getattr(np, rounding)(np.array([height, width]) * scale).astype(int).clip(1)
    check_aspect((height, width), (int(scaled[0]), int(scaled[1])))


# Cells


@pytest.mark.parametrize("size", [(448, 448), (64, 48)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_cell_equals_the_reference_processors_resize(size: tuple[int, int], mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (123, 217, 3), dtype=np.uint8)
    image = decode_image(encode(Image.fromarray(noise).convert(mode)), LIMITS)
    processor = SegGptImageProcessorPil(
        size={"height": size[0], "width": size[1]}, do_rescale=False, do_normalize=False
    )
    expected = np.asarray(processor(images=image, return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
    cell = to_cell(image, size)
    assert (cell.dtype, cell.shape) == (np.uint8, (*size, 3))
    np.testing.assert_array_equal(cell, expected)


def test_a_masks_cell_equals_the_reference_processors_nearest_resize() -> None:
    truth = np.random.default_rng(1).random((123, 217)) > 0.5
    mask = decode_mask(encode(Image.fromarray(truth.astype(np.uint8))), LIMITS)
    processor = SegGptImageProcessorPil(size={"height": 64, "width": 48}, do_rescale=False, do_normalize=False)
    inputs: dict[str, Any] = {"images": Image.new("RGB", (217, 123)), "prompt_masks": truth.astype(np.uint8)}
    prompt = processor(**inputs, num_labels=1, return_tensors="np")["prompt_masks"]
    cell = mask_to_cell(mask, (64, 48))
    assert (cell.dtype, cell.shape, cell.flags.c_contiguous) == (np.uint8, (64, 48, 3), True)
    np.testing.assert_array_equal(cell, np.asarray(prompt)[0].transpose(1, 2, 0))


def test_orientation_in_the_tags_of_a_tiff_is_applied_once() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ORIENTATION] = 6
    data = encode(scene(), "TIFF", tiffinfo=tags, compression="tiff_lzw")
    header = check_header(data, LIMITS)
    assert (header.height, header.width) == (16, 12)
    np.testing.assert_array_equal(np.asarray(decode_image(data, LIMITS)), np.rot90(np.asarray(scene()), -1))
