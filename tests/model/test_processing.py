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
from tests.model.odd_pictures import draw_mask, draw_picture, expected, ours, theirs

TARGETS = ((1, 1), (1, 100), (100, 1), (64, 48), (127, 95), (65, 47), (30, 131), (128, 96))
MODES = ("RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "YCbCr", "PA", "HSV", "LAB", "RGBX", "I")
LABELS = (1, 2, 3, 5, 7, 8, 9, 26, 27, 28, 63, 64, 65, 100, 124, 125, 150, 200, 215, 216, 217, 254, 255)


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


def test_a_batch_is_moved_or_cast_in_place_as_in_transformers():
    picture = draw_picture(5)
    for batch in (theirs(images=picture, return_tensors="pt"), ours(images=picture)):
        assert batch.to("cpu", torch.float16) is batch
        assert batch["pixel_values"].dtype == batch.pixel_values.dtype == torch.float16


def test_one_number_is_a_square_and_one_for_all_channels_as_in_transformers():
    picture = draw_picture(9)
    settings = {"size": 224, "image_mean": 0.5, "image_std": 0.25}
    wanted = theirs(images=picture, return_tensors="pt", **settings)["pixel_values"].float()
    assert torch.equal(ours(images=picture, **settings)["pixel_values"], wanted)
    processor = SegGptImageProcessor(**settings)
    assert torch.equal(processor(images=picture)["pixel_values"], wanted)
    outputs = SimpleNamespace(pred_masks=torch.randn(1, 3, 448, 224, generator=torch.Generator().manual_seed(0)))
    (wanted,) = SegGptImageProcessorPil(**settings).post_process_semantic_segmentation(outputs)
    assert torch.equal(processor.post_process_semantic_segmentation(outputs)[0], wanted)


def test_a_setting_that_is_none_is_the_processors_own():
    picture = draw_picture(9)
    wanted = theirs(images=picture, return_tensors="pt")["pixel_values"].float()
    given = ours(images=picture, size=None, image_mean=None, rescale_factor=None)
    assert torch.equal(given["pixel_values"], wanted)


def test_numbers_of_numpy_are_numbers():
    own = SegGptImageProcessor(np.array([64, 32]), image_mean=np.full(3, 0.5, np.float32), image_std=np.float32(0.25))
    assert (own.size, own.image_mean, own.image_std) == ((64, 32), (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("size", 0), ("size", (448,)), ("size", {"shortest_edge": 448}), ("image_mean", (0.5, 0.5)), ("image_std", "x")],
)
def test_an_impossible_setting_is_refused_by_name(setting: str, value: object):
    for refuse in (lambda: SegGptImageProcessor(**{setting: value}), lambda: ours(draw_picture(5), **{setting: value})):
        with pytest.raises(ValueError, match=f"{setting} is .*; it must be"):
            refuse()


def test_a_canvas_is_cut_whatever_the_size_of_the_processor():
    outputs = SimpleNamespace(pred_masks=torch.randn(2, 3, 448, 448, generator=torch.Generator().manual_seed(0)))
    wanted = theirs.post_process_semantic_segmentation(outputs)
    got = ours.post_process_semantic_segmentation(outputs)
    assert all(torch.equal(mine, other) for mine, other in zip(got, wanted, strict=True))
    assert ours.post_process_masks(outputs)[0].segmentation.shape == (448, 448)  # an answer alone


def test_answers_are_read_with_the_processors_own_labels():
    outputs = SimpleNamespace(pred_masks=torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0)))
    own = SegGptImageProcessor((32, 48), num_labels=5)
    (wanted,) = theirs.post_process_semantic_segmentation(outputs, num_labels=5)
    assert torch.equal(own.post_process_semantic_segmentation(outputs)[0], wanted)


def test_nothing_and_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="at least one of"):
        ours()
    with pytest.raises(ValueError, match="got no picture"):
        ours(images=[])
    with pytest.raises(ValueError, match="got a list for a picture"):
        ours(images=np.asarray(draw_picture(5)).tolist())
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
