"""The counts of operations are those of the networks, ours and transformers': torch's own counter says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import PRODUCT_PARTS, Request, forward_gflop, forward_gigabytes, reference_gflop
from model import SegGptConfig, SegGptForImageSegmentation
from tests.model.conftest import TINY

SHAPES = {
    "ViT-L": SegGptConfig(),
    "tiny": TINY,
    "merge after the last block": replace(TINY, merge_index=5, intermediate_hidden_state_indices=(5,)),
    "no position terms": replace(TINY, use_relative_position_embeddings=False),
    "patches of 8, wide": replace(TINY, patch_size=8, image_size=(48, 64), pretrain_image_size=32),
}


def counted_gflop(config: SegGptConfig, request: Request) -> float:
    """What torch counts while the plain model answers, without storage."""
    with torch.device("meta"), torch.inference_mode():
        model = SegGptForImageSegmentation(config).eval()
        prompts = torch.empty(request.pairs, 3, *config.half_size)
        inputs = torch.empty(request.groups, 3, *config.half_size)
        sizes = [request.pairs // request.groups] * request.groups
        mask_stream = model.model.mask_stream(prompts, group_sizes=sizes) if request.known_prompt else None
        with FlopCounterMode(display=False) as counter:
            model(
                inputs,
                prompts,
                None if request.known_prompt else prompts,
                group_sizes=sizes,
                answer_only=request.answer_only,
                mask_stream=mask_stream,
            )
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("known_prompt", [False, True])
@pytest.mark.parametrize("answer_only", [False, True])
def test_a_forward_has_the_operations_that_torch_counts(config, known_prompt, answer_only):
    for pairs, groups in ((1, 1), (6, 2)):
        request = Request(pairs=pairs, groups=groups, answer_only=answer_only, known_prompt=known_prompt)
        counted = counted_gflop(config, request)
        assert sum(forward_gflop(config, request).values()) == pytest.approx(counted, rel=1e-9)


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("shape", ["ViT-L", "tiny"])
def test_the_reference_has_the_operations_that_torch_counts_in_transformers(shape, pairs):
    config = SHAPES[shape]
    with torch.device("meta"), torch.inference_mode():
        theirs = transformers.SegGptForImageSegmentation(transformers.SegGptConfig(**config.to_dict())).eval()
        pictures = torch.empty(pairs, 3, *config.half_size)
        with FlopCounterMode(display=False) as counter:
            theirs(pictures, pictures, pictures, feature_ensemble=pairs > 1)
    assert reference_gflop(config, pairs) == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-9)


def test_vit_large_needs_1590_gflop_as_published_1448_with_a_new_prompt_and_1291_with_a_known_one():
    config = SegGptConfig()
    assert round(reference_gflop(config, 1)) == 1590
    assert round(sum(forward_gflop(config, Request(whole_queries=False)).values())) == 1448
    known = Request(known_prompt=True, known_first_keys=True, whole_queries=False)
    assert round(sum(forward_gflop(config, known).values())) == 1291


def test_what_a_known_prompt_keeps_of_the_first_block_is_its_embedding_and_its_qkv():
    config = SegGptConfig()
    kept = forward_gflop(config, Request(pairs=2, known_prompt=True, known_first_keys=True))
    without = forward_gflop(config, Request(pairs=2, known_prompt=True))
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model = SegGptForImageSegmentation(config).model
        tokens = model.embeddings.patch_embeddings(torch.empty(2, 3, *config.half_size))
        model.encoder.layers[0].attention.qkv(tokens)
    assert sum(without.values()) - sum(kept.values()) == pytest.approx(counter.get_total_flops() / 1e9)
    assert {part for part in PRODUCT_PARTS if kept[part] != without[part]} == {"embedding", "qkv"}


def test_sharing_the_input_half_of_an_ensemble_saves_its_attention_to_itself():
    config = SegGptConfig()
    tokens = config.grid[0] * config.grid[1] // 2
    for pairs in (1, 2, 8):
        request = Request(pairs=pairs, known_prompt=True)
        apart, shared = (forward_gflop(config, replace(request, shared_input=value)) for value in (False, True))
        saved = (pairs - 1) * tokens**2 * config.hidden_size * 4 * config.num_hidden_layers
        assert apart["attention products"] - shared["attention products"] == pytest.approx(saved / 1e9)
        assert apart["qkv"] == shared["qkv"]


def test_traffic_counts_every_number_of_a_product_once():
    config = SegGptConfig()
    parts = forward_gigabytes(config, Request(known_prompt=True), bytes_per_number=2)
    tokens, width = 784, 1024
    linear = (tokens + 28) * (4 * width) + 4 * width * 16 * 64  # the row above: its outputs are counted below
    assert parts["proj"] == pytest.approx(
        2 * (23 * (2 * tokens * 2 * width + width**2) + ((tokens + 28) * 2 * width + width**2)) / 1e9
    )
    whole = linear + 4 * width * 16384 + tokens * 16384 + 28 * 16 * 64
    assert parts["decoder linear"] == pytest.approx(2 * whole / 1e9)
