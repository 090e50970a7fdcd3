"""A network on a CPU, prepared for answering: oneDNN's packed products, and one pass for what stands between them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from model.config import SegGptConfig
from model.decoder import SegGptDecoder, SegGptDecoderHead
from model.encoder import AttentionKernel, SegGptAttention, SegGptLayer
from model.kernels.blocked_attention import BlockedAttention
from model.kernels.linear import Activation, PackedLinear, PlainLinear, QuantisedLinear
from model.kernels.products import CLEARLY, fastest_seconds, is_native, is_onednn_ahead
from model.kernels.rows import add_norm, paint
from model.layout import Layout
from model.pages import release_pages, release_unused
from model.seggpt import SegGptForImageSegmentation
from model.weights import converted

logger = logging.getLogger(__name__)

Pack = Callable[[Tensor, Tensor | None, Activation], nn.Module]

# Pixel rows that are painted at a time.
_STRIP_PIXELS = 64
# Relative rms error against float32 that an attention kernel may have.
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@torch.inference_mode()
def prepare(model: SegGptForImageSegmentation, precision: str) -> tuple[str, str]:
    """Prepare in place; gives the names of the attention kernel and of the linear layers.

    Raises:
        ValueError: `precision` needs what this build of torch does not have.
    """
    if precision == "float16" or not is_native(torch.float32):
        if precision == "int8":
            raise ValueError("int8 needs a torch with oneDNN, which this one is not; use float32 or bfloat16")
        model.to(getattr(torch, precision))
        return "torch", "torch"
    config = model.config
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    tokens = config.grid[0] * config.grid[1]
    linear = PackedLinear if is_onednn_ahead(dtype) else PlainLinear

    def pack(weight: Tensor, bias: Tensor | None, activation: Activation) -> nn.Module:
        if precision == "int8":
            packed: nn.Module = QuantisedLinear(weight, bias, tokens, activation)
        else:
            bias = None if bias is None else bias.to(dtype)
            packed = linear(converted(weight, dtype), bias, tokens, activation)
        release_pages(weight)  # a weight that is mapped from its file counts as this process's until then
        return packed

    layers = model.model.encoder.layers
    first = layers[0]
    assert isinstance(first, SegGptLayer)
    kernel = _fastest_attention(first.attention, config, dtype)
    release_unused()
    # The largest weight first, while nothing else is in memory.
    assert isinstance(model.decoder, SegGptDecoder)
    model.decoder = PreparedDecoder(model.decoder, pack, config, dtype)
    for index, layer in enumerate(layers):
        # One at a time, so that the weights never exist twice.
        assert isinstance(layer, SegGptLayer)
        layers[index] = PreparedLayer(layer, pack, kernel, config, dtype)
    model.model.encoder.register_module("layernorm", PreparedNorm(model.model.encoder.layernorm, dtype))
    model.model.embeddings.keep_positions()
    model.model.embeddings.float()  # its products are few, and every layer would carry their rounding on
    release_unused()
    return kernel.name if kernel else "torch", (QuantisedLinear if precision == "int8" else linear).name


class PreparedNorm(nn.Module):
    """A layernorm in float32, with the addition before it and the rounding after it."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self._weight, self._bias = norm.weight.detach().float(), norm.bias.detach().float()
        self._eps, self._dtype = norm.eps, dtype

    def forward(self, stream: Tensor, branch: Tensor | None = None) -> Tensor:
        """(..., C) float32 -> (..., C); `branch` (T, C) is added to `stream` first, in place."""
        flat = stream.reshape(-1, stream.shape[-1])
        return add_norm(flat, branch, self._weight, self._bias, self._eps, self._dtype).view(stream.shape)


class PreparedLayer(nn.Module):
    """SegGptLayer for answering. Changes the stream that it is given."""

    def __init__(
        self,
        layer: SegGptLayer,
        pack: Pack,
        kernel: type[BlockedAttention] | None,
        config: SegGptConfig,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        attention, mlp = layer.attention, layer.mlp
        self.layernorm_before = PreparedNorm(layer.layernorm_before, dtype)
        self.layernorm_after = PreparedNorm(layer.layernorm_after, dtype)
        self.lin1 = pack(mlp.lin1.weight, mlp.lin1.bias, "gelu")
        self.lin2 = pack(mlp.lin2.weight, mlp.lin2.bias, "none")
        if kernel is not None:
            attention.kernel = _kernel_of(kernel, attention, config, dtype)
        qkv, proj = attention.qkv, attention.proj
        attention.register_module("qkv", pack(qkv.weight, qkv.bias, "none"))
        attention.register_module("proj", pack(proj.weight, proj.bias, "none"))
        self.attention = attention.to(dtype)

    def forward(
        self, tokens: Tensor, layout: Layout, prompt_tokens: int, output_attentions: bool = False
    ) -> tuple[Layout, Tensor, Tensor | None]:
        """As SegGptLayer.forward."""
        attended, weights = self.attention(self.layernorm_before(tokens), layout, prompt_tokens, output_attentions)
        layout, tokens = layout.tail(tokens, prompt_tokens)
        normed = self.layernorm_after(tokens, attended)
        return layout, tokens.add_(self.lin2(self.lin1(normed))), weights


class PreparedHead(nn.Module):
    """SegGptDecoderHead without padding above and below, and with everything behind the convolution in one pass."""

    def __init__(self, head: SegGptDecoderHead, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype if is_native(dtype) else torch.float32
        self.conv = head.conv.to(self._dtype)
        self.conv.padding = (0, 1)
        norm, colours = head.layernorm, head.head
        self._norm = norm.weight.detach().float(), norm.bias.detach().float(), norm.eps
        assert colours.bias is not None
        self._colours = colours.weight.detach().float().flatten(1).contiguous(), colours.bias.detach().float()

    def forward(self, features: Tensor) -> Tensor:
        """(B, decoder_hidden_size, 1 + H + 1, W) -> (B, 3, H, W) float32 normalised RGB."""
        return paint(self.conv(features.to(self._dtype)), *self._norm, *self._colours)


class PreparedDecoder(SegGptDecoder):
    """SegGptDecoder over packed weights."""

    def __init__(self, decoder: SegGptDecoder, pack: Pack, config: SegGptConfig, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.patch_size = decoder.patch_size
        self.decoder_hidden_size = decoder.decoder_hidden_size
        embed = decoder.decoder_embed
        row = config.patch_size * config.decoder_hidden_size
        self.lowest_embed = pack(embed.weight[-row:], embed.bias[-row:], "none")
        self.register_module("decoder_embed", pack(embed.weight, embed.bias, "none"))
        self.register_module("decoder_pred", PreparedHead(decoder.decoder_pred, dtype))

    def forward(self, hidden_states: Tensor, *, answer_only: bool = False) -> Tensor:
        """As SegGptDecoder.forward, some patch rows at a time: the canvas in full is the network's largest tensor."""
        patch, above = self.patch_size, int(answer_only)
        pixels = self.decoder_embed(hidden_states[:, above:])
        batch, rows, columns, _ = pixels.shape
        pixels = pixels.view(batch, rows, columns, patch, patch, -1)
        painted = torch.empty(batch, 3, rows * patch, columns * patch)
        step = max(1, _STRIP_PIXELS // patch)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            # Between one pixel row of what is above and one of what is below; zeros where the canvas ends.
            strip = pixels.new_zeros(batch, 2 + (last - first) * patch, columns, patch, pixels.shape[-1])
            strip[:, 1:-1].unflatten(1, (-1, patch)).copy_(pixels[:, first:last].transpose(2, 3))
            if first > 0:
                strip[:, 0] = pixels[:, first - 1, :, -1]
            elif answer_only:
                strip[:, 0] = self.lowest_embed(hidden_states[:, 0]).view(batch, columns, patch, -1)
            if last < rows:
                strip[:, -1] = pixels[:, last, :, 0]
            canvas = strip.flatten(2, 3).permute(0, 3, 1, 2)  # channels last in memory, as the convolution likes it
            painted[:, :, first * patch : last * patch] = self.decoder_pred(canvas)
        return painted


def _kernel_of(
    kernel: type[BlockedAttention], attention: SegGptAttention, config: SegGptConfig, dtype: torch.dtype
) -> AttentionKernel:
    if not attention.is_relative:
        return kernel(config, None, None)
    return kernel(config, attention.rel_pos_h.to(dtype), attention.rel_pos_w.to(dtype))


def _fastest_attention(
    attention: SegGptAttention, config: SegGptConfig, dtype: torch.dtype
) -> type[BlockedAttention] | None:
    """Our kernel where it is right and clearly ahead of torch's own attention, both tried on one pair; else None."""
    half = config.grid[0] * config.grid[1] // 2
    layout = Layout((1,), half_tokens=half, prompt_tokens=half)
    qkv = torch.randn(2 * half, 3 * config.hidden_size, generator=torch.Generator().manual_seed(0))
    truth = attention.attend(qkv, layout, half)
    plain = partial(attention.attend, qkv.to(dtype), layout, half)
    kernel = _kernel_of(BlockedAttention, attention, config, dtype)
    ours = partial(kernel, qkv.to(dtype), layout, half)
    difference = (ours().float() - truth).square().mean().sqrt() / truth.square().mean().sqrt()
    if not difference <= _TOLERANCES[dtype]:
        logger.warning("attention kernel %s is wrong on this machine: relative error %.1e", kernel.name, difference)
        return None
    return BlockedAttention if fastest_seconds(ours, 2) < CLEARLY * fastest_seconds(plain, 2) else None
