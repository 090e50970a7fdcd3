"""Attention on a CPU: oneDNN's products block by block, and one pass between them for everything that is not a product.

No bias of (queries x keys) is ever written: the position terms come from one small product per block and meet the
logits in the pass. Works on transposed logits (keys x queries), see `model.kernels.softmax`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.config import SegGptConfig
from model.kernels.numbers import array
from model.kernels.softmax import gather, put_back, softmax
from model.kernels.threads import run_all
from model.layout import Layout

# Queries per block: enough for oneDNN's full rate, few enough that their logits stay in the caches.
_BLOCK = 784


@dataclass(frozen=True)
class _Keys:
    """One head of one group: its input half first, then the prompt halves of its pairs.

    Args:
        keys: ((1 + pairs) * half_tokens, head_dim).
        values: (head_dim, (1 + pairs) * half_tokens).
        half_tokens: tokens of one half.
        parts: the same values half by half, each (head_dim, half_tokens); only for groups of several pairs.
    """

    keys: Tensor
    values: Tensor
    half_tokens: int
    parts: tuple[Tensor, ...]


class BlockedAttention:
    """An attention kernel for float32 and bfloat16 on a CPU.

    Args:
        config: the network's shape.
        rel_pos_h: (2 * rows - 1, head_dim) row distances, or None.
        rel_pos_w: (2 * columns - 1, head_dim) column distances, or None.
    """

    name = "blocked"

    def __init__(self, config: SegGptConfig, rel_pos_h: Tensor | None, rel_pos_w: Tensor | None) -> None:
        self._rows, self._columns = config.grid
        self._heads = config.num_attention_heads
        self._head_dim = config.head_dim
        self._scale = config.head_dim**-0.5
        self._tables = None
        if rel_pos_h is not None and rel_pos_w is not None:
            self._tables = torch.cat((rel_pos_h, rel_pos_w)).detach()

    def __call__(self, qkv: Tensor, layout: Layout, prompt_tokens: int) -> Tensor:
        """(T, 3 * hidden_size) -> (T', hidden_size) in the layout of `layout.tail(..., prompt_tokens)`."""
        half, pairs = layout.half_tokens, layout.pairs
        mixed = qkv.new_empty(pairs * prompt_tokens + layout.groups * half, self._heads * self._head_dim)
        firsts = [sum(layout.group_sizes[:group]) for group in range(layout.groups)]

        def piece(index: int) -> None:
            group, head = divmod(index, self._heads)
            size, first = layout.group_sizes[group], firsts[group]
            own = (pairs + group) * half
            keys = self._gather(qkv, head, half, [own, *(pair * half for pair in range(first, first + size))])
            for pair in range(first, first + size):
                shown = slice((pair + 1) * half - prompt_tokens, (pair + 1) * half)
                target = mixed[pair * prompt_tokens : (pair + 1) * prompt_tokens]
                number = pair - first if size > 1 else None
                self._attend(qkv[shown], head, half - prompt_tokens, keys, number, target)
            answers = slice(pairs * prompt_tokens + group * half, pairs * prompt_tokens + (group + 1) * half)
            self._attend(qkv[own : own + half], head, half, keys, None, mixed[answers])

        run_all(piece, layout.groups * self._heads)
        return mixed

    def _gather(self, qkv: Tensor, head: int, half: int, starts: list[int]) -> _Keys:
        """Keys and values of the halves that begin at these rows."""
        keys = qkv.new_empty(len(starts) * half, self._head_dim)
        values = qkv.new_empty(self._head_dim, len(starts) * half)
        columns = self._part(1, head).start, self._part(2, head).start
        gather(array(qkv), np.array(starts), *columns, array(keys), array(values))
        parts = tuple(part.contiguous() for part in values.split(half, dim=1)) if len(starts) > 2 else ()
        return _Keys(keys, values, half, parts)

    def _part(self, which: int, head: int) -> slice:
        """Columns of one head's queries (0), keys (1) or values (2)."""
        start = (which * self._heads + head) * self._head_dim
        return slice(start, start + self._head_dim)

    def _attend(self, tokens: Tensor, head: int, first: int, keys: _Keys, pair: int | None, target: Tensor) -> None:
        """Queries of `tokens`, the first at place `first` of the canvas, against all keys or against one pair's."""
        queries = tokens[:, self._part(0, head)].contiguous()
        half = keys.half_tokens
        for start in range(0, len(queries), _BLOCK):
            block = queries[start : start + _BLOCK]
            if pair is None:
                logits = _product(keys.keys, block)
                own, others = logits[:half], logits[half:]
            else:
                own = _product(keys.keys[:half], block)
                others = _product(keys.keys[(1 + pair) * half : (2 + pair) * half], block)
            terms = own[:0] if self._tables is None else _product(self._tables, block)
            factors = torch.empty(len(block))
            place = (self._scale, first + start, self._rows, self._columns)
            softmax(array(own), array(others), array(terms), *place, array(factors))
            if pair is None:
                mixed = _product(keys.values, logits.t())
            else:
                mixed = _product(keys.parts[0], own.t()) + _product(keys.parts[1 + pair], others.t())
            rows = target[start : start + _BLOCK, head * self._head_dim : (head + 1) * self._head_dim]
            put_back(array(mixed), array(factors), array(rows))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """(M, K) x (N, K) -> (M, N) by oneDNN, which in float32 beats other libraries' products on some processors."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return result
