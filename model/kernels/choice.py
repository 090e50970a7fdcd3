"""Which attention kernel runs on this device: the fastest of those that compute the right thing here.

A kernel that does not compile, or does not agree with the plain float32 computation, is left out with a warning: the
service then runs, slower, instead of not at all or wrongly.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from model.config import SegGptConfig
from model.encoder import AttentionKernel
from model.kernels.extended_attention import ExtendedAttention
from model.layout import Layout

logger = logging.getLogger(__name__)

# Relative rms error against float32, of attention alone, on random numbers. Measured ones are about a third of these.
LIMITS = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
_TIMED_PAIRS = (1, 8)
_REPEATS = 10


class Kernel(AttentionKernel, Protocol):
    """An attention kernel that can make that of another block."""

    def like(self, rel_pos_h: Tensor | None, rel_pos_w: Tensor | None) -> Kernel:
        """The same kernel for another block's tables."""


def choose_attention(
    config: SegGptConfig,
    rel_pos_h: Tensor | None,
    rel_pos_w: Tensor | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Kernel:
    """The fastest right kernel, at this network's size, in this precision, on this device.

    Args:
        config: sizes.
        rel_pos_h: (2 * rows - 1, head_dim) row distances of any block; None without relative positions.
        rel_pos_w: (2 * columns - 1, head_dim) column distances of that block.
        device: a GPU; elsewhere the first right one is taken, untimed.
        dtype: of queries, keys and values.

    Raises:
        RuntimeError: no kernel is right here.
    """
    of_rows, of_columns = (
        None if table is None else table.detach().to(device, dtype) for table in (rel_pos_h, rel_pos_w)
    )
    best: tuple[float, Kernel] | None = None
    for kernel in candidates(config, of_rows, of_columns, device):
        try:
            error = worst_error(kernel, config, of_rows, of_columns, device, dtype)
            if not error <= LIMITS[dtype]:  # a NaN is not right either
                logger.warning("attention %s is wrong here: relative rms %.1e in %s", kernel.name, error, dtype)
                continue
            score = _score(kernel, config, device, dtype)
        except Exception as failure:  # a compiler's, a launch's, memory's: whatever it is, the next kernel may do
            logger.warning("attention %s does not run here: %s", kernel.name, failure)
            continue
        logger.info("attention %s: relative rms %.1e, %.3f ms per pair", kernel.name, error, score)
        if best is None or score < best[0]:
            best = score, kernel
        if device.type != "cuda":
            break
    if best is None:
        raise RuntimeError(f"no attention kernel is right on {device} in {dtype}; the log names each one's fault")
    return best[1]


def candidates(
    config: SegGptConfig, rel_pos_h: Tensor | None, rel_pos_w: Tensor | None, device: torch.device
) -> Iterator[Kernel]:
    """Every kernel that can be tried on this device, the most likely first."""
    if device.type == "cuda":
        try:
            from model.kernels.triton_attention import TritonAttention, tiles  # noqa: PLC0415  # not on every platform
        except ImportError as missing:
            logger.warning("attention triton cannot be had here: %s", missing)
        else:
            for tile in tiles(config):
                yield TritonAttention(config, rel_pos_h, rel_pos_w, tile)
    for is_halved in (True, False):
        yield ExtendedAttention(config, rel_pos_h, rel_pos_w, is_halved)


def explicit_attention(
    config: SegGptConfig,
    rel_pos_h: Tensor | None,
    rel_pos_w: Tensor | None,
    qkv: Tensor,
    layout: Layout,
    prompt_tokens: int,
) -> Tensor:
    """What every kernel must give, in float32 from the definition, one head at a time: (T', hidden_size)."""
    rows, columns = config.grid
    place = torch.arange(rows * columns, device=qkv.device)
    row, column = place // columns, place % columns
    canvases = layout.canvases(qkv.float()).unflatten(-1, (3, config.num_attention_heads, -1))
    mixed = torch.empty_like(canvases[:, :, 0])  # (pairs, tokens, heads, head_dim)
    for head in range(config.num_attention_heads):
        q, k, v = canvases[:, :, :, head].unbind(2)
        logits = q @ k.transpose(1, 2) * config.head_dim**-0.5
        if rel_pos_h is not None and rel_pos_w is not None:
            of_row, of_column = q @ rel_pos_h.float().T, q @ rel_pos_w.float().T  # per distance
            logits += of_row.gather(2, (row[:, None] - row + rows - 1).expand_as(logits))
            logits += of_column.gather(2, (column[:, None] - column + columns - 1).expand_as(logits))
        mixed[:, :, head] = logits.softmax(dim=-1) @ v
    flat = mixed.flatten(2)
    half = layout.half_tokens
    return torch.cat(
        (flat[:, half - prompt_tokens : half].flatten(0, 1), layout.mean_of_group(flat[:, half:]).flatten(0, 1))
    )


def worst_error(
    kernel: Kernel,
    config: SegGptConfig,
    rel_pos_h: Tensor | None,
    rel_pos_w: Tensor | None,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """The largest relative rms error over lone pairs, ensembles, and the last block's few queries."""
    errors = []
    columns = config.grid[1]
    for sizes in ((1, 1), (2, 1)):
        layout = layout_of(config, sizes)
        qkv = draw(config, layout, device, dtype)
        for prompt_tokens in (layout.half_tokens, columns):
            wanted = explicit_attention(config, rel_pos_h, rel_pos_w, qkv, layout, prompt_tokens)
            got = kernel(qkv, layout, prompt_tokens).float()
            errors.append(float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()))
    # max() would pass over a NaN that is not the first
    return max(errors) if all(error == error for error in errors) else float("nan")  # noqa: PLR0124  # the NaN test


def layout_of(config: SegGptConfig, group_sizes: tuple[int, ...]) -> Layout:
    """A layout with whole prompt halves."""
    half = config.grid[0] * config.grid[1] // 2
    return Layout(group_sizes, half_tokens=half, prompt_tokens=half)


def draw(config: SegGptConfig, layout: Layout, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(T, 3 * hidden_size) random queries, keys and values."""
    tokens = (layout.pairs + layout.groups) * layout.half_tokens
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(tokens, 3 * config.hidden_size, generator=generator, device=device).to(dtype)


def _score(kernel: Kernel, config: SegGptConfig, device: torch.device, dtype: torch.dtype) -> float:
    """Milliseconds per pair, summed over a small and a large batch."""
    if device.type != "cuda":
        return 0.0
    score = 0.0
    for pairs in _TIMED_PAIRS:
        layout = layout_of(config, (1,) * pairs)
        qkv = draw(config, layout, device, dtype)
        score += replay_ms(lambda: kernel(qkv, layout, layout.half_tokens)) / pairs  # noqa: B023  # called at once
    return score


def replay_ms(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Median milliseconds of `work` on the current GPU as a CUDA graph, which is how it will run."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = []
    for _ in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return float(statistics.median(times[2:]))
