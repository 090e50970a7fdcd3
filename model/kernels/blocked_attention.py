"""Attention on a CPU: products block by block, and one pass between them for everything that is not a product.

No bias of (queries x keys) is ever written: the position terms come from one small product per block and meet the
logits in the pass. Works on transposed logits (keys x queries), see `model.kernels.softmax`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.config import SegGptConfig
from model.kernels.numbers import array
from model.kernels.products import is_batched, products
from model.kernels.softmax import gather, gather_rows, put_back, softmax
from model.kernels.threads import run_all
from model.layout import Layout

# Queries per block: enough for oneDNN's full rate, few enough that their logits stay in the caches.
_BLOCK = 784
# Logits of a group's heads that are computed together, at most: about twice the second cache of one core.
_SMALL_BYTES = 2 << 20


@dataclass(frozen=True)
class _Heads:
    """Some heads of one group.

    Args:
        first: number of the first one; the others follow it.
        keys: (heads, (1 + pairs) * half_tokens, head_dim), the input half first, then the prompt halves of its pairs.
        values: (heads, head_dim, (1 + pairs) * half_tokens).
        half_tokens: tokens of one half.
        parts: the same values half by half, each (heads, head_dim, half_tokens); only for groups of several pairs.
    """

    first: int
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
        # Row numbers: of the tokens that ask in `qkv`, and of their answers in `mixed`.
        shown = [np.arange((pair + 1) * half - prompt_tokens, (pair + 1) * half) for pair in range(pairs)]
        targets = np.arange(pairs * prompt_tokens).reshape(pairs, prompt_tokens)
        own = np.arange(pairs * half, (pairs + layout.groups) * half).reshape(layout.groups, half)
        answers = own - pairs * (half - prompt_tokens)
        at_once = self._at_once(layout, qkv.dtype)

        def piece(index: int) -> None:
            group, bunch = divmod(index, self._heads // at_once)
            size, first = layout.group_sizes[group], firsts[group]
            starts = [own[group, 0], *(pair * half for pair in range(first, first + size))]
            heads = self._gathered(qkv, range(bunch * at_once, (bunch + 1) * at_once), half, starts)
            if size == 1:  # both halves see the same keys, and follow each other on the canvas
                asking = np.concatenate((shown[first], own[group]))
                where = np.concatenate((targets[first], answers[group]))
                self._attend(qkv, asking, half - prompt_tokens, heads, None, mixed, where)
                return
            for pair in range(first, first + size) if prompt_tokens else ():
                self._attend(qkv, shown[pair], half - prompt_tokens, heads, pair - first, mixed, targets[pair])
            self._attend(qkv, own[group], half, heads, None, mixed, answers[group])

        run_all(piece, layout.groups * (self._heads // at_once))
        return mixed

    def _at_once(self, layout: Layout, dtype: torch.dtype) -> int:
        """How many heads share their products: all of them where calling costs as much as computing, else one."""
        queries = min(2 * layout.half_tokens, _BLOCK)
        logits_bytes = self._heads * 2 * layout.half_tokens * queries * dtype.itemsize
        is_small = max(layout.group_sizes) == 1 and logits_bytes <= _SMALL_BYTES
        enough = layout.groups >= torch.get_num_threads()
        return self._heads if is_small and enough and is_batched(dtype) else 1

    def _gathered(self, qkv: Tensor, numbers: range, half: int, starts: list[int]) -> _Heads:
        """Keys and values of the halves that begin at these rows."""
        keys = qkv.new_empty(len(numbers), len(starts) * half, self._head_dim)
        values = qkv.new_empty(len(numbers), self._head_dim, len(starts) * half)
        rows = np.array(starts)
        for number, own_keys, own_values in zip(numbers, array(keys), array(values), strict=True):
            gather(array(qkv), rows, self._column(1, number), self._column(2, number), own_keys, own_values)
        parts = tuple(part.contiguous() for part in values.split(half, dim=2)) if len(starts) > 2 else ()
        return _Heads(numbers.start, keys, values, half, parts)

    def _column(self, which: int, head: int) -> int:
        """Where one head's queries (0), keys (1) or values (2) begin among the columns."""
        return (which * self._heads + head) * self._head_dim

    def _attend(
        self,
        qkv: Tensor,
        asking: np.ndarray[Any, Any],
        first: int,
        heads: _Heads,
        pair: int | None,
        mixed: Tensor,
        answers: np.ndarray[Any, Any],
    ) -> None:
        """Attend to all keys, or to the own half's and one pair's.

        Args:
            qkv: as `__call__`'s.
            asking: rows of `qkv` whose queries ask; they follow each other on the canvas.
            first: the first one's place there, in tokens.
            heads: whose keys and values.
            pair: of the group; None for all keys.
            mixed: what `__call__` gives, written.
            answers: rows of `mixed`, one for each of `asking`.
        """
        half, count = heads.half_tokens, len(heads.keys)
        for start in range(0, len(asking), _BLOCK):
            rows = slice(start, start + _BLOCK)
            block = qkv.new_empty(count, len(asking[rows]), self._head_dim)
            for head, queries in enumerate(array(block)):
                gather_rows(array(qkv), asking[rows], self._column(0, heads.first + head), queries)
            if pair is None:
                logits = products(heads.keys, block)
                own, others = logits[:, :half], logits[:, half:]
            else:
                own = products(heads.keys[:, :half], block)
                others = products(heads.keys[:, (1 + pair) * half : (2 + pair) * half], block)
            terms = own[:, :0] if self._tables is None else products(self._tables.expand(count, -1, -1), block)
            factors = np.empty((count, block.shape[1]), np.float32)
            place = (self._scale, first + start, self._rows, self._columns)
            for *arrays, factor in zip(array(own), array(others), array(terms), factors, strict=True):
                softmax(*arrays, *place, factor)
            if pair is None:
                outputs = products(heads.values, logits.mT)
            else:
                outputs = products(heads.parts[0], own.mT) + products(heads.parts[1 + pair], others.mT)
            for head, (output, factor) in enumerate(zip(array(outputs), factors, strict=True)):
                put_back(output, factor, answers[rows], self._column(0, heads.first + head), array(mixed))
