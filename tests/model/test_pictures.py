"""Pictures and masks in any container become the tensors that transformers makes of them; others are refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.odd_pictures import draw_mask, draw_picture, expected, ours, theirs

HOLDERS = ("PIL", "rows, columns, channels", "channels first", "tensor", "floats", "int64")


def held(picture: Image.Image, holder: str) -> object:
    """The same pixels in another container."""
    pixels = np.asarray(picture)
    first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return {
        "PIL": picture,
        "rows, columns, channels": pixels,
        "channels first": first,
        "tensor": torch.from_numpy(first),
        "floats": pixels.astype(np.float32),
        "int64": pixels.astype(np.int64),
    }[holder]


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("index", [4, 5, 7, 9])
def test_a_picture_may_come_in_any_container(index: int, holder: str):
    picture = draw_picture(index)
    assert torch.equal(ours(images=held(picture, holder))["pixel_values"], expected(picture))


@pytest.mark.parametrize("mode", ["L", "P", "1", "I", "I;16"])
def test_a_map_of_class_indices_may_have_any_mode_that_holds_indices(mode: str):
    indices = draw_mask(5, labels=1)
    image = {
        "L": lambda: Image.fromarray(indices),
        "P": lambda: _with_palette(indices),
        "1": lambda: Image.fromarray(indices.astype(bool)),
        "I": lambda: Image.fromarray(indices.astype(np.int32)),
        "I;16": lambda: Image.fromarray(indices.astype(np.uint16)),
    }[mode]()
    assert image.mode == mode
    wanted = theirs.preprocess(prompt_masks=indices, num_labels=1, return_tensors="pt")["prompt_masks"].float()
    assert torch.equal(ours(prompt_masks=image, num_labels=1)["prompt_masks"], wanted)


def _with_palette(indices: np.ndarray) -> Image.Image:
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette([200, 10, 10, 10, 200, 10])
    return image


def test_rgb_masks_keep_their_colours_as_in_transformers():
    picture = draw_picture(9)
    wanted = theirs.preprocess(prompt_masks=picture, do_convert_rgb=False, return_tensors="pt")["prompt_masks"].float()
    assert torch.equal(ours(prompt_masks=picture, do_convert_rgb=False)["prompt_masks"], wanted)
    assert torch.equal(ours(prompt_masks=picture)["prompt_masks"], wanted)


def test_a_grey_mask_without_labels_is_repeated_into_three_channels():
    """Under transformers' own rule; its processor, asked for that, raises on num_labels=None but works without it."""
    mask = draw_mask(9, labels=255)
    wanted = theirs.preprocess(prompt_masks=mask, return_tensors="pt")["prompt_masks"].float()
    assert torch.equal(ours(prompt_masks=mask)["prompt_masks"], wanted)


@pytest.mark.parametrize("holder", ["array", "tensor", "PIL"])
def test_a_boolean_mask_without_labels_is_black_and_white(holder: str):
    mask = draw_mask(9, labels=1).astype(bool)
    given = {"array": mask, "tensor": torch.from_numpy(mask), "PIL": Image.fromarray(mask)}[holder]
    white = ours(prompt_masks=mask.astype(np.uint8) * 255)["prompt_masks"]
    assert torch.equal(ours(prompt_masks=given)["prompt_masks"], white)
    # one class is white too
    assert torch.equal(ours(prompt_masks=given, num_labels=1)["prompt_masks"], white)


def test_a_mask_of_zeros_and_ones_without_labels_is_refused_not_painted_black():
    with pytest.raises(ValueError, match="nearly black; give num_labels=1"):
        ours(prompt_masks=draw_mask(9, labels=1))


def test_an_empty_mask_is_black():
    black = ours(prompt_masks=np.zeros((5, 6), np.uint8))["prompt_masks"]
    assert torch.equal(black, ours(prompt_masks=np.zeros((5, 6), np.uint8), num_labels=3)["prompt_masks"])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_a_mode_that_transformers_refuses_works(mode: str):
    picture = draw_picture(9).convert(mode)
    with pytest.raises(ValueError, match="mean must have"):
        theirs(images=picture, return_tensors="pt")
    assert torch.equal(ours(images=picture)["pixel_values"], expected(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_wide_picture_is_refused_not_clipped_to_white(mode: str):
    pixels = np.full((20, 30), 3000, {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
    image = Image.fromarray(pixels)
    assert image.mode == mode
    with pytest.raises(ValueError, match=r"values from 3000.* must lie in 0\.\.255"):
        ours(images=image)


@pytest.mark.parametrize(
    ("mask", "labels", "said"),
    [
        (np.full((4, 4), 255, np.uint8), 20, "labels from 255 to 255; num_labels=20 allows 0 to 20"),
        (np.full((4, 4), -1), 20, "labels from -1 to -1; num_labels=20 allows 0 to 20"),
        (np.full((4, 4), 301), 300, "labels from 301 to 301; num_labels=300 allows 0 to 300"),
        (np.full((4, 4), 256), None, r"values from 256 to 256; they must lie in 0\.\.255"),
        (np.full((4, 4), np.nan), 20, "labels that are not whole numbers"),
        (np.full((4, 4), 0.5), 20, "labels that are not whole numbers"),
        (np.zeros((4, 4, 3), np.uint8), 20, "needs a 2-D map of class indices"),
        (np.zeros((2, 4, 4, 4), np.uint8), 20, "has shape"),
        (np.zeros((0, 4), np.uint8), 20, "has shape"),
        (np.zeros((4, 4), np.uint8), 0, "num_labels is 0"),
    ],
)
def test_an_impossible_mask_is_refused(mask, labels, said):
    with pytest.raises(ValueError, match=said):
        ours(prompt_masks=mask, num_labels=labels)


def test_floats_between_0_and_1_are_refused_not_rescaled_twice():
    with pytest.raises(ValueError, match=r"floats lies in 0\.\.1.*do_rescale=False"):
        ours(images=np.asarray(draw_picture(9)) / 255)


def test_floats_that_need_no_rescaling_are_taken_as_they_are():
    picture = np.asarray(draw_picture(9)) / 255 + 0.001
    asked = {"do_rescale": False, "do_resize": False}
    wanted = theirs(images=picture, return_tensors="pt", input_data_format="channels_last", **asked)["pixel_values"]
    assert torch.allclose(ours(images=picture, **asked)["pixel_values"], wanted.float(), rtol=0, atol=1e-6)
    assert torch.allclose(ours(prompt_masks=picture, **asked)["prompt_masks"], wanted.float(), rtol=0, atol=1e-6)
    for broken in (np.nan, np.inf):
        with pytest.raises(ValueError, match="values that are not finite"):
            ours(images=np.full((4, 4), broken), do_rescale=False)


@pytest.mark.parametrize("scale", [1, 255])
def test_floats_are_resized_without_being_rounded(scale: int):
    picture = np.random.default_rng(0).random((97, 131, 3)) * scale
    got = ours(images=picture, do_rescale=scale == 255, do_normalize=False)["pixel_values"]
    channels_first = torch.from_numpy(picture / scale).permute(2, 0, 1)[None]
    wanted = torch.nn.functional.interpolate(channels_first, (448, 448), mode="bicubic", antialias=True)
    assert torch.allclose(got, wanted.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 50, 4), (40, 50, 2), (4, 40, 50), (5, 40, 50)])
def test_other_channels_than_three_are_refused_as_in_transformers(shape):
    picture = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=r"Unable to infer|must have 4 elements"):
        theirs(images=picture, return_tensors="pt")
    with pytest.raises(ValueError, match=re.escape(f"a picture has shape {shape}; it must be")):
        ours(images=picture)


@pytest.mark.parametrize("shape", [(3, 50, 3), (3, 3, 3)])
def test_channels_that_could_be_first_or_last_are_last_as_in_a_picture_of_pil(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    wanted = theirs(images=pixels, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
    assert torch.equal(ours(images=pixels)["pixel_values"], wanted)
    assert torch.equal(ours(images=Image.fromarray(pixels))["pixel_values"], wanted)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("labels", [None, 20, 300])
def test_maps_may_come_in_one_array_as_in_transformers(count: int, labels: int | None):
    maps = np.random.default_rng(count).integers(0, (labels or 255) + 1, (count, 40, 50))
    asked = {} if labels is None else {"num_labels": labels}
    wanted = theirs.preprocess(prompt_masks=maps, return_tensors="pt", **asked)["prompt_masks"].float()
    for given in (maps, torch.from_numpy(maps), list(maps)):
        assert torch.equal(ours(prompt_masks=given, **asked)["prompt_masks"], wanted)


def test_a_mask_with_channels_first_is_one_picture_where_masks_are_rgb():
    mask = np.asarray(draw_picture(9)).transpose(2, 0, 1)
    wanted = theirs.preprocess(prompt_masks=mask, do_convert_rgb=False, return_tensors="pt")["prompt_masks"].float()
    assert torch.equal(ours(prompt_masks=mask, do_convert_rgb=False)["prompt_masks"], wanted)
