"""Baselines by hand; the network's answers against the processor and the model themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.baselines import BASELINES, copied, everything, like_colours
from evaluation.network import Network
from evaluation.questions import Example, Question
from model.colours import enlarge, grey
from model.processing import SegGptImageProcessor
from tests.evaluation.conftest import tiny_model

RED, BLUE, GREEN = (220, 30, 30), (20, 40, 230), (30, 200, 40)


def halves(left: tuple[int, int, int], right: tuple[int, int, int], size: tuple[int, int] = (20, 30)) -> Image.Image:
    height, width = size
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = left, right
    return Image.fromarray(pixels)


def left_half(height: int, width: int) -> np.ndarray:
    return np.tile(np.arange(width) < width // 2, (height, 1))


def question(examples: int = 1, size: tuple[int, int] = (40, 50)) -> Question:
    dice = np.random.default_rng(examples)
    pictures = [Image.fromarray(dice.integers(0, 256, (33, 47, 3), dtype=np.uint8)) for _ in range(examples)]
    image = Image.fromarray(dice.integers(0, 256, (*size, 3), dtype=np.uint8))
    given = tuple(Example(picture, left_half(33, 47)) for picture in pictures)
    return Question("cup", given, image, left_half(*size))


def test_the_copied_mask_is_stretched_to_the_input_image():
    asked = Question("cup", (Example(halves(RED, BLUE), left_half(20, 30)),), halves(RED, BLUE, (40, 90)), np.ones(1))
    assert np.array_equal(copied(asked), left_half(40, 90))


def test_of_several_masks_is_copied_what_half_of_them_mark():
    areas = [
        np.array([[True, True, True, False]]),
        np.array([[True, True, False, False]]),
        np.array([[True] + [False] * 3]),
    ]
    image = Image.new("RGB", (4, 1))
    for count, wanted in ((1, [1, 1, 1, 0]), (2, [1, 1, 1, 0]), (3, [1, 1, 0, 0])):
        asked = Question("cup", tuple(Example(image, area) for area in areas[:count]), image, areas[0])
        assert copied(asked).tolist() == [[bool(value) for value in wanted]]


def test_everything_is_everything():
    assert everything(question()).all()
    assert everything(question()).shape == (40, 50)


def test_pixels_of_the_colours_of_the_example_are_marked_wherever_they_are():
    example = Example(halves(RED, BLUE), left_half(20, 30))
    asked = Question("cup", (example,), halves(BLUE, RED), ~left_half(20, 30))
    assert np.array_equal(like_colours(asked), ~left_half(20, 30))


def test_colours_never_seen_are_not_marked():
    example = Example(halves(RED, BLUE), left_half(20, 30))
    assert not like_colours(Question("cup", (example,), Image.new("RGB", (5, 5), GREEN), np.ones((5, 5), bool))).any()


def test_histograms_of_several_examples_are_summed():
    first = Example(halves(RED, BLUE), left_half(20, 30))
    second = Example(halves(GREEN, BLUE), left_half(20, 30))
    both = Question("cup", (first, second), halves(GREEN, RED), np.ones((20, 30), bool))
    assert like_colours(both).all()


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("examples", [1, 3])
def test_baselines_answer_in_the_input_images_size(name: str, examples: int):
    answer = BASELINES[name](question(examples))
    assert (answer.shape, answer.dtype) == ((40, 50), np.bool_)


@pytest.mark.parametrize("examples", [1, 2, 4])
@pytest.mark.parametrize("kind", ["instance", "semantic"])
def test_the_network_answers_as_processor_and_model_do(examples: int, kind: str):
    asked, model = question(examples), tiny_model()
    processor = SegGptImageProcessor(model.config.half_size)
    masks = [Image.fromarray(example.area.astype(np.uint8) * 255) for example in asked.examples]
    batch = processor([asked.image], [example.image for example in asked.examples], masks)
    with torch.inference_mode():
        output = model(**batch, embedding_type=kind, group_sizes=[examples], answer_only=True)
    [decoded] = processor.post_process_masks(output.pred_masks, target_sizes=[(40, 50)], num_labels=1)
    values = enlarge(grey(output.pred_masks)[0], (40, 50)).numpy()

    answer = Network(model, embedding_type=kind)(asked)
    clear = np.abs(values - 127.5) > 0.01  # further from the threshold than rounding reaches
    assert clear.mean() > 0.99
    assert np.array_equal(answer[clear], (values > 127.5)[clear])
    assert np.array_equal(answer[clear], (decoded.segmentation.numpy() > 0)[clear])
    assert 0.05 < answer.mean() < 0.95  # or the comparison says little


def test_smooth_answers_are_the_networks_enlarged_by_bilinear():
    asked, model = question(size=(90, 130)), tiny_model()
    processor = SegGptImageProcessor(model.config.half_size)
    masks = [Image.fromarray(asked.examples[0].area.astype(np.uint8) * 255)]
    batch = processor([asked.image], [asked.examples[0].image], masks)
    with torch.inference_mode():
        values = grey(model(**batch, answer_only=True).pred_masks)
    wide = torch.nn.functional.interpolate(values[None], (90, 130), mode="bilinear")[0, 0].numpy()
    clear = np.abs(wide - 127.5) > 1.5  # further from the threshold than whole levels reach
    answer = Network(model, upsampling="bilinear")(asked)
    assert clear.mean() > 0.9
    assert np.array_equal(answer[clear], (wide > 127.5)[clear])


def test_more_examples_change_the_answer_and_their_order_does_not(network: Network):
    asked = question(4)
    whole = network(asked)
    swapped = network(Question("cup", asked.examples[::-1], asked.image, asked.area))
    first = network(Question("cup", asked.examples[:1], asked.image, asked.area))
    assert (whole == swapped).mean() > 0.99
    assert (whole == first).mean() < 0.99


def test_an_answer_that_is_not_finite_is_an_error():
    model = tiny_model()
    torch.nn.init.constant_(model.decoder.decoder_embed.bias, float("nan"))
    with pytest.raises(RuntimeError, match="answer for cup is not finite"):
        Network(model)(question())
