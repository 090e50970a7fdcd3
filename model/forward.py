"""The network as a GPU likes it: one straight line from uint8 pixels to painted answers, for answering only.

The same numbers as `SegGptForImageSegmentation` with answer_only, made of fewer and larger steps: constants are summed
once, colours are normalised by the weights of the patch projection, residual sums and layernorms are one step, and
the decoder's canvas is written once. Nothing depends on pixel values and nothing is copied from the host, so a CUDA
graph can record it. Runs on a CPU too, where the tests compare it with the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.colours import IMAGE_MEAN, IMAGE_STD, MAX_VALUE, levels
from model.encoder import AttentionKernel, SegGptLayer
from model.kernels import pointwise
from model.layout import Layout
from model.seggpt import SegGptForImageSegmentation

# The embedding types in the order of the rows of `AnswerForward.types`.
EMBEDDING_TYPES = ("instance", "semantic")

_Affine = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Block:
    before: _Affine
    qkv: tuple[Tensor, Tensor | None]
    attend: AttentionKernel
    proj: tuple[Tensor, Tensor | None]
    after: _Affine
    lin1: tuple[Tensor, Tensor | None]
    lin2: tuple[Tensor, Tensor | None]


class AnswerForward:
    """The forward pass of one network.

    Args:
        model: in eval, on its device, with the best weights there are; cast in place to `dtype`, and shared.
        dtype: of matrix products; sums, layernorms and the stream between blocks are float32.
        attend: the attention kernel of each block.
    """

    def __init__(
        self, model: SegGptForImageSegmentation, dtype: torch.dtype, attend: Sequence[AttentionKernel]
    ) -> None:
        config = model.config
        self.config = config
        self.dtype = dtype
        embeddings, encoder, decoder = model.model.embeddings, model.model.encoder, model.decoder
        self._eps = config.layer_norm_eps
        device = embeddings.mask_token.device
        self._colours = tuple(torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
        self._pixel_means, self._patches, shift = _with_normalisation(embeddings.patch_embeddings.projection, dtype)
        upper, lower = (half.detach().float() for half in embeddings.positions())
        image, mask = (
            token.detach().float()[0, 0] for token in (embeddings.segment_token_input, embeddings.segment_token_prompt)
        )
        #: What each token of an upper and of a lower half adds: (half_tokens, hidden_size) float32.
        self._image_places = upper + image + shift, lower + image + shift
        self._mask_places = upper + mask + shift, lower + mask + embeddings.mask_token.detach().float()[0, 0]
        #: (2, 1, hidden_size) float32: what each of EMBEDDING_TYPES adds to every token.
        self.types = torch.cat([embeddings.types([kind]).detach().float() for kind in EMBEDDING_TYPES])
        painter = decoder.decoder_pred
        layers = [layer for layer in encoder.layers if isinstance(layer, SegGptLayer)]
        # What stays float32 is read before the network is cast.
        norms = [(_affine(layer.layernorm_before), _affine(layer.layernorm_after)) for layer in layers]
        self._norm, self._paint_norm = _affine(encoder.layernorm), _affine(painter.layernorm)
        head, head_bias = _linear(painter.head)
        assert head_bias is not None
        self._head = head.flatten(1).float(), head_bias.float()
        model.to(dtype)
        self._blocks = [
            _Block(
                before=before,
                qkv=_linear(layer.attention.qkv),
                attend=kernel,
                proj=_linear(layer.attention.proj),
                after=after,
                lin1=_linear(layer.mlp.lin1),
                lin2=_linear(layer.mlp.lin2),
            )
            for layer, (before, after), kernel in zip(layers, norms, attend, strict=True)
        ]
        self._unfold = _linear(decoder.decoder_embed)
        weight, bias = _linear(painter.conv)
        self._conv = weight.to(memory_format=torch.channels_last), bias

    def layout(self, group_sizes: tuple[int, ...]) -> Layout:
        """The layout of a batch of groups."""
        half = self._image_places[0].shape[0]
        return Layout(group_sizes, half_tokens=half, prompt_tokens=half)

    def mask_stream(self, masks: Tensor, layout: Layout, kinds: Tensor) -> Tensor:
        """The mask stream up to the merge: what `answers` takes.

        Args:
            masks: (pairs, H, W, 3) uint8 prompt masks.
            layout: pairs and groups.
            kinds: (groups,) int64, each group's index into EMBEDDING_TYPES.

        Returns:
            (T, hidden_size) float32.
        """
        types = self.types[kinds]
        upper, lower = self._mask_places
        prompts = self._embedded(masks).float() + upper + layout.per_pair(types)
        tokens, _ = self._encoded(layout.flat(prompts, lower + types), layout, self.config.merge_index + 1, None)
        return tokens

    def answers(self, pixels: Tensor, layout: Layout, kinds: Tensor, mask_stream: Tensor) -> Tensor:
        """Paint.

        Args:
            pixels: (groups + pairs, H, W, 3) uint8: the input images, then the prompt images.
            layout: pairs and groups.
            kinds: (groups,) int64, each group's index into EMBEDDING_TYPES.
            mask_stream: (T, hidden_size) float32, from `mask_stream`.

        Returns:
            (groups, 3, H, W) float32, normalised RGB.
        """
        types = self.types[kinds]
        upper, lower = self._image_places
        tokens = self._embedded(pixels).float()
        images = layout.flat(
            tokens[layout.groups :] + upper + layout.per_pair(types), tokens[: layout.groups] + lower + types
        )
        _, features = self._encoded(images, layout, len(self._blocks), mask_stream)
        return self._painted(torch.cat(features, dim=-1))

    def levels(self, pred_masks: Tensor) -> tuple[Tensor, Tensor]:
        """`model.colours.levels` of what `answers` gives, with constants that are on the device already."""
        return levels(pred_masks, *self._colours)

    def _embedded(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, tokens, hidden_size): patches, projected."""
        side = self.config.patch_size
        patches = pixels.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        # (B, rows, columns, side, side, 3). Whole numbers up to 256 are exact in bfloat16 and float16 too.
        centred = torch.empty(patches.shape, dtype=self.dtype, device=pixels.device)
        torch.sub(patches, self._pixel_means, out=centred)
        return F.linear(centred.flatten(3).flatten(1, 2), self._patches)

    def _encoded(
        self, tokens: Tensor, layout: Layout, blocks: int, mask_stream: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the first `blocks` blocks: the last one's tokens, and the decoder's inputs on the way."""
        config = self.config
        last, columns = len(self._blocks) - 1, config.grid[1]
        features = []
        _, normed = self._add_norm(tokens, None, self._blocks[0].before)
        for index, block in enumerate(self._blocks[:blocks]):
            # When the merge is the last block both streams still need their whole halves.
            asked = columns if index == last > config.merge_index else layout.prompt_tokens
            mixed = block.attend(F.linear(normed, *block.qkv), layout, asked)
            layout, tokens = layout.tail(tokens, asked)
            tokens, normed = self._add_norm(tokens, F.linear(mixed, *block.proj), block.after)
            hidden = F.gelu(F.linear(normed, *block.lin1))
            following = self._blocks[min(index + 1, last)].before
            merged = mask_stream if index == config.merge_index else None
            tokens, normed = self._add_norm(tokens, F.linear(hidden, *block.lin2), following, merged)
            if index in config.intermediate_hidden_state_indices:
                features.append(self._add_norm(self._answer(layout, tokens), None, self._norm)[1])
        return tokens, features

    def _add_norm(
        self, tokens: Tensor, branch: Tensor | None, norm: _Affine, merged: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return pointwise.add_norm(tokens, branch, norm, self._eps, self.dtype, merged)

    def _answer(self, layout: Layout, tokens: Tensor) -> Tensor:
        """(T, C) -> (groups * (columns + half_tokens), C): the input halves, each below the patch row above it."""
        prompts, inputs = layout.halves(tokens)
        above = layout.first_of_group(prompts[:, -self.config.grid[1] :])
        return torch.cat((above, inputs), dim=1).flatten(0, 1)

    def _painted(self, features: Tensor) -> Tensor:
        """(groups * (columns + half_tokens), 4 * hidden_size) -> (groups, 3, H, W); see SegGptDecoder."""
        side, channels = self.config.patch_size, self.config.decoder_hidden_size
        (rows, columns), (height, width) = self.config.grid, self.config.half_size
        features = features.view(-1, rows // 2 + 1, columns, features.shape[-1])
        weight, bias = self._unfold
        assert bias is not None
        # Of the patches above only the lowest pixel row is unfolded, the one that the convolution reads.
        lowest = side * channels
        above = F.linear(features[:, 0], weight[-lowest:], bias[-lowest:])
        # Copied together first: torch multiplies rows that lie apart picture by picture, at a quarter of the speed.
        below = F.linear(features[:, 1:].contiguous(), weight, bias).unflatten(-1, (side, side, channels))
        canvas = features.new_empty(len(features), 1 + height, width, channels)
        canvas[:, 0] = above.view(-1, width, channels)
        canvas[:, 1:].unflatten(1, (-1, side)).unflatten(3, (-1, side)).copy_(below.transpose(2, 3))
        # (groups, channels, 1 + H, W), channels last in memory, as the convolution likes it
        convolved = F.conv2d(canvas.permute(0, 3, 1, 2), *self._conv, padding=1)
        return pointwise.paint(convolved.permute(0, 2, 3, 1), self._paint_norm, self._eps, self._head)


def _affine(norm: nn.Module) -> _Affine:
    assert isinstance(norm.weight, Tensor)
    assert isinstance(norm.bias, Tensor)
    return norm.weight.detach().float(), norm.bias.detach().float()


def _linear(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    assert isinstance(layer.weight, Tensor)
    bias = layer.bias
    return layer.weight.detach(), bias.detach() if isinstance(bias, Tensor) else None


def _with_normalisation(projection: nn.Conv2d, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A patch projection that takes pixels in [0, 255] less whole means, which leaves little to round.

    Returns:
        (3,) means in `dtype`; (hidden_size, side * side * 3) weight in `dtype`; (hidden_size,) bias in float32.
    """
    weight = projection.weight.detach().double()  # (hidden_size, 3, side, side)
    mean = torch.tensor(IMAGE_MEAN, dtype=torch.float64, device=weight.device) * MAX_VALUE
    std = torch.tensor(IMAGE_STD, dtype=torch.float64, device=weight.device) * MAX_VALUE
    whole = mean.round()
    scaled = weight / std.view(3, 1, 1)
    shift = (scaled.sum(dim=(2, 3)) * (whole - mean)).sum(dim=1)
    if projection.bias is not None:
        shift = shift + projection.bias.detach().double()
    return whole.to(dtype), scaled.permute(0, 2, 3, 1).flatten(1).to(dtype).contiguous(), shift.float()
