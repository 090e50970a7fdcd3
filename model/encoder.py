"""The encoder of SegGPT: attention and blocks.

Runs on token matrices whose rows `model.layout` describes. Parameters have Hugging Face's names, so that published
weights load as they are. Source: SegGPT, arXiv:2304.03284; decomposed position terms: MViTv2, arXiv:2112.01526.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Sequence, ValuesView
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import SegGptConfig
from model.layout import Layout

_LARGEST_BIAS_BYTES = 256 * 2**20


class Output:
    """Read like Hugging Face's outputs: by attribute, as a mapping and by position among what is there, not None.

    Not a `Mapping` by type: tools that rebuild mappings from one dictionary (accelerate) would break a dataclass.
    """

    def _there(self) -> dict[str, Any]:
        named = ((entry.name, getattr(self, entry.name)) for entry in fields(self))  # type: ignore[arg-type]
        return {name: value for name, value in named if value is not None}

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())

    def keys(self) -> KeysView[str]:
        return self._there().keys()

    def values(self) -> ValuesView[Any]:
        return self._there().values()

    def items(self) -> ItemsView[str, Any]:
        return self._there().items()

    def get(self, name: str, default: Any = None) -> Any:
        return self._there().get(name, default)

    def __getitem__(self, key: str | int | slice) -> Any:
        return self._there()[key] if isinstance(key, str) else self.to_tuple()[key]

    def __contains__(self, name: object) -> bool:
        return name in self._there()

    def __iter__(self) -> Iterator[str]:
        return iter(self._there())

    def __len__(self) -> int:
        return len(self._there())


@dataclass
class SegGptEncoderOutput(Output):
    """What the encoder saw. (rows, columns) are those of the canvas in patches.

    Args:
        last_hidden_state: (B, rows, columns, hidden_size), before the final layernorm.
        hidden_states: one (B, rows, columns, hidden_size) before each block and one after the last; 2B up to the merge,
            image stream first.
        attentions: one (B, heads, tokens, tokens) per block, likewise 2B up to the merge.
        intermediate_hidden_states: the decoder's inputs, each normalised (B, rows, columns, hidden_size).
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    intermediate_hidden_states: list[Tensor] | None = None


@dataclass(frozen=True)
class MaskStream:
    """The mask stream behind the merge layer: it never sees the input image, so a prompt's can be kept and used again.

    Args:
        tokens: (T, hidden_size), rows as `layout` says.
        layout: the pairs and groups that it was made for.
    """

    tokens: Tensor
    layout: Layout

    @property
    def nbytes(self) -> int:
        """Memory that the tokens take."""
        return self.tokens.nbytes

    @classmethod
    def joined(cls, streams: Sequence[MaskStream]) -> MaskStream:
        """The streams of several requests as the stream of one batch, in order."""
        halves = [stream.layout.halves(stream.tokens) for stream in streams]
        sizes = tuple(size for stream in streams for size in stream.layout.group_sizes)
        layout = replace(streams[0].layout, group_sizes=sizes)
        prompts, inputs = (torch.cat(parts) for parts in zip(*halves, strict=True))
        return cls(layout.flat(prompts, inputs), layout)


class SegGptLayerNorm(nn.LayerNorm):
    """A layernorm that computes in float32 and rounds its result to the precision of the layer that reads it.

    The stream between blocks is float32 in every precision: rounding it after each block would add up.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., C) of any precision -> (..., C) in the precision of the weights."""
        normed = F.layer_norm(tokens.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return normed.to(self.weight.dtype)


class AttentionKernel(Protocol):
    """Attention between the qkv projection and the output projection, made for one block; see `model.kernels`."""

    name: str

    def __call__(self, qkv: Tensor, layout: Layout, prompt_tokens: int) -> Tensor:
        """Attend, and average ensembles.

        Args:
            qkv: (T, 3 * hidden_size), rows in `layout`; columns are queries, keys, values, each [head, head_dim].
            layout: pairs and groups, with whole prompt halves.
            prompt_tokens: trailing tokens of each prompt half that are asked for.

        Returns:
            (T', hidden_size) in the layout of `layout.tail(..., prompt_tokens)`; input halves are means over their
            group's pairs.
        """


class SegGptAttention(nn.Module):
    """Attention of every token to its whole canvas, with learned row and column distances; ensembles averaged."""

    def __init__(self, config: SegGptConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.heads = config.num_attention_heads
        self.scale = config.head_dim**-0.5
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.is_relative = config.use_relative_position_embeddings
        if self.is_relative:
            rows, columns = config.grid
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * rows - 1, config.head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * columns - 1, config.head_dim))
        #: What attends instead of torch's own attention; `model.inference` chooses it.
        self.kernel: AttentionKernel | None = None

    def forward(
        self, tokens: Tensor, layout: Layout, prompt_tokens: int, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            tokens: (T, hidden_size), normalised.
            layout: their layout, with whole prompt halves.
            prompt_tokens: trailing tokens of each prompt half that are asked for; keys and values come from all.
            output_attentions: also give the (pairs, heads, queries, keys) weights.

        Returns:
            (T', hidden_size) in the layout of `layout.tail(..., prompt_tokens)`, and the weights or None.
        """
        qkv = self.qkv(tokens)
        weights: Tensor | None = None
        if output_attentions or self.training:
            q, k, v = self._canvases(qkv, layout, prompt_tokens)
            mixed, weights = self._explicit(q, k, v, *self._position_terms(q))
            mixed = self._averaged(mixed, layout, prompt_tokens)
        else:
            mixed = (self.kernel or self.attend)(qkv, layout, prompt_tokens)
        result: Tensor = self.proj(mixed)
        return result, weights if output_attentions else None

    def attend(self, qkv: Tensor, layout: Layout, prompt_tokens: int) -> Tensor:
        """Torch's own attention, called as an AttentionKernel is."""
        q, k, v = self._canvases(qkv, layout, prompt_tokens)
        return self._averaged(self._fused(q, k, v, *self._position_terms(q)), layout, prompt_tokens)

    def _canvases(self, qkv: Tensor, layout: Layout, prompt_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (pairs, heads, queries, head_dim), the asked ones only; keys and values (pairs, heads, keys, ...)."""
        q, k, v = (
            layout.canvases(part).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1)
        )
        return q[:, :, layout.prompt_tokens - prompt_tokens :], k, v

    def _averaged(self, mixed: Tensor, layout: Layout, prompt_tokens: int) -> Tensor:
        """(pairs, heads, queries, head_dim) -> (T', hidden_size), the input halves averaged over their group.

        The projection behind is linear, so the ensemble's mean may be taken before it, once per group.
        """
        mixed = mixed.transpose(1, 2).flatten(2)  # (pairs, queries, hidden_size)
        return layout.flat(mixed[:, :prompt_tokens], layout.mean_of_group(mixed[:, prompt_tokens:]))

    def _position_terms(self, q: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What each query adds per key row, (..., queries, rows), and per key column, (..., queries, columns)."""
        if not self.is_relative:
            return None, None
        rows, columns = self.grid
        shaped = q.unflatten(2, (-1, columns))  # the queries are the canvas's last rows
        of_row = self.rel_pos_h[_distances(rows, shaped.shape[2], q.device)].to(q.dtype)
        of_column = self.rel_pos_w[_distances(columns, columns, q.device)].to(q.dtype)
        return (
            torch.einsum("bhrwd,rkd->bhrwk", shaped, of_row).flatten(2, 3),
            torch.einsum("bhrwd,wkd->bhrwk", shaped, of_column).flatten(2, 3),
        )

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        if rows is None or columns is None:
            return F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        # The (queries, keys) bias is the largest thing in the network, so few canvases at a time have one.
        bytes_per_pair = self.heads * q.shape[2] * k.shape[2] * q.element_size()
        step = max(1, _LARGEST_BIAS_BYTES // bytes_per_pair)
        parts = [
            F.scaled_dot_product_attention(
                q[part], k[part], v[part], (rows[part].unsqueeze(-1) + columns[part].unsqueeze(-2)).flatten(3)
            )
            for part in (slice(start, start + step) for start in range(0, len(q), step))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor | None, columns: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q = q * self.scale
        if rows is not None and columns is not None:
            # Position terms as more width of queries and keys: a key's code names its row and its column.
            q = torch.cat((q, rows, columns), dim=-1)
            k = torch.cat((k, self._key_code(k).expand(*k.shape[:2], -1, -1)), dim=-1)
        # softmax computes in float32 inside and rounds its result, whatever the input's precision
        weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
        return weights @ v, weights

    def _key_code(self, k: Tensor) -> Tensor:
        rows, columns = self.grid
        row = torch.eye(rows, dtype=k.dtype, device=k.device).repeat_interleave(columns, 0)
        column = torch.eye(columns, dtype=k.dtype, device=k.device).repeat(rows, 1)
        return torch.cat((row, column), dim=-1)  # (keys, rows + columns)


def _distances(keys: int, queries: int, device: torch.device) -> Tensor:
    """(queries, keys) index into a table of 2 * keys - 1 distances, for the last `queries` of `keys` places."""
    places = torch.arange(keys, device=device)
    return places[keys - queries :, None] - places[None, :] + keys - 1


class SegGptMlp(nn.Module):
    """Two linear layers with an exact gelu between."""

    def __init__(self, config: SegGptConfig) -> None:
        super().__init__()
        assert config.mlp_dim is not None  # the config fills it in
        self.lin1 = nn.Linear(config.hidden_size, config.mlp_dim)
        self.lin2 = nn.Linear(config.mlp_dim, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """(T, hidden_size) -> (T, hidden_size)."""
        result: Tensor = self.lin2(F.gelu(self.lin1(tokens)))
        return result


class SegGptLayer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: SegGptConfig, drop_path_rate: float) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.attention = SegGptAttention(config)
        self.mlp = SegGptMlp(config)
        self.layernorm_before = SegGptLayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = SegGptLayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, tokens: Tensor, layout: Layout, prompt_tokens: int, output_attentions: bool = False
    ) -> tuple[Layout, Tensor, Tensor | None]:
        """(T, hidden_size) -> the kept layout, its (T', hidden_size), and attention weights if asked for."""
        attended, weights = self.attention(self.layernorm_before(tokens), layout, prompt_tokens, output_attentions)
        layout, tokens = layout.tail(tokens, prompt_tokens)
        tokens = tokens + self._drop_path(attended, layout)
        tokens = tokens + self._drop_path(self.mlp(self.layernorm_after(tokens)), layout)
        return layout, tokens, weights

    def _drop_path(self, branch: Tensor, layout: Layout) -> Tensor:
        """In training, leave the branch out of some canvases and scale it up in the others."""
        if not self.training or self.drop_path_rate == 0.0:
            return branch
        keep = 1.0 - self.drop_path_rate
        factors = torch.empty(layout.pairs, 1, 1, dtype=branch.dtype, device=branch.device).bernoulli_(keep) / keep
        prompts, inputs = layout.halves(branch)
        return layout.flat(prompts * factors, inputs * layout.first_of_group(factors))


class SegGptEncoder(nn.Module):
    """The blocks. Both streams run side by side up to `merge_index`, then their mean goes on."""

    def __init__(self, config: SegGptConfig) -> None:
        super().__init__()
        self.config = config
        last = max(1, config.num_hidden_layers - 1)
        rates = [config.drop_path_rate * index / last for index in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(SegGptLayer(config, rate) for rate in rates)
        self.layernorm = SegGptLayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def before_merge(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Run one stream alone through the blocks up to and including `merge_index`."""
        for layer in self.layers[: self.config.merge_index + 1]:
            _, tokens, _ = layer(tokens, layout, layout.prompt_tokens)
        return tokens

    def forward(
        self,
        images: Tensor,
        masks: Tensor | MaskStream,
        layout: Layout,
        *,
        answer_only: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> SegGptEncoderOutput:
        """Encode.

        Args:
            images: (T, hidden_size) embedded image stream.
            masks: (T, hidden_size) embedded mask stream, or what `before_merge` made of it.
            layout: their common layout.
            answer_only: the last block and the outputs hold only what the decoder needs for the answer: each group's
                input half and the patch row above it, (groups, rows / 2 + 1, columns, hidden_size).
            output_attentions: also give attentions.
            output_hidden_states: also give hidden_states.
        """
        columns = self.config.grid[1]
        last = len(self.layers) - 1
        hidden_states: list[Tensor] = []
        attentions: list[Tensor] = []
        intermediate: list[Tensor] = []
        if isinstance(masks, MaskStream):
            now, tokens = layout, images
        else:
            now, tokens = layout.doubled(), _side_by_side(layout, images, masks)
        for index, layer in enumerate(self.layers):
            if output_hidden_states:
                hidden_states.append(self._shaped(now, tokens))
            # When the merge is the last block (a very shallow network) both streams still need their whole halves.
            shorten = answer_only and index == last and index > self.config.merge_index
            now, tokens, weights = layer(tokens, now, columns if shorten else now.prompt_tokens, output_attentions)
            if index == self.config.merge_index:
                if isinstance(masks, MaskStream):
                    other = masks.tokens
                else:
                    tokens, other = _apart(now, tokens)
                now, tokens = layout, (tokens + other) * 0.5
            if index in self.config.intermediate_hidden_state_indices:
                intermediate.append(self.layernorm(self._answer(now, tokens, answer_only)))
            if weights is not None:
                attentions.append(weights)
        if output_hidden_states:
            hidden_states.append(self._shaped(now, tokens))
        return SegGptEncoderOutput(
            last_hidden_state=self._answer(now, tokens, answer_only),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            intermediate_hidden_states=intermediate,
        )

    def _shaped(self, layout: Layout, tokens: Tensor) -> Tensor:
        """(T, C) -> (pairs, rows, columns, C)."""
        canvases = layout.canvases(tokens)
        return canvases.view(len(canvases), -1, self.config.grid[1], canvases.shape[-1])

    def _answer(self, layout: Layout, tokens: Tensor, answer_only: bool) -> Tensor:
        if not answer_only:
            return self._shaped(layout, tokens)
        columns = self.config.grid[1]
        prompts, inputs = layout.halves(tokens)
        above = layout.first_of_group(prompts[:, -columns:])
        return torch.cat((above, inputs), dim=1).view(layout.groups, -1, columns, tokens.shape[-1])


def _side_by_side(layout: Layout, first: Tensor, second: Tensor) -> Tensor:
    halves = zip(layout.halves(first), layout.halves(second), strict=True)
    return layout.doubled().flat(*(torch.cat(both) for both in halves))


def _apart(doubled: Layout, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The two streams of a doubled layout."""
    prompts, inputs = (half.chunk(2) for half in doubled.halves(tokens))
    return doubled.flat(prompts[0], inputs[0]), doubled.flat(prompts[1], inputs[1])
