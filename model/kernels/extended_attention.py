"""Attention with row and column terms through torch's own fused attention, as more width of queries and keys.

A query is extended by what it adds per canvas row and per canvas column, a key by a one at its own row and its own
column: their product is then the whole logit, and no (queries, keys) bias is in memory. Cut at the half of the canvas
a key has half as many rows to name, which keeps ViT-L's width at 120, below the 128 where fast kernels end; the two
parts are merged by the logarithms of their sums, and the part that an ensemble's pairs share is computed once.

Source: the identity is checked against the explicit computation in the tests; scaled_dot_product_attention's widths:
FlashAttention-2, arXiv:2307.08691.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import SegGptConfig
from model.layout import Layout

_MULTIPLE = 8  # of numbers in a head that fused kernels take


class ExtendedAttention:
    """The attention of one block.

    Args:
        config: sizes.
        rel_pos_h: (2 * rows - 1, head_dim) table of row distances; None without relative positions.
        rel_pos_w: (2 * columns - 1, head_dim) table of column distances; None without relative positions.
        is_halved: attend to the prompt half and to the input half apart, and merge.
    """

    def __init__(
        self, config: SegGptConfig, rel_pos_h: Tensor | None, rel_pos_w: Tensor | None, is_halved: bool = True
    ) -> None:
        self.name = "sdpa-halves" if is_halved else "sdpa-extended"
        self._config = config
        self._is_halved = is_halved
        self._distances: tuple[Tensor, Tensor] | None = None
        if rel_pos_h is not None and rel_pos_w is not None:
            self._distances = _by_place(rel_pos_h.detach()), _by_place(rel_pos_w.detach())
        self._codes: Tensor | None = None

    def like(self, rel_pos_h: Tensor | None, rel_pos_w: Tensor | None) -> ExtendedAttention:
        """The same kernel for another block's tables."""
        return ExtendedAttention(self._config, rel_pos_h, rel_pos_w, self._is_halved)

    def __call__(self, qkv: Tensor, layout: Layout, prompt_tokens: int) -> Tensor:
        """(T, 3 * hidden_size) in `layout` -> (T', hidden_size) in `layout.tail(prompt_tokens)`."""
        heads = self._config.num_attention_heads
        prompts, inputs = (half.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4) for half in layout.halves(qkv))
        asked = prompts[0, :, :, layout.half_tokens - prompt_tokens :]
        attend = self._by_halves if self._is_halved else self._whole
        of_prompts, of_inputs = attend(asked, prompts[1:], inputs, layout)
        averaged = layout.mean_of_group(of_inputs)
        return torch.cat([part.transpose(1, 2).flatten(2).flatten(0, 1) for part in (of_prompts, averaged)])

    def _whole(self, asked: Tensor, prompts: Tensor, inputs: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        half_rows = self._config.grid[0] // 2
        shared = layout.per_pair(self._extended(inputs[0], half_rows))
        queries = torch.cat((self._extended(asked, 0), shared), dim=2)
        keys = torch.cat((prompts[0], layout.per_pair(inputs[1])), dim=2)
        values = torch.cat((prompts[1], layout.per_pair(inputs[2])), dim=2)
        keys = self._coded(keys, 0, 2 * half_rows, queries.shape[-1])
        padding = (0, -queries.shape[-1] % _MULTIPLE)
        mixed = F.scaled_dot_product_attention(F.pad(queries, padding), F.pad(keys, padding), values, scale=1.0)
        return mixed[:, :, : asked.shape[2]], mixed[:, :, asked.shape[2] :]

    def _by_halves(self, asked: Tensor, prompts: Tensor, inputs: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        half_rows = self._config.grid[0] // 2
        asked = self._extended(asked, 0)
        shared = self._extended(inputs[0], half_rows)
        above, below = slice(0, half_rows), slice(half_rows, 2 * half_rows)
        everyone = torch.cat((self._of_rows(asked, above), layout.per_pair(self._of_rows(shared, above))), dim=2)
        to_prompts = self._part(everyone, prompts[0], prompts[1])
        own_inputs = layout.per_pair(inputs[1]), layout.per_pair(inputs[2])
        prompts_to_inputs = self._part(self._of_rows(asked, below), *own_inputs)
        inputs_to_inputs = self._part(self._of_rows(shared, below), inputs[1], inputs[2])
        count = asked.shape[2]
        return (
            _merged((to_prompts[0][:, :, :count], to_prompts[1][:, :, :count]), prompts_to_inputs),
            _merged(
                (to_prompts[0][:, :, count:], to_prompts[1][:, :, count:]),
                (layout.per_pair(inputs_to_inputs[0]), layout.per_pair(inputs_to_inputs[1])),
            ),
        )

    def _extended(self, q: Tensor, first_row: int) -> Tensor:
        """(B, heads, queries, head_dim) -> (B, heads, queries, head_dim + rows + columns): scaled, with its terms.

        The queries are the last ones of the half that begins at `first_row`.
        """
        scaled: Tensor = q * self._config.head_dim**-0.5
        if self._distances is None:
            return scaled
        rows, columns = self._config.grid
        shaped = q.unflatten(2, (-1, columns))  # (B, heads, rows of queries, columns, head_dim)
        last_row = first_row + rows // 2
        of_row, of_column = (table.to(q.dtype) for table in self._distances)
        of_rows = torch.einsum("bhrwd,rkd->bhrwk", shaped, of_row[last_row - shaped.shape[2] : last_row])
        of_columns = torch.einsum("bhrwd,wkd->bhrwk", shaped, of_column)
        extended: Tensor = torch.cat((scaled, of_rows.flatten(2, 3), of_columns.flatten(2, 3)), dim=-1)
        return extended

    def _of_rows(self, extended: Tensor, rows: slice) -> Tensor:
        """Leave of `_extended`'s row terms only those of some canvas rows."""
        if self._distances is None:
            return extended
        scaled, of_rows, of_columns = extended.split((self._config.head_dim, *self._config.grid), dim=-1)
        return torch.cat((scaled, of_rows[..., rows], of_columns), dim=-1)

    def _coded(self, keys: Tensor, first_row: int, last_row: int, width: int) -> Tensor:
        """(B, heads, keys, head_dim) -> (B, heads, keys, width): each key names its row among those, and its column."""
        if self._distances is None:
            return keys
        columns = self._config.grid[1]
        row = torch.eye(last_row - first_row, dtype=keys.dtype, device=keys.device).repeat_interleave(columns, 0)
        column = torch.eye(columns, dtype=keys.dtype, device=keys.device).repeat(last_row - first_row, 1)
        code = torch.cat((row, column), dim=-1)
        assert keys.shape[-1] + code.shape[-1] == width
        return torch.cat((keys, code.expand(*keys.shape[:2], -1, -1)), dim=-1)

    def _part(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Attention to the keys of one half, and the logarithms of its sums, (B, heads, queries) float32."""
        keys = self._coded(keys, 0, self._config.grid[0] // 2, queries.shape[-1])
        width = queries.shape[-1] + -queries.shape[-1] % _MULTIPLE
        queries, keys, padded = (F.pad(part, (0, width - part.shape[-1])) for part in (queries, keys, values))
        if queries.device.type == "cpu":
            flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            mixed, log_sum = flash(queries, keys, padded, 0.0, False, scale=1.0)
        else:
            flash = torch.ops.aten._scaled_dot_product_flash_attention
            mixed, log_sum = flash(queries, keys, padded, 0.0, False, False, scale=1.0)[:2]
        return mixed[..., : values.shape[-1]], log_sum


def _by_place(table: Tensor) -> Tensor:
    """(2 * places - 1, head_dim) by distance -> (queries, keys, head_dim) by the places of both."""
    places = torch.arange((len(table) + 1) // 2, device=table.device)
    return table[places[:, None] - places[None, :] + len(places) - 1]


def _merged(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Attention to two sets of keys from attention to each and the logarithms of their sums."""
    share = torch.sigmoid(first[1] - second[1]).unsqueeze(-1)
    merged: Tensor = torch.lerp(second[0].float(), first[0].float(), share).to(first[0].dtype)
    return merged
