"""The GPU's straight line, on a CPU: the same answers as the network; and kernels chosen by what they compute."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from model import SegGptForImageSegmentation
from model.colours import grey, normalise
from model.config import SegGptConfig
from model.forward import EMBEDDING_TYPES, AnswerForward
from model.kernels import choice
from model.kernels.choice import Kernel, candidates, choose_attention, draw, explicit_attention, layout_of, worst_error
from model.kernels.extended_attention import ExtendedAttention
from tests.model.conftest import TINY, draw_weights, relative_rms

TOLERANCE = 1e-5
CPU = torch.device("cpu")
CONFIGS = {
    "tiny": TINY,
    "merged in the last block but one": replace(
        TINY, num_hidden_layers=3, merge_index=1, intermediate_hidden_state_indices=(1, 2)
    ),
    "merged in the last block": replace(
        TINY, num_hidden_layers=2, merge_index=1, intermediate_hidden_state_indices=(1,)
    ),
    "without positions or biases": replace(TINY, use_relative_position_embeddings=False, qkv_bias=False),
    "small patches": replace(TINY, patch_size=8, image_size=(96, 64), num_attention_heads=2),
}


def network(config: SegGptConfig) -> SegGptForImageSegmentation:
    model = SegGptForImageSegmentation(config).eval()
    draw_weights(model, seed=0)
    return model


def tables(config: SegGptConfig, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = config.grid
    return (
        torch.randn(2 * rows - 1, config.head_dim, generator=generator) * 0.5,
        torch.randn(2 * columns - 1, config.head_dim, generator=generator) * 0.5,
    )


def kernels_of(model: SegGptForImageSegmentation) -> list[Kernel]:
    blocks = [layer.attention for layer in model.model.encoder.layers]
    return [
        ExtendedAttention(model.config, getattr(block, "rel_pos_h", None), getattr(block, "rel_pos_w", None))
        for block in blocks
    ]


def pixels_of(config: SegGptConfig, group_sizes: tuple[int, ...]) -> torch.Tensor:
    """Input images, prompt images, prompt masks."""
    generator = torch.Generator().manual_seed(1)
    count = len(group_sizes) + 2 * sum(group_sizes)
    return torch.randint(0, 256, (count, *config.half_size, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("group_sizes", "types"), [((1, 1), (0, 1)), ((2, 1, 3), (1, 1, 1))])
@torch.inference_mode()
def test_the_straight_line_paints_what_the_network_paints(config, group_sizes, types):
    model = network(config)
    groups, pairs = len(group_sizes), sum(group_sizes)
    pixels = pixels_of(config, group_sizes)
    inputs, prompts, masks = normalise(pixels).split([groups, pairs, pairs])
    kinds = [EMBEDDING_TYPES[kind] for kind in types]
    wanted = model(inputs, prompts, masks, group_sizes=group_sizes, embedding_type=kinds, answer_only=True).pred_masks
    wanted_stream = model.model.mask_stream(masks, kinds, group_sizes)
    forward = AnswerForward(model, torch.float32, list(kernels_of(model)))
    layout = forward.layout(group_sizes)
    stream = forward.mask_stream(pixels[groups + pairs :], layout, torch.tensor(types))
    got = forward.answers(pixels[: groups + pairs], layout, torch.tensor(types), stream)
    assert layout == wanted_stream.layout
    assert relative_rms(stream, wanted_stream.tokens) <= TOLERANCE
    assert relative_rms(got, wanted) <= TOLERANCE


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_weights_stored_in_16_bits_paint_in_float32_as_exactly_as_others(stored: torch.dtype):
    model = network(TINY).to(stored)
    exact = copy.deepcopy(model).float()
    pixels = pixels_of(TINY, (1,))
    inputs, prompts, masks = normalise(pixels).split(1)
    wanted = exact(inputs, prompts, masks, answer_only=True).pred_masks
    forward = AnswerForward(model, torch.float32, list(kernels_of(exact)))
    layout, kinds = forward.layout((1,)), torch.zeros(1, dtype=torch.int64)
    stream = forward.mask_stream(pixels[2:], layout, kinds)
    assert relative_rms(forward.answers(pixels[:2], layout, kinds, stream), wanted) <= 2e-6


@torch.inference_mode()
def test_in_bfloat16_only_products_are_rounded():
    model = network(TINY)
    pixels = pixels_of(TINY, (1, 1))
    inputs, prompts, masks = normalise(pixels).split([2, 2, 2])
    wanted = model(inputs, prompts, masks, answer_only=True).pred_masks
    forward = AnswerForward(model, torch.bfloat16, list(kernels_of(model)))
    layout, kinds = forward.layout((1, 1)), torch.zeros(2, dtype=torch.int64)
    stream = forward.mask_stream(pixels[4:], layout, kinds)
    got = forward.answers(pixels[:4], layout, kinds, stream)
    assert stream.dtype == got.dtype == torch.float32
    assert relative_rms(got, wanted) <= 0.02


def test_grey_is_the_mean_colour_and_says_which_answers_are_finite():
    forward = AnswerForward(network(TINY), torch.float32, list(kernels_of(network(TINY))))
    painted = torch.randn(3, 3, *TINY.half_size, generator=torch.Generator().manual_seed(0)) * 2
    painted[1, 0, 5, 7] = torch.nan
    finite, levels = forward.levels(painted)
    answers = levels[..., 3]
    assert finite.tolist() == [True, False, True]
    assert torch.equal(answers[[0, 2]], torch.ceil(grey(painted[[0, 2]]) - 0.5).to(torch.uint8))


@pytest.mark.parametrize("is_halved", [True, False])
@pytest.mark.parametrize("grid", [(12, 8), (6, 5)])
@pytest.mark.parametrize("is_relative", [True, False])
def test_extended_queries_and_keys_give_the_explicit_softmax(is_halved: bool, grid, is_relative: bool):
    config = replace(TINY, image_size=(grid[0] * 16, grid[1] * 16), use_relative_position_embeddings=is_relative)
    own = tables(config) if is_relative else (None, None)
    assert worst_error(ExtendedAttention(config, *own, is_halved), config, *own, CPU, torch.float32) <= TOLERANCE


def test_explicit_attention_is_that_of_the_network():
    model = network(TINY)
    attention = model.model.encoder.layers[0].attention
    layout = layout_of(TINY, (2, 1))
    tokens = torch.randn(5 * layout.half_tokens, TINY.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, _ = attention(tokens, layout, layout.half_tokens, False)
        mixed = explicit_attention(
            TINY, attention.rel_pos_h, attention.rel_pos_w, attention.qkv(tokens), layout, layout.half_tokens
        )
        assert relative_rms(attention.proj(mixed), wanted) <= TOLERANCE


class Faulty(ExtendedAttention):
    """Right for one network, wrong where it counts."""

    def __call__(self, qkv, layout, prompt_tokens):
        mixed = super().__call__(qkv, layout, prompt_tokens)
        if self.name == "raises":
            raise RuntimeError("it does not compile")
        if self.name == "nan":
            mixed[0, 0] = torch.nan
        return mixed * 1.01


def faulty(config: SegGptConfig, name: str) -> Kernel:
    kernel = Faulty(config, *tables(config))
    kernel.name = name
    return kernel


@pytest.mark.parametrize("fault", ["raises", "nan", "wrong"])
def test_a_kernel_that_is_wrong_or_does_not_run_is_passed_over_with_a_warning(fault: str, monkeypatch, caplog):
    right = ExtendedAttention(TINY, *tables(TINY))
    monkeypatch.setattr(choice, "candidates", lambda *_: iter((faulty(TINY, fault), right)))
    assert choose_attention(TINY, *tables(TINY), CPU, torch.float32) is right
    assert f"attention {fault}" in caplog.text


def test_no_right_kernel_is_an_error(monkeypatch):
    monkeypatch.setattr(choice, "candidates", lambda *_: iter((faulty(TINY, "wrong"),)))
    with pytest.raises(RuntimeError, match="no attention kernel is right on cpu"):
        choose_attention(TINY, *tables(TINY), CPU, torch.float32)


def test_a_chosen_kernel_serves_the_other_blocks_too():
    first, other = tables(TINY), tables(TINY, seed=1)
    for kernel in candidates(TINY, *first, CPU):
        assert worst_error(kernel.like(*other), TINY, *other, CPU, torch.float32) <= TOLERANCE
        assert worst_error(kernel.like(*other), TINY, *first, CPU, torch.float32) > TOLERANCE
    layout = layout_of(TINY, (1,))
    qkv = draw(TINY, layout, CPU, torch.float32)
    assert kernel.like(None, None)(qkv, layout, layout.half_tokens).shape == (len(qkv), TINY.hidden_size)
