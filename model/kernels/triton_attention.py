"""Attention with row and column terms as one Triton kernel, without a (queries, keys) bias in memory.

This module says what each program of the kernel does and starts them; `model.kernels.triton_programs` is the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from model.config import SegGptConfig
from model.kernels.triton_programs import attend
from model.layout import Layout


@dataclass(frozen=True)
class Tile:
    """How a program is cut.

    Args:
        queries: of one program; a power of two, at least 16.
        key_rows: canvas rows of keys per step; a power of two.
        warps: warps of 32 threads per program.
        stages: steps whose keys and values are on their way to shared memory at once.
        registers: at most so many per thread, so that two programs share a multiprocessor and one computes products
            while the other exponentiates; None leaves it to the compiler.
    """

    queries: int
    key_rows: int
    warps: int
    stages: int
    registers: int | None = None


# The fastest three of 22 on an H200 (docs/log.md), bounded because each one costs a second or two of compilation at
# start. With at most 128 registers a thread, four programs of 64 queries share a multiprocessor.
TILES = (
    Tile(64, 2, 4, 3, registers=128),
    Tile(128, 2, 8, 3, registers=128),
    Tile(64, 2, 4, 3, registers=168),
)


def tiles(config: SegGptConfig) -> list[Tile]:
    """What is worth trying at this network's size: `TILES` with as many more key rows per step as columns are fewer."""
    default = _default_tile(config)
    more = max(1, default.key_rows // 2)
    return [replace(tile, key_rows=tile.key_rows * more) for tile in TILES]


class TritonAttention:
    """The attention of one block.

    Args:
        config: sizes; any grid whose columns, padded to a power of two, number at most 256.
        rel_pos_h: (2 * rows - 1, head_dim) table of row distances; None without relative positions.
        rel_pos_w: (2 * columns - 1, head_dim) table of column distances; None without relative positions.
        tile: how programs are cut where no group is an ensemble; None takes steps of about 64 keys. Ensembles hold more
            in registers and always take those.
    """

    name = "triton"

    def __init__(
        self, config: SegGptConfig, rel_pos_h: Tensor | None, rel_pos_w: Tensor | None, tile: Tile | None = None
    ) -> None:
        self.config = config
        tables = (rel_pos_h, rel_pos_w)
        self._tables = [table.detach().contiguous() for table in tables if table is not None]
        self.tile = tile or _default_tile(config)

    def like(self, rel_pos_h: Tensor | None, rel_pos_w: Tensor | None) -> TritonAttention:
        """The same kernel for another block's tables."""
        return TritonAttention(self.config, rel_pos_h, rel_pos_w, self.tile)

    def __call__(self, qkv: Tensor, layout: Layout, prompt_tokens: int) -> Tensor:
        """(T, 3 * hidden_size) in `layout` -> (T', hidden_size) in `layout.tail(prompt_tokens)`.

        Args:
            qkv: queries, keys, values, each [head, head_dim]; float32, bfloat16 or float16.
            layout: pairs and groups, with whole prompt halves.
            prompt_tokens: how many trailing tokens of each prompt half ask.
        """
        assert layout.prompt_tokens == layout.half_tokens, "keys come from whole prompt halves"
        config = self.config
        tile = self.tile if layout.is_one_to_one else _default_tile(config)
        rows, columns = config.grid
        heads = config.num_attention_heads
        plan = _plan_of(layout, prompt_tokens, tile.queries, qkv.device)
        mixed = qkv.new_empty(layout.pairs * prompt_tokens + layout.groups * layout.half_tokens, config.hidden_size)
        is_relative = len(self._tables) == 2
        if is_relative and self._tables[0].dtype != qkv.dtype:
            self._tables = [table.to(qkv.dtype) for table in self._tables]
        terms_per_program = (rows + columns) * tile.queries
        # Every program reads its terms soon after it wrote them; the allocator gives each block the same memory.
        terms = torch.empty(
            len(plan) * heads * terms_per_program if is_relative else 0, dtype=torch.float32, device=qkv.device
        )
        attend[(heads, len(plan))](
            qkv,
            mixed,
            plan,
            self._tables[0] if is_relative else qkv,
            self._tables[1] if is_relative else qkv,
            terms,
            stride=qkv.stride(0),
            hidden=config.hidden_size,
            head_dim=config.head_dim,
            width=max(16, triton.next_power_of_2(config.head_dim)),
            rows=rows,
            columns=columns,
            padded=_padded(columns, tile.key_rows),
            queries=tile.queries,
            key_rows=tile.key_rows,
            is_relative=is_relative,
            is_averaged=not layout.is_one_to_one,
            precision=_precision(qkv.dtype),
            num_warps=tile.warps,
            num_stages=tile.stages,
            maxnreg=tile.registers,
            enable_fp_fusion=True,
        )
        return mixed


def _precision(dtype: torch.dtype) -> str:
    """How products are taken: three tensor-core products stand in for a float32 one, to about 1e-6."""
    if triton.knobs.runtime.interpret:
        return "widened"  # the interpreter would multiply the bit patterns of bfloat16
    return "tf32x3" if dtype == torch.float32 else "ieee"


def _padded(columns: int, key_rows: int) -> int:
    """Columns of a key row with padding: a power of two, so that a step has at least 16 keys."""
    return int(max(triton.next_power_of_2(columns), 16 // key_rows, 1))


def _default_tile(config: SegGptConfig) -> Tile:
    padded = _padded(config.grid[1], 1)
    key_rows = 1
    while 2 * key_rows * padded <= 64:
        key_rows *= 2
    return Tile(queries=128, key_rows=key_rows, warps=8, stages=3)


@lru_cache(maxsize=256)
def _plan(layout: Layout, prompt_tokens: int, queries: int, device: torch.device) -> Tensor:
    """(programs, 10) int32 on the device: `plan_rows`, made once per layout."""
    return torch.tensor(plan_rows(layout, prompt_tokens, queries), dtype=torch.int32).to(device)


def _plan_of(layout: Layout, prompt_tokens: int, queries: int, device: torch.device) -> Tensor:
    """The plan, kept for good when a CUDA graph is being recorded: the graph will read its memory again.

    While recording nothing may be copied to the device, so the layout must have run once before.
    """
    plan = _plan(layout, prompt_tokens, queries, device)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _RECORDED[layout, prompt_tokens, queries, device] = plan
    return plan


_RECORDED: dict[tuple[Layout, int, int, torch.device], Tensor] = {}


class Program(NamedTuple):
    """What one program does, per head. Rows count tokens of qkv, or of the result where that is said.

    Args:
        query_row: its first query.
        queries: how many there are.
        place: the first query's place in its canvas.
        result_row: the first query's row in the result.
        input_row: the first row of the input half.
        prompt_row: the first row of the first prompt half.
        split: queries before those of the input half, where a program has some of both halves.
        jump: rows left out at the split.
        result_jump: rows of the result left out at the split.
        prompts: prompt halves; the result is the mean over them.
    """

    query_row: int
    queries: int
    place: int
    result_row: int
    input_row: int
    prompt_row: int
    split: int
    jump: int
    result_jump: int
    prompts: int


def plan_rows(layout: Layout, prompt_tokens: int, queries: int) -> list[Program]:
    """The programs of one call, those with most keys first, so that none of them is the last to start."""
    programs: list[Program] = []
    first = 0
    for group, size in enumerate(layout.group_sizes):
        pairs = range(first, first + size)
        if size == 1:  # the canvas is one row of queries, cut without regard to its halves
            programs += _programs_of_canvas(layout, prompt_tokens, queries, first, group)
        else:
            programs += _programs_of_ensemble(layout, prompt_tokens, queries, pairs, group)
        first += size
    return sorted(programs, key=lambda program: -program.prompts)


def _programs_of_canvas(layout: Layout, prompt_tokens: int, queries: int, pair: int, group: int) -> Iterator[Program]:
    half = layout.half_tokens
    prompt_row, input_row = pair * half, (layout.pairs + group) * half
    result_of_input = layout.pairs * prompt_tokens + group * half
    total = prompt_tokens + half
    for start in range(0, total, queries):
        count, place = min(queries, total - start), half - prompt_tokens + start
        inside = start - prompt_tokens  # of the input half
        if inside >= 0:
            rows = (input_row + inside, count, place, result_of_input + inside)
            yield Program(*rows, input_row, prompt_row, split=queries, jump=0, result_jump=0, prompts=1)
        else:
            rows = (prompt_row + place, count, place, pair * prompt_tokens + start)
            yield Program(
                *rows,
                input_row,
                prompt_row,
                split=-inside,
                jump=input_row - prompt_row - half,
                result_jump=result_of_input - (pair + 1) * prompt_tokens,
                prompts=1,
            )


def _programs_of_ensemble(
    layout: Layout, prompt_tokens: int, queries: int, pairs: range, group: int
) -> Iterator[Program]:
    half = layout.half_tokens
    input_row = (layout.pairs + group) * half
    result_of_input = layout.pairs * prompt_tokens + group * half
    for start in range(0, half, queries):
        rows = (input_row + start, min(queries, half - start), half + start, result_of_input + start)
        yield Program(*rows, input_row, pairs[0] * half, split=queries, jump=0, result_jump=0, prompts=len(pairs))
    for pair in pairs:
        for start in range(0, prompt_tokens, queries):
            place = half - prompt_tokens + start
            rows = (pair * half + place, min(queries, half - place), place, pair * prompt_tokens + start)
            yield Program(*rows, input_row, pair * half, split=queries, jump=0, result_jump=0, prompts=1)
