"""The CPU's attention kernel beside attention written out in float32, on grids and groups of all kinds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.encoder import SegGptAttention
from model.kernels.blocked_attention import BlockedAttention
from model.layout import Layout
from tests.model.conftest import TINY, draw_weights, relative_rms

# (grid in patches, heads): the published width, 12 columns, odd ones, more columns than lanes of the pass.
GRIDS = {
    "28 columns": ((16, 28), 2),
    "12 columns": ((24, 12), 2),
    "odd": ((6, 7), 4),
    "one row each": ((2, 70), 1),
}
GROUPS = [(1,), (1, 1, 1), (2, 1, 5)]
GATES = {torch.float32: 1e-6, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", GATES, ids=str)
@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("is_relative", [True, False])
def test_it_is_attention_written_out(grid: str, groups: tuple[int, ...], dtype: torch.dtype, is_relative: bool):
    (rows, columns), heads = GRIDS[grid]
    config = replace(
        TINY,
        image_size=(rows * TINY.patch_size, columns * TINY.patch_size),
        num_attention_heads=heads,
        use_relative_position_embeddings=is_relative,
    )
    attention = SegGptAttention(config).eval()
    attention.config = config
    draw_weights(attention, seed=3)
    half = rows * columns // 2
    layout = Layout(groups, half_tokens=half, prompt_tokens=half)
    tokens = (layout.pairs + layout.groups) * half
    # Logits spread over some ten units, as in trained networks.
    qkv = 3 * torch.randn(tokens, 3 * config.hidden_size, generator=torch.Generator().manual_seed(1))
    rounded = qkv.to(dtype)
    tables = (attention.rel_pos_h.to(dtype), attention.rel_pos_w.to(dtype)) if is_relative else (None, None)
    kernel = BlockedAttention(config, *tables)
    with torch.inference_mode():
        if is_relative:
            attention.rel_pos_h.copy_(tables[0])
            attention.rel_pos_w.copy_(tables[1])
        for prompt_tokens in (half, columns):
            wanted = attention.attend(rounded.float(), layout, prompt_tokens)
            assert relative_rms(kernel(rounded, layout, prompt_tokens).float(), wanted) <= GATES[dtype]


def test_logits_far_apart_keep_their_order_and_stay_finite():
    attention = SegGptAttention(TINY).eval()
    attention.config = TINY
    draw_weights(attention, seed=3)
    half = TINY.grid[0] * TINY.grid[1] // 2
    layout = Layout((2,), half_tokens=half, prompt_tokens=half)
    qkv = 40 * torch.randn(3 * half, 3 * TINY.hidden_size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        kernel = BlockedAttention(TINY, attention.rel_pos_h, attention.rel_pos_w)
        answer = kernel(qkv, layout, half)
        assert torch.isfinite(answer).all()
        assert relative_rms(answer, attention.attend(qkv, layout, half)) <= 1e-4
