"""Networks prepared for answering: every precision's answers beside transformers', and what they refuse."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import SegGptForImageSegmentation, cpu
from model.checkpoint import BUNDLED, CheckpointError, load, resolve
from model.inference import PRECISIONS, native_precision, optimise
from model.kernels import products
from model.processing import SegGptImageProcessor
from tests.model.conftest import TINY, answer_half, draw_batch, draw_weights, ours_like, reference_of, relative_rms

GROUPS = (1, 2, 5, 1)
TYPES = ("instance", "semantic", "instance", "semantic")
# Relative rms error of the answer half that a precision may have.
GATES = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 6e-2}
SHAPES = {
    "tiny": TINY,
    "odd grid, wide heads": replace(TINY, image_size=(160, 112), num_attention_heads=2),
    "more columns than lanes": replace(TINY, image_size=(32, 1056), num_attention_heads=1),
    "no positions, no bias": replace(TINY, use_relative_position_embeddings=False, qkv_bias=False),
    "one layer past the merge": replace(
        TINY, num_hidden_layers=4, merge_index=3, intermediate_hidden_state_indices=(3,)
    ),
}
ROOT = Path(__file__).parents[2]


def prepared(network: SegGptForImageSegmentation, precision: str) -> SegGptForImageSegmentation:
    """A copy of the network, prepared."""
    changed = copy.deepcopy(network)
    optimise(changed, precision)  # type: ignore[arg-type]  # a test may ask for what there is not
    return changed


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", GATES)
@pytest.mark.parametrize("kind", ["instance", "semantic"])
def test_a_prepared_network_answers_as_transformers_does(shape: str, precision: str, kind: str):
    config = SHAPES[shape]
    if config.use_relative_position_embeddings:
        theirs = reference_of(config, seed=1)
        ours = prepared(ours_like(theirs), precision)
    else:  # transformers cannot build one; our plain network is at parity with it elsewhere
        theirs = SegGptForImageSegmentation(config).eval()
        draw_weights(theirs, seed=1)
        ours = prepared(theirs, precision)
    batch = draw_batch(SHAPES[shape], pairs=2, seed=1)
    with torch.inference_mode():
        # One pair at a time: transformers' feature ensemble is not asked for, but one pair is its plain case.
        for index in range(2):
            one = {name: value[index : index + 1] for name, value in batch.items()}
            wanted = answer_half(theirs(**one, embedding_type=kind).pred_masks)
            answer = ours(**one, embedding_type=kind, answer_only=True).pred_masks
            whole = ours(**one, embedding_type=kind).pred_masks
            assert relative_rms(answer, wanted) <= GATES[precision]
            assert relative_rms(answer_half(whole), wanted) <= GATES[precision]


@pytest.mark.parametrize("is_ahead", [True, False], ids=["onednn", "torch"])
@pytest.mark.parametrize("threads", [1, 2])
def test_float32_answers_the_same_with_either_library(is_ahead: bool, threads: int, monkeypatch: pytest.MonkeyPatch):
    for module in (cpu, products):  # which one is ahead depends on the processor that runs this test
        monkeypatch.setattr(module, "is_onednn_ahead", lambda dtype: is_ahead)
    theirs = reference_of(TINY, seed=1)
    batch = draw_batch(TINY, pairs=1, seed=1)
    torch.set_num_threads(threads)
    network = ours_like(theirs)
    mode = optimise(network, "float32")
    assert mode.linear == ("onednn" if is_ahead else "torch")
    with torch.inference_mode():
        wanted = answer_half(theirs(**batch).pred_masks)
        assert relative_rms(network(**batch, answer_only=True).pred_masks, wanted) <= GATES["float32"]


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_weights_stored_in_16_bits_answer_in_float32_as_exactly_as_others(stored: torch.dtype):
    theirs = reference_of(TINY, seed=1).to(stored).float()
    ours = prepared(ours_like(theirs).to(stored), "float32")
    batch = draw_batch(TINY, pairs=1, seed=1)
    with torch.inference_mode():
        wanted = answer_half(theirs(**batch).pred_masks)
        assert relative_rms(ours(**batch, answer_only=True).pred_masks, wanted) <= 2e-6


@pytest.mark.parametrize("precision", GATES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_mixed_batch_and_kept_mask_streams_change_no_answer(precision: str, threads: int):
    network = ours_like(reference_of(TINY, seed=0))
    batch = draw_batch(TINY, pairs=sum(GROUPS), seed=0, groups=len(GROUPS))
    torch.set_num_threads(threads)
    with torch.inference_mode():
        wanted = network(**batch, group_sizes=GROUPS, embedding_type=TYPES, answer_only=True).pred_masks
        fast = prepared(network, precision)
        together = fast(**batch, group_sizes=GROUPS, embedding_type=TYPES, answer_only=True).pred_masks
        streams = [
            fast.model.mask_stream(masks, kind, (len(masks),))
            for masks, kind in zip(batch["prompt_masks"].split(GROUPS), TYPES, strict=True)
        ]
        known = fast(
            batch["pixel_values"],
            batch["prompt_pixel_values"],
            mask_stream=type(streams[0]).joined(streams),
            group_sizes=GROUPS,
            embedding_type=TYPES,
            answer_only=True,
        ).pred_masks
    for answer, other, plain in zip(together, known, wanted, strict=True):
        assert relative_rms(answer, plain) <= GATES[precision]
        assert relative_rms(other, plain) <= GATES[precision]


def test_float16_on_a_cpu_is_torchs_own():
    network = ours_like(reference_of(TINY, seed=0))
    batch = draw_batch(TINY, pairs=1, seed=0)
    with torch.inference_mode():
        wanted = network(**batch, answer_only=True).pred_masks
        mode = optimise(network, "float16")
        assert relative_rms(network(**batch, answer_only=True).pred_masks.float(), wanted) <= 5e-3
    assert (mode.precision, mode.attention, mode.linear) == ("float16", "torch", "torch")


@pytest.mark.parametrize("precision", GATES)
def test_damaged_weights_give_answers_that_are_not_finite(precision: str):
    network = ours_like(reference_of(TINY, seed=0))
    with torch.no_grad():
        network.model.encoder.layers[4].attention.proj.bias[3] = float("nan")
    optimise(network, precision)
    with torch.inference_mode():
        answer = network(**draw_batch(TINY, pairs=1, seed=0), answer_only=True).pred_masks
    assert not torch.isfinite(answer).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_prepared_network_is_neither_saved_nor_prepared_again(precision: str, tmp_path: Path):
    network = prepared(ours_like(reference_of(TINY)), precision)
    with pytest.raises(CheckpointError, match=f"prepared for answering in {precision}"):
        network.save_pretrained(tmp_path / "gutted")
    assert not (tmp_path / "gutted").exists()
    for again in PRECISIONS:
        with pytest.raises(ValueError, match=f"prepared for answering in {precision}"):
            optimise(network, again)


def test_an_unknown_precision_is_refused_by_name():
    with pytest.raises(ValueError, match="precision is 'fp8'; it must be one of float32, bfloat16, float16, int8"):
        prepared(ours_like(reference_of(TINY)), "fp8")


def test_a_prepared_network_still_gives_attention_weights_and_hidden_states():
    plain = ours_like(reference_of(TINY))
    batch = draw_batch(TINY, pairs=1, seed=0)
    with torch.inference_mode():
        wanted = plain(**batch, output_attentions=True, output_hidden_states=True)
        got = prepared(plain, "float32")(**batch, output_attentions=True, output_hidden_states=True)
    for name in ("attentions", "hidden_states"):
        for ours, theirs in zip(got[name], wanted[name], strict=True):
            assert relative_rms(ours, theirs) <= GATES["float32"]


def test_the_native_precision_is_one_that_networks_take():
    assert native_precision(torch.device("cpu")) in PRECISIONS


def pictures_of(name: str) -> tuple[Image.Image, Image.Image, Image.Image]:
    """(input image, prompt image, prompt mask) of one of the examples."""
    folder = ROOT / "examples"
    image, prompt = (Image.open(folder / f"{name}{part}.jpg").convert("RGB") for part in ("image", "prompt_image"))
    return image, prompt, Image.open(folder / f"{name}prompt_mask.png").convert("L")


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.99), ("int8", 0.97)])
def test_masks_of_real_pictures_stay_those_of_float32(precision: str, least: float):
    exact = load(resolve(BUNDLED), dtype=torch.float32)
    fast = prepared(exact, precision)
    processor = SegGptImageProcessor(exact.config.half_size)
    flips = (None, Image.Transpose.FLIP_LEFT_RIGHT)
    scores = []
    for name in ("", "airplane_"):
        for flip in flips:
            image, prompt, mask = (part if flip is None else part.transpose(flip) for part in pictures_of(name))
            batch = processor([image], [prompt], [mask])
            with torch.inference_mode():
                answers = [network(**batch, answer_only=True).pred_masks for network in (exact, fast)]
            sizes = [(image.height, image.width)] * 2
            wanted, got = (mask.segmentation > 127 for mask in processor.post_process_masks(torch.cat(answers), sizes))
            scores.append(float((wanted & got).sum() / (wanted | got).sum()))
    assert np.mean(scores) >= least, scores
