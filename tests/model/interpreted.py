"""`python -m tests.model.interpreted`: the Triton kernels in Triton's interpreter, beside plain torch.

A process of its own, because Triton decides when it is imported whether it compiles or interprets. Prints the relative
rms error of every case as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import SegGptConfig
from model.layout import Layout

# queries, key rows, warps, stages of a program; the last two mean nothing to the interpreter
Cut = tuple[int, int, int, int]


@dataclass(frozen=True)
class Case:
    """One call of the attention kernel."""

    grid: tuple[int, int]
    heads: int
    head_dim: int
    group_sizes: tuple[int, ...]
    dtype: str = "float32"
    is_relative: bool = True
    is_last_block: bool = False
    cut: Cut | None = None
    is_poisoned: bool = False

    @property
    def prompt_tokens(self) -> int:
        rows, columns = self.grid
        return columns if self.is_last_block else rows * columns // 2

    @property
    def config(self) -> SegGptConfig:
        return SegGptConfig(
            hidden_size=self.heads * self.head_dim,
            num_attention_heads=self.heads,
            image_size=(self.grid[0] * 16, self.grid[1] * 16),
            use_relative_position_embeddings=self.is_relative,
        )


ATTENTION = {
    "ViT-L's grid, last block": Case((56, 28), 1, 64, (1,), is_last_block=True),
    "the bundled checkpoint's grid": Case((24, 12), 2, 48, (1, 1, 1)),
    "the bundled checkpoint's grid, ensemble, bfloat16": Case((24, 12), 2, 48, (2, 1), "bfloat16"),
    "ensembles beside a lone pair": Case((12, 8), 2, 16, (2, 1, 5)),
    "ensembles in the last block": Case((12, 8), 1, 16, (2, 1, 5), is_last_block=True),
    "ensembles, float16": Case((12, 8), 1, 16, (2, 1, 5), "float16"),
    "without positions": Case((12, 8), 2, 16, (1, 1, 1), is_relative=False),
    "without positions, ensembles": Case((24, 12), 1, 48, (2, 1, 5), is_relative=False, is_last_block=True),
    "odd halves, columns that fill no power of two": Case((6, 5), 3, 24, (1, 2)),
    "several programs per half": Case((12, 8), 2, 16, (2, 1), cut=(16, 2, 4, 2)),
    "one key row per step": Case((12, 8), 1, 16, (1, 1), cut=(64, 1, 4, 2)),
    "half a step over": Case((12, 8), 1, 16, (1, 1), cut=(32, 4, 4, 2)),
    "a column": Case((8, 1), 1, 16, (1, 2)),
    "a poisoned neighbour": Case((12, 8), 2, 16, (2, 1, 2), is_poisoned=True),
}
POINTWISE = ("norm", "add and norm", "merge and norm", "paint")
TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}


def relative_rms(got: Tensor, wanted: Tensor) -> float:
    """As the tests' own, whose module imports too much for a process that is started anew."""
    assert got.shape == wanted.shape
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def explicit(case: Case, qkv: Tensor, tables: tuple[Tensor, Tensor] | None, layout: Layout) -> Tensor:
    """Softmax of the definition's logits, in float32: (T', hidden_size)."""
    rows, columns = case.grid
    q, k, v = (
        layout.canvases(part).unflatten(-1, (case.heads, -1)).transpose(1, 2) for part in qkv.float().chunk(3, dim=1)
    )
    logits = q @ k.transpose(2, 3) * case.head_dim**-0.5
    if tables is not None:
        place = torch.arange(rows * columns)
        row, column = place // columns, place % columns
        for table, where, count in zip(tables, (row, column), case.grid, strict=True):
            of_pair = table.float()[where[:, None] - where[None, :] + count - 1]  # (queries, keys, head_dim)
            logits += torch.einsum("phqd,qkd->phqk", q, of_pair)
    mixed = (logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    half = layout.half_tokens
    return torch.cat(
        (
            mixed[:, half - case.prompt_tokens : half].flatten(0, 1),
            torch.cat([part.mean(dim=0) for part in mixed[:, half:].split(layout.group_sizes)]),
        )
    )


def attention_error(case: Case) -> float:
    from model.kernels.triton_attention import Tile, TritonAttention

    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)
    half = case.grid[0] * case.grid[1] // 2
    layout = Layout(case.group_sizes, half, half)
    tokens = (layout.pairs + layout.groups) * half
    qkv = torch.randn(tokens, 3 * case.config.hidden_size, generator=generator).to(dtype)
    tables = tuple(
        (torch.randn(2 * side - 1, case.head_dim, generator=generator) * 0.3).to(dtype) for side in case.grid
    )
    used = tables if case.is_relative else None
    wanted = explicit(case, qkv, used, layout)
    if case.is_poisoned:  # the first pair of the first group
        qkv[:half] = torch.nan
    kernel = TritonAttention(case.config, *(used or (None, None)), case.cut and Tile(*case.cut))
    got = kernel(qkv, layout, case.prompt_tokens).float()
    if case.is_poisoned:
        first, boundary = case.group_sizes[0] * half, layout.pairs * half
        assert got[:half].isnan().any(), "the poisoned prompt half's own answer"
        assert got[boundary : boundary + half].isnan().any(), "its group's"
        got, wanted = (torch.cat((rows[first:boundary], rows[boundary + half :])) for rows in (got, wanted))
    return relative_rms(got, wanted)


def pointwise_error(name: str) -> float:
    from model.kernels import pointwise, triton_pointwise

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if name == "paint":
        features, norm, head = draw(2, 9, 12, 24), (draw(24), draw(24)), (draw(3, 24), draw(3))
        wanted = pointwise.paint(features, norm, 1e-6, head)
        return relative_rms(triton_pointwise.paint(features, norm, 1e-6, head), wanted)
    stream, norm = draw(20, 192), (draw(192), draw(192))
    branch = None if name == "norm" else draw(20, 192)
    merged = draw(20, 192) if name == "merge and norm" else None
    wanted = pointwise.add_norm(stream, branch, norm, 1e-6, torch.float32, merged)
    got = triton_pointwise.add_norm(stream, branch, norm, 1e-6, torch.float32, merged)
    return max(relative_rms(*pair) for pair in zip(got, wanted, strict=True))


def main() -> None:
    assert os.environ.get("TRITON_INTERPRET") == "1"
    torch.set_num_threads(1)
    errors = {name: attention_error(case) for name, case in ATTENTION.items()}
    errors.update({name: pointwise_error(name) for name in POINTWISE})
    json.dump(errors, sys.stdout)


if __name__ == "__main__":
    main()
