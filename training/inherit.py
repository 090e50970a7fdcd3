"""First weights from a teacher: some of DINOv2's blocks, made to fit.

Features that find what has the same name lie deep in a deep network, and a small one that begins with random numbers
takes more photos to learn them than two cores can show it. So the small network begins with blocks from all depths of
the large one, each with the hidden units that matter most, and learns to see what the whole of it sees before it
learns to paint; a few thousand pictures bring most of that. Sources: DINOv2, arXiv:2304.07193; blocks left out,
DistilBERT, arXiv:1910.01108; kernels for another patch size, FlexiViT, arXiv:2212.08013.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import SegGptConfig
from model.seggpt import SegGptForImageSegmentation
from training.initialise import new_network
from training.teacher import Teacher, heard_blocks

_TOKEN_SCALE = 0.3  # of the tokens that the teacher does not have
_NORMS = {"layernorm_before": "norm1", "layernorm_after": "norm2"}


def inherited_blocks(depth: int, teacher_depth: int) -> tuple[int, ...]:
    """Which of the teacher's blocks a network of `depth` blocks begins with, 0-based, in order.

    Blocks that are listened to get their counterparts; the others are spread evenly between.
    """
    own, theirs = heard_blocks(depth), heard_blocks(teacher_depth)
    places = np.interp(range(depth), [0, *own, depth], [0, *theirs, teacher_depth])
    return tuple(round(float(place)) for place in places)


@torch.no_grad()
def inherited(config: SegGptConfig, teacher: Teacher, pictures: Tensor, seed: int) -> SegGptForImageSegmentation:
    """Build a network whose image stream begins as the teacher's.

    Both streams are averaged at the merge, so what comes before it counts double. What the teacher does not have (the
    decoder, the mask stream's tokens) is as in `new_network`; distances between tokens say nothing at first.

    Args:
        config: as wide as the teacher and with as many heads; its table of positions has a row and a column for each of
            the canvas's rows.
        teacher: whose blocks are taken.
        pictures: (B, 3, H, W) in [0, 255], of which hidden units are judged.
        seed: of the rest.

    Raises:
        ValueError: the configuration does not fit the teacher.
    """
    network, source = new_network(config, seed), teacher.network
    _check(config, source.config)
    state, theirs = network.state_dict(), {name: weight.float().cpu() for name, weight in source.state_dict().items()}
    rows, columns = config.half_size[0] // config.patch_size, config.half_size[1] // config.patch_size
    blocks = inherited_blocks(config.num_hidden_layers, source.config.num_hidden_layers)
    strengths = _strengths(teacher, pictures, (rows, columns), blocks)
    own = "model.embeddings."
    kernel = theirs["embeddings.patch_embeddings.projection.weight"]
    state[own + "patch_embeddings.projection.weight"] = 2 * resampled_kernel(kernel, config.patch_size)
    state[own + "patch_embeddings.projection.bias"] = 2 * theirs["embeddings.patch_embeddings.projection.bias"]
    state[own + "position_embeddings"] = 2 * _positions(teacher, config)
    for token in ("segment_token_input", "type_token_semantic", "type_token_instance"):
        state[own + token].zero_()
    generator = torch.Generator().manual_seed(seed)
    for token in ("segment_token_prompt", "mask_token"):
        state[own + token].normal_(0, _TOKEN_SCALE, generator=generator)
    for index, block in enumerate(blocks):
        scale = 2.0 if index <= config.merge_index else 1.0
        weights = _block(theirs, f"encoder.layer.{block}.", strengths[block], config.mlp_dim, scale)
        state.update({f"model.encoder.layers.{index}.{name}": weight for name, weight in weights.items()})
    network.load_state_dict(state)
    return network


def _check(config: SegGptConfig, theirs: Any) -> None:
    wanted = {"hidden_size": theirs.hidden_size, "num_attention_heads": theirs.num_attention_heads}
    wanted["pretrain_image_size"] = config.image_size[0]
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{name} is {getattr(config, name)}; to begin with this teacher's weights it must be {value}"
            )


def resampled_kernel(kernel: Tensor, size: int) -> Tensor:
    """(C, 3, K, K) -> (C, 3, size, size): gives for a small patch what the kernel gives for it enlarged to K."""
    side = kernel.shape[-1]
    pixels = torch.eye(size * size).view(-1, 1, size, size)
    enlarged = functional.interpolate(pixels, (side, side), mode="bicubic", align_corners=False).flatten(1)
    return (kernel.flatten(2) @ enlarged.T).view(*kernel.shape[:2], size, size)


def _positions(teacher: Teacher, config: SegGptConfig) -> Tensor:
    """(1, side * side + 1, hidden_size): stretched over the canvas, it gives each half the teacher's places."""
    rows, columns = config.grid
    height, width = (teacher.patch_size * places for places in (rows // 2, columns))
    blank = torch.zeros(1, (rows // 2) * columns + 1, config.hidden_size, device=teacher.mean.device)
    places = teacher.network.embeddings.interpolate_pos_encoding(blank, height, width)[:, 1:].float().cpu()
    half = places.view(rows // 2, columns, -1)
    # The network shrinks the table's columns by this matrix, to the canvas's; its inverse widens them.
    shrunk = functional.interpolate(torch.eye(rows)[None, :, None], (1, columns), mode="bicubic", align_corners=False)
    square = torch.einsum("cw,rcd->rwd", torch.linalg.pinv(shrunk[0, :, 0]), torch.cat([half, half]))
    return torch.cat([torch.zeros(1, 1, config.hidden_size), square.flatten(0, 1)[None]], 1)


def _strengths(teacher: Teacher, pictures: Tensor, grid: tuple[int, int], blocks: tuple[int, ...]) -> dict[int, Tensor]:
    """How much each hidden unit of these blocks gives: root mean square of what its output layer is shown."""
    strengths: dict[int, Tensor] = {}
    handles = []
    for block in blocks:

        def keep(_module: nn.Module, inputs: tuple[Tensor], block: int = block) -> None:
            strengths[block] = inputs[0].float().square().mean((0, 1)).sqrt().cpu()

        handles.append(teacher.network.encoder.layer[block].mlp.fc2.register_forward_pre_hook(keep))
    try:
        teacher(pictures, grid)
    finally:
        for handle in handles:
            handle.remove()
    return strengths


def _block(
    theirs: dict[str, Tensor], prefix: str, strength: Tensor, units: int | None, scale: float
) -> dict[str, Tensor]:
    """One block's weights under our names, its layer scales times `scale` within the layers that they follow."""

    def get(name: str) -> Tensor:
        return theirs[prefix + name]

    attended, mixed = scale * get("layer_scale1.lambda1"), scale * get("layer_scale2.lambda1")
    weights = {f"{own}.{kind}": get(f"{name}.{kind}") for own, name in _NORMS.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        weights[f"attention.qkv.{kind}"] = torch.cat([get(f"attention.{part}_proj.{kind}") for part in "qkv"])
    weights["attention.proj.weight"] = attended[:, None] * get("attention.o_proj.weight")
    weights["attention.proj.bias"] = attended * get("attention.o_proj.bias")
    leaving = mixed[:, None] * get("mlp.fc2.weight")
    kept = (strength * leaving.norm(dim=0)).topk(units or len(strength)).indices
    weights["mlp.lin1.weight"], weights["mlp.lin1.bias"] = get("mlp.fc1.weight")[kept], get("mlp.fc1.bias")[kept]
    weights["mlp.lin2.weight"], weights["mlp.lin2.bias"] = leaving[:, kept], mixed * get("mlp.fc2.bias")
    return weights
