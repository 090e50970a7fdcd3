"""A network on a CPU, prepared for answering: oneDNN's packed products, and one pass for what stands between them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from model.config import SegGptConfig
from model.decoder import SegGptDecoder, SegGptDecoderHead
from model.encoder import AttentionKernel, SegGptAttention, SegGptLayer
from model.kernels.blocked_attention import BlockedAttention
from model.kernels.linear import Activation, PackedLinear, QuantisedLinear
from model.kernels.rows import add_and_norm, paint
from model.layout import Layout
from model.seggpt import SegGptForImageSegmentation

logger = logging.getLogger(__name__)

Pack = Callable[[Tensor, Tensor | None, Activation], nn.Module]

# Relative rms error against float32 that an attention kernel may have.
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@torch.inference_mode()
def prepare(model: SegGptForImageSegmentation, precision: str) -> tuple[str, str]:
    """Prepare in place; gives the names of the attention kernel and of the linear layers.

    Raises:
        ValueError: `precision` needs what this build of torch does not have.
    """
    if precision == "float16" or not _has_onednn():
        if precision == "int8":
            raise ValueError("int8 needs a torch with oneDNN, which this one is not; use float32 or bfloat16")
        model.to(getattr(torch, precision))
        return "torch", "torch"
    config = model.config
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    tokens = config.grid[0] * config.grid[1]

    def pack(weight: Tensor, bias: Tensor | None, activation: Activation) -> nn.Module:
        if precision == "int8":
            return QuantisedLinear(weight, bias, tokens, activation)
        return PackedLinear(weight.to(dtype), None if bias is None else bias.to(dtype), tokens, activation)

    layers = model.model.encoder.layers
    first = layers[0]
    assert isinstance(first, SegGptLayer)
    kernel = _fastest_attention(first.attention, config, dtype)
    for index, layer in enumerate(layers):
        # One at a time, so that the weights never exist twice.
        assert isinstance(layer, SegGptLayer)
        layers[index] = PreparedLayer(layer, pack, kernel, config, dtype)
    model.model.encoder.register_module("layernorm", PreparedNorm(model.model.encoder.layernorm, dtype))
    assert isinstance(model.decoder, SegGptDecoder)
    model.decoder = PreparedDecoder(model.decoder, pack, config, dtype)
    model.model.embeddings.keep_positions()
    model.model.embeddings.to(dtype)
    return kernel.name if kernel else "torch", (QuantisedLinear if precision == "int8" else PackedLinear).name


class PreparedNorm(nn.Module):
    """A layernorm in float32, with the addition before it and the rounding after it."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self._weight, self._bias = norm.weight.detach().float(), norm.bias.detach().float()
        self._eps, self._dtype = norm.eps, dtype

    def forward(self, stream: Tensor, branch: Tensor | None = None) -> Tensor:
        """(..., C) float32 -> (..., C); `branch` (T, C) is added to `stream` first, in place."""
        flat = stream.reshape(-1, stream.shape[-1])
        return add_and_norm(flat, branch, self._weight, self._bias, self._eps, self._dtype).view(stream.shape)


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
    """SegGptDecoderHead with everything behind the convolution in one pass."""

    def __init__(self, head: SegGptDecoderHead, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = head.conv.to(dtype)
        norm, colours = head.layernorm, head.head
        self._norm = norm.weight.detach().float(), norm.bias.detach().float(), norm.eps
        assert colours.bias is not None
        self._colours = colours.weight.detach().float().flatten(1).contiguous(), colours.bias.detach().float()

    def forward(self, features: Tensor) -> Tensor:
        """(B, decoder_hidden_size, H, W) -> (B, 3, H, W) float32 normalised RGB."""
        return paint(self.conv(features), *self._norm, *self._colours)


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

    def _lowest(self, hidden_states: Tensor) -> Tensor:
        result: Tensor = self.lowest_embed(hidden_states)
        return result


def _kernel_of(
    kernel: type[BlockedAttention], attention: SegGptAttention, config: SegGptConfig, dtype: torch.dtype
) -> AttentionKernel:
    if not attention.is_relative:
        return kernel(config, None, None)
    return kernel(config, attention.rel_pos_h.to(dtype), attention.rel_pos_w.to(dtype))


def _fastest_attention(
    attention: SegGptAttention, config: SegGptConfig, dtype: torch.dtype
) -> type[BlockedAttention] | None:
    """Our kernel where it is right and ahead of torch's own attention, by trying both on one pair; else None."""
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
    return BlockedAttention if _seconds(ours) < _seconds(plain) else None


def _seconds(call: Callable[[], object]) -> float:
    """The faster of two calls after one that warms up."""
    call()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _has_onednn() -> bool:
    """Whether this build of torch has the packed products, tried on a small one."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight, rows = torch.arange(12.0).view(4, 3), torch.arange(6.0).view(2, 3)
    try:
        product = PackedLinear(weight, None, 2)(rows)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return torch.equal(product, rows @ weight.T)
