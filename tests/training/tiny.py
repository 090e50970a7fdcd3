"""The shape of a network that is made and trained in no time."""

from __future__ import annotations

from dataclasses import replace

from model.config import SegGptConfig

TINY = SegGptConfig(
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=2,
    image_size=(64, 32),
    patch_size=8,
    pretrain_image_size=64,
    decoder_hidden_size=8,
    merge_index=1,
    intermediate_hidden_state_indices=(1, 2, 3),
    drop_path_rate=0.0,
    beta=0.5,
)


def tiny_config(size: int) -> SegGptConfig:
    return replace(TINY, image_size=(2 * size, size))
