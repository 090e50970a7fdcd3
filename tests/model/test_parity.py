"""Our network paints what transformers' paints, with the same weights, one example per input image."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import SegGptConfig, SegGptModel
from model.checkpoint import load, resolve, to_original
from tests.model.conftest import TINY, answer_half, draw_batch, ours_like, reference_of, relative_rms

TOLERANCE = 1e-5

SHAPES = {
    "tall canvas": TINY,
    "wide canvas, merge after block 1": replace(
        TINY, image_size=(96, 128), merge_index=1, intermediate_hidden_state_indices=(1, 3, 5)
    ),
    "square canvas of the position table's size": replace(TINY, image_size=(96, 96)),
    "merge after block 0, decoder does not read the last block": replace(
        TINY, merge_index=0, intermediate_hidden_state_indices=(0, 1, 4)
    ),
    "merge after the last block": replace(TINY, merge_index=5, intermediate_hidden_state_indices=(5,)),
    "no position terms, no qkv bias": replace(TINY, use_relative_position_embeddings=False, qkv_bias=False),
    "patches of 8": replace(TINY, patch_size=8, image_size=(64, 48), pretrain_image_size=32),
}
# transformers cannot draw fresh weights without position terms, so that shape has its own test below.
DRAWABLE = {name: shape for name, shape in SHAPES.items() if shape.use_relative_position_embeddings}


@pytest.mark.parametrize("embedding_type", ["instance", "semantic", None])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("config", DRAWABLE.values(), ids=DRAWABLE.keys())
def test_an_answer_equals_that_of_transformers(config: SegGptConfig, seed: int, embedding_type: str | None):
    theirs = reference_of(config, seed)
    ours = ours_like(theirs)
    batch = draw_batch(config, pairs=2, seed=seed)
    with torch.inference_mode():
        wanted = theirs(**batch, embedding_type=embedding_type).pred_masks
        whole = ours(**batch, embedding_type=embedding_type).pred_masks
        answer = ours(**batch, embedding_type=embedding_type, answer_only=True).pred_masks
    assert relative_rms(whole, wanted) <= TOLERANCE
    assert relative_rms(answer_half(whole), answer_half(wanted)) <= TOLERANCE
    assert relative_rms(answer, answer_half(wanted)) <= TOLERANCE


def test_a_network_without_position_terms_and_biases_equals_that_of_transformers():
    config = SHAPES["no position terms, no qkv bias"]
    theirs = reference_of(replace(TINY, qkv_bias=False))
    without = [layer.attention for layer in theirs.model.encoder.layers]
    for attention in without:
        attention.use_relative_position_embeddings = False
        del attention.rel_pos_h, attention.rel_pos_w
    theirs.config.use_relative_position_embeddings = False
    ours = ours_like(theirs)
    batch = draw_batch(config, pairs=2, seed=0)
    with torch.inference_mode():
        wanted = answer_half(theirs(**batch).pred_masks)
        assert relative_rms(ours(**batch, answer_only=True).pred_masks, wanted) <= TOLERANCE
        explicit = ours(**batch, output_attentions=True).pred_masks
        assert relative_rms(answer_half(explicit), wanted) <= TOLERANCE


def test_embedding_types_differ():
    theirs = reference_of(TINY)
    ours = ours_like(theirs)
    batch = draw_batch(TINY, pairs=1, seed=0)
    with torch.inference_mode():
        instance, semantic = (
            ours(**batch, embedding_type=name, answer_only=True).pred_masks for name in ("instance", "semantic")
        )
    assert relative_rms(instance, semantic) > 1e-2


@pytest.mark.parametrize("config", DRAWABLE.values(), ids=DRAWABLE.keys())
def test_hidden_states_and_attentions_equal_those_of_transformers(config: SegGptConfig):
    theirs = reference_of(config, seed=3)
    ours = ours_like(theirs)
    batch = draw_batch(config, pairs=2, seed=3)
    with torch.inference_mode():
        wanted = theirs(**batch, output_hidden_states=True, output_attentions=True)
        got = ours(**batch, output_hidden_states=True, output_attentions=True)
    assert len(got.hidden_states) == len(wanted.hidden_states) == config.num_hidden_layers + 1
    assert len(got.attentions) == len(wanted.attentions) == config.num_hidden_layers
    for mine, other in zip(
        (*got.hidden_states, *got.attentions), (*wanted.hidden_states, *wanted.attentions), strict=True
    ):
        assert relative_rms(mine, other) <= TOLERANCE
    assert relative_rms(got.pred_masks, wanted.pred_masks) <= TOLERANCE


def test_the_encoder_alone_equals_that_of_transformers():
    theirs = reference_of(TINY, seed=4)
    ours = ours_like(theirs).model
    assert isinstance(ours, SegGptModel)
    batch = draw_batch(TINY, pairs=2, seed=4)
    with torch.inference_mode():
        wanted = theirs.model(**batch, output_hidden_states=True)
        got = ours(**batch, output_hidden_states=True)
    assert relative_rms(got.last_hidden_state, wanted.last_hidden_state) <= TOLERANCE
    assert len(got.intermediate_hidden_states) == len(wanted.intermediate_hidden_states)
    for mine, other in zip(got.intermediate_hidden_states, wanted.intermediate_hidden_states, strict=True):
        assert relative_rms(mine, other) <= TOLERANCE


def _masked_patches(config: SegGptConfig, rows: int) -> torch.Tensor:
    patches = config.grid[0] * config.grid[1]
    return torch.rand(rows, patches, generator=torch.Generator().manual_seed(5)) < 0.6


@pytest.mark.parametrize("mask_rows", [None, 1, 2], ids=["default mask", "one mask for all", "a mask per pair"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_and_its_picture_equal_those_of_transformers(seed: int, mask_rows: int | None):
    theirs = reference_of(TINY, seed)
    ours = ours_like(theirs)
    batch = draw_batch(TINY, pairs=2, seed=seed)
    batch["labels"] = draw_batch(TINY, pairs=2, seed=seed + 50)["prompt_masks"]
    if mask_rows is not None:
        batch["bool_masked_pos"] = _masked_patches(TINY, mask_rows)
    with torch.inference_mode():
        wanted, got = theirs(**batch), ours(**batch)
    assert relative_rms(got.loss, wanted.loss) <= TOLERANCE
    assert relative_rms(got.pred_masks, wanted.pred_masks) <= TOLERANCE


@pytest.mark.parametrize("mask_rows", [None, 2], ids=["default mask", "a mask per pair"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_the_loss_in_half_precision_is_close(dtype: torch.dtype, mask_rows: int | None):
    config = replace(TINY, image_size=(448, 224))  # more masked values than float16 can count
    theirs = reference_of(config, seed=0)
    ours = ours_like(theirs).to(dtype)
    batch = draw_batch(config, pairs=2, seed=0)
    batch["labels"] = draw_batch(config, pairs=2, seed=50)["prompt_masks"]
    if mask_rows is not None:
        batch["bool_masked_pos"] = _masked_patches(config, mask_rows)
    with torch.inference_mode():
        wanted = theirs(**batch).loss
        got = ours(**{**batch, "labels": batch["labels"].to(dtype)}).loss
    assert got.dtype == torch.float32
    assert relative_rms(got, wanted) <= 1e-2


def test_masked_patches_without_labels_equal_those_of_transformers():
    theirs = reference_of(TINY, seed=6)
    ours = ours_like(theirs)
    batch = draw_batch(TINY, pairs=2, seed=6)
    batch["bool_masked_pos"] = _masked_patches(TINY, rows=2)
    with torch.inference_mode():
        wanted = theirs(**batch).pred_masks
        assert relative_rms(ours(**batch).pred_masks, wanted) <= TOLERANCE
        answer = ours(**batch, answer_only=True).pred_masks
    assert relative_rms(answer, answer_half(wanted)) <= TOLERANCE


def test_the_loss_without_bool_masked_pos_is_the_same_in_answer_only():
    ours = ours_like(reference_of(TINY, seed=7))
    batch = draw_batch(TINY, pairs=2, seed=7)
    batch["labels"] = draw_batch(TINY, pairs=2, seed=57)["prompt_masks"]
    with torch.inference_mode():
        assert relative_rms(ours(**batch, answer_only=True).loss, ours(**batch).loss) <= TOLERANCE


def test_gradients_equal_those_of_transformers():
    theirs = reference_of(TINY, seed=8)
    ours = ours_like(theirs)
    batch = draw_batch(TINY, pairs=2, seed=8)
    batch["labels"] = draw_batch(TINY, pairs=2, seed=58)["prompt_masks"]
    batch["bool_masked_pos"] = _masked_patches(TINY, rows=2)
    theirs(**batch).loss.backward()
    ours(**batch).loss.backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if wanted[name].grad is None:
            assert parameter.grad is None, name
        elif wanted[name].grad.abs().max() > 1e-7:  # keys have no gradient by their bias: softmax does not see it
            assert relative_rms(parameter.grad, wanted[name].grad) <= 1e-4, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_close_and_takes_float32_pictures(dtype: torch.dtype):
    theirs = reference_of(TINY, seed=10)
    ours = ours_like(theirs)
    batch = draw_batch(TINY, pairs=2, seed=10)
    with torch.inference_mode():
        wanted = answer_half(theirs(**batch).pred_masks)
        # float32 prompt masks and all: transformers fails on them
        got = ours.to(dtype)(**batch, answer_only=True).pred_masks
    assert got.dtype == dtype
    assert relative_rms(got, wanted) < (3e-2 if dtype == torch.bfloat16 else 4e-3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_vit_large_written_by_transformers_answers_alike_and_the_original_layout_to_the_byte(tmp_path: Path):
    config = SegGptConfig()
    theirs = reference_of(config, seed=0)
    theirs.save_pretrained(tmp_path)
    tensors = {to_original(name): tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"model": tensors}, tmp_path / "seggpt_vit_large.pth")
    del tensors
    answers = {}
    with torch.inference_mode():
        for seed, embedding_type in enumerate(("instance", "semantic")):
            batch = draw_batch(config, pairs=1, seed=seed)
            wanted = answer_half(theirs(**batch, embedding_type=embedding_type).pred_masks)
            for layout, source in (("huggingface", tmp_path), ("original", tmp_path / "seggpt_vit_large.pth")):
                ours = load(resolve(source))
                answer = ours(**batch, embedding_type=embedding_type, answer_only=True).pred_masks
                del ours
                answers[layout, embedding_type] = answer.numpy().tobytes()
                rms = relative_rms(answer, wanted)
                print(f"ViT-L, {layout}, {embedding_type}: relative rms {rms:.2e}")  # noqa: T201
                assert rms <= TOLERANCE
    shutil.rmtree(tmp_path)
    for embedding_type in ("instance", "semantic"):
        assert answers["huggingface", embedding_type] == answers["original", embedding_type]
    assert answers["original", "instance"] != answers["original", "semantic"]
