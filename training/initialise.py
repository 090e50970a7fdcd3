"""First weights that let attention start by looking for what is alike.

Query and key projections of one head start close to each other, so a token attends to tokens that look like it: what a
prompt is for. Source: "Mimetic Initialization of Self-Attention Layers", arXiv:2305.09828, simplified to equal random
projections per head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.config import SegGptConfig
from model.encoder import SegGptLayer
from model.seggpt import SegGptForImageSegmentation

LIKENESS = 0.8  # correlation of a head's query and key weights
SHARPNESS = 1.6  # gain of query and key: higher attends to fewer tokens
POSITION_SCALE = 0.35  # of the position table, beside patches of deviation about 1


def new_network(config: SegGptConfig, seed: int) -> SegGptForImageSegmentation:
    """Build a network with fresh float32 weights.

    The position table starts as sines and cosines over rows and columns; the outputs of blocks start small.
    """
    generator = torch.Generator().manual_seed(seed)
    network = SegGptForImageSegmentation(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim < 2:
                continue  # norms and biases are right as they are
            if name.endswith(("rel_pos_h", "rel_pos_w")):
                nn.init.zeros_(parameter)
            elif parameter.shape[:2] == (1, 1):
                parameter.normal_(0.0, 0.3, generator=generator)  # mask, segment and type tokens
            elif name.endswith("position_embeddings"):
                parameter[0, 0] = 0.0  # the class token's place, which nothing reads
                parameter[0, 1:] = POSITION_SCALE * _waves(config)
            else:
                fan_in = parameter[0].numel()
                parameter.normal_(0.0, fan_in**-0.5, generator=generator)
        depth = math.sqrt(2 * config.num_hidden_layers)
        for layer in network.model.encoder.layers:
            assert isinstance(layer, SegGptLayer)
            _make_alike(layer.attention.qkv.weight, config, generator)
            layer.attention.proj.weight.div_(depth)
            layer.mlp.lin2.weight.div_(depth)
    return network


def _make_alike(weight: Tensor, config: SegGptConfig, generator: torch.Generator) -> None:
    """Tie the first two thirds, (hidden, hidden) each, of a qkv weight."""
    query, key, _ = weight.chunk(3)
    fresh = torch.randn(key.shape, generator=generator) * config.hidden_size**-0.5
    query.mul_(SHARPNESS)
    key.copy_(LIKENESS * query + math.sqrt(1 - LIKENESS**2) * SHARPNESS * fresh)


def _waves(config: SegGptConfig) -> Tensor:
    """(side * side, hidden_size) sines and cosines of row and column, of deviation about .7."""
    side, quarter = config.pretrain_image_size // config.patch_size, config.hidden_size // 4
    place = torch.linspace(0, 1, side)
    turns = torch.exp(torch.linspace(math.log(0.5), math.log(side / 2), quarter))
    angle = 2 * math.pi * place[:, None] * turns
    axis = torch.cat([angle.sin(), angle.cos()], 1)  # (side, hidden / 2)
    rows = axis[:, None].expand(-1, side, -1)
    columns = axis[None].expand(side, -1, -1)
    table = torch.cat([rows, columns], 2).flatten(0, 1)
    return torch.nn.functional.pad(table, (0, config.hidden_size - table.shape[1]))


def resized(network: SegGptForImageSegmentation, config: SegGptConfig) -> SegGptForImageSegmentation:
    """Move the weights to a canvas of another size.

    The tables of relative positions are resampled linearly, so a distance keeps its meaning as a share of the picture;
    the position table is stretched by the network itself.

    Args:
        network: trained at some canvas size.
        config: the same network at another `image_size`.
    """
    moved = SegGptForImageSegmentation(config)
    state = network.state_dict()
    for name, wanted in moved.state_dict().items():
        if name.endswith(("rel_pos_h", "rel_pos_w")) and state[name].shape != wanted.shape:
            table = state[name].float().T[None]  # (1, head_dim, distances)
            scaled = nn.functional.interpolate(table, wanted.shape[0], mode="linear", align_corners=True)
            state[name] = scaled[0].T.to(wanted.dtype)
    moved.load_state_dict(state)
    return moved
