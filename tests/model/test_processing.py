"""Pictures become the tensors that transformers makes of them, and painted colours its classes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.seggpt.image_processing_pil_seggpt import SegGptImageProcessorPil

from model import SegGptImageProcessor
from model.colours import build_palette, enlarge, grey, normalise

SIZES = ((1, 1), (1, 300), (300, 1), (3, 5), (13, 1000), (64, 48), (447, 449), (448, 448), (600, 201), (97, 131))
TARGETS = ((1, 1), (1, 100), (100, 1), (64, 48), (127, 95), (65, 47), (30, 131), (128, 96))
MODES = ("RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "YCbCr", "PA", "HSV", "LAB", "RGBX", "I")
HOLDERS = ("PIL", "rows, columns, channels", "channels first", "tensor", "floats", "int64")
LABELS = (1, 2, 3, 5, 7, 8, 9, 26, 27, 28, 63, 64, 65, 100, 124, 125, 150, 200, 215, 216, 217, 254, 255)

theirs = SegGptImageProcessorPil()
ours = SegGptImageProcessor()


def draw_picture(index: int) -> Image.Image:
    """The index-th odd RGB picture: noise, ramps and flat areas of an odd size."""
    random = np.random.default_rng(index)
    height, width = SIZES[index % len(SIZES)]
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[height // 2 :, width // 3 :] = random.integers(0, 256, 3, dtype=np.uint8)
    pixels[: height // 4] = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    return Image.fromarray(pixels)


def draw_mask(index: int, labels: int) -> np.ndarray:
    """A map of class indices, every class as likely as the background."""
    height, width = SIZES[(index * 3 + 1) % len(SIZES)]
    return np.random.default_rng(1000 + index).integers(0, labels + 1, (height, width)).astype(np.uint8)


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


def expected(picture: Image.Image, processor: SegGptImageProcessorPil = theirs) -> torch.Tensor:
    """What transformers makes of an RGB picture; it takes no other mode, and guesses axes of 1 or 3 pixels."""
    return processor(images=picture, return_tensors="pt", input_data_format="channels_last")["pixel_values"].float()


@pytest.mark.parametrize("index", range(50))
def test_fifty_odd_pictures_and_masks_become_the_tensors_of_transformers(index: int):
    labels = LABELS[index % len(LABELS)]
    mode = MODES[index % len(MODES)]
    picture = draw_picture(index).convert(mode)
    prompt = draw_picture(index + 100)
    mask = draw_mask(index, labels)
    got = ours(images=picture, prompt_images=prompt, prompt_masks=Image.fromarray(mask), num_labels=labels)
    assert list(got) == ["pixel_values", "prompt_pixel_values", "prompt_masks"]
    assert all(tensor.dtype == torch.float32 and tensor.shape == (1, 3, 448, 448) for tensor in got.values())
    assert torch.equal(got["pixel_values"], expected(picture.convert("RGB")))
    assert torch.equal(got["prompt_pixel_values"], expected(prompt))
    if min(mask.shape) > 1:
        wanted = theirs.preprocess(prompt_masks=mask, num_labels=labels, return_tensors="pt")["prompt_masks"]
    else:  # transformers takes an axis of one pixel for a channel
        coloured = theirs.mask_to_rgb(mask, theirs.get_palette(labels))
        wanted = theirs.preprocess(
            prompt_masks=coloured, do_convert_rgb=False, input_data_format="channels_first", return_tensors="pt"
        )["prompt_masks"]
    assert torch.equal(got["prompt_masks"], wanted.float())


@pytest.mark.parametrize("index", range(50))
def test_fifty_odd_answers_become_the_class_maps_of_transformers(index: int):
    labels = LABELS[index % len(LABELS)]
    generator = torch.Generator().manual_seed(index)
    palette = torch.tensor(build_palette(labels), dtype=torch.uint8)
    chosen = palette[torch.randint(0, labels + 1, (2, 64, 48), generator=generator)]
    canvas = normalise(chosen) + 0.4 * torch.randn(2, 3, 64, 48, generator=generator)
    outputs = SimpleNamespace(pred_masks=torch.cat((torch.zeros_like(canvas), canvas), dim=2))
    sizes = [TARGETS[index % len(TARGETS)], TARGETS[(index + 3) % len(TARGETS)]]
    asked = {"target_sizes": sizes, "num_labels": labels}
    wanted = theirs.post_process_semantic_segmentation(outputs, **asked, return_segmentation_scores=True)
    got = ours.post_process_semantic_segmentation(outputs, **asked, return_segmentation_scores=True)
    for mine, other in zip(got, wanted, strict=True):
        assert torch.equal(mine.segmentation, other.segmentation)
        assert torch.allclose(mine.segmentation_scores, other.segmentation_scores, rtol=1e-5, atol=1e-2)
    plain = ours.post_process_semantic_segmentation(outputs, **asked)
    assert all(torch.equal(one, both.segmentation) for one, both in zip(plain, got, strict=True))


@pytest.mark.parametrize("sizes", [None, [(37, 91), (448, 448)]])
def test_answers_without_labels_become_the_grey_maps_of_transformers(sizes):
    generator = torch.Generator().manual_seed(0)
    outputs = SimpleNamespace(pred_masks=3 * torch.randn(2, 3, 128, 48, generator=generator))
    wanted = theirs.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    got = ours.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    assert all(torch.equal(mine, other) for mine, other in zip(got, wanted, strict=True))
    with_scores = ours.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    assert all(one.segmentation_scores is None for one in with_scores)


@pytest.mark.parametrize("size", [(448, 448), (64, 48), (31, 77)])
def test_every_target_size_reads_the_pixels_that_torch_reads(size):
    """Colours are decoded before they are enlarged; the index rule must be torch's own, in float32."""
    sides = [*range(1, 60), 255, 256, 257, 447, 448, 449, 613, 1000, 1999]
    plane = torch.arange(size[0] * size[1], dtype=torch.float64).reshape(1, 1, *size)
    for side in sides:
        for target in ((side, 7), (5, side)):
            wanted = torch.nn.functional.interpolate(plane, size=target, mode="nearest")[0, 0]
            assert torch.equal(enlarge(plane[0, 0], target), wanted), target


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("index", [4, 5, 7, 9])
def test_a_picture_may_come_in_any_container(index: int, holder: str):
    picture = draw_picture(index)
    assert torch.equal(ours(images=held(picture, holder))["pixel_values"], expected(picture))


@pytest.mark.parametrize("size", [(448, 448), (64, 48), (30, 500)])
def test_other_sizes_are_resized_as_transformers_does(size):
    height, width = size
    other = SegGptImageProcessorPil(size={"height": height, "width": width})
    for processor in (SegGptImageProcessor(size), SegGptImageProcessor({"height": height, "width": width})):
        for index in range(10):
            picture = draw_picture(index)
            got = processor(images=[picture, draw_picture(index + 50)])["pixel_values"]
            assert got.shape == (2, 3, height, width)
            assert torch.equal(got[:1], expected(picture, other))


def test_steps_can_be_left_out_as_in_transformers():
    picture = draw_picture(5)
    for settings in (
        {"do_resize": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"do_rescale": False},
        {"resample": 2},
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 0.5]},
        {"rescale_factor": 1 / 127.5},
    ):
        wanted = theirs(images=picture, return_tensors="pt", **settings)["pixel_values"].float()
        assert torch.equal(ours(images=picture, **settings)["pixel_values"], wanted), settings


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
        (np.full((4, 4), 255, np.uint8), 20, r"label 255; num_labels=20 allows 0 to 20"),
        (np.full((4, 4), -1), 20, r"values from -1 to -1; they must lie in 0\.\.255"),
        (np.full((4, 4), 256), 20, r"values from 256 to 256"),
        (np.full((4, 4), np.nan), 20, "values from nan"),
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
    with pytest.raises(ValueError, match=r"floats lies in 0\.\.1"):
        ours(images=np.asarray(draw_picture(9)) / 255)


def test_nothing_and_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="at least one of"):
        ours()
    with pytest.raises(ValueError, match="'crop' is not a setting"):
        ours(images=draw_picture(5), crop=True)
    with pytest.raises(ValueError, match="return_tensors is 'np'"):
        ours(images=draw_picture(5), return_tensors="np")


@pytest.mark.parametrize("labels", [*LABELS, 300, 1000])
def test_the_palette_is_that_of_transformers(labels: int):
    assert ours.get_palette(labels) == theirs.get_palette(labels)


def test_normalising_on_the_device_gives_what_the_processor_gives():
    pixels = torch.from_numpy(np.asarray(draw_picture(7)).copy())
    assert pixels.shape[:2] == (448, 448)
    assert torch.allclose(normalise(pixels)[None], ours(images=pixels)["pixel_values"], rtol=0, atol=1e-6)


def test_grey_is_the_mean_of_the_channels():
    white, black = normalise(torch.full((1, 4, 4, 3), 255)), normalise(torch.zeros(1, 4, 4, 3))
    assert torch.allclose(grey(white), torch.full((1, 4, 4), 255.0))
    assert torch.allclose(grey(black), torch.zeros(1, 4, 4), atol=1e-4)
    assert grey(10 * white).max() == 255


def test_settings_pass_through_a_preprocessor_config(tmp_path):
    processor = SegGptImageProcessor((64, 48), num_labels=3, resample=2)
    again = SegGptImageProcessor.from_dict(processor.to_dict())
    assert vars(again) == vars(processor)
    other = SegGptImageProcessorPil(**processor.to_dict())
    assert dict(other.size) == {"height": 64, "width": 48}
    other.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert vars(SegGptImageProcessor.from_dict(written)) == vars(processor)
    assert isinstance(transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil"), SegGptImageProcessorPil)
