"""The network on an NVIDIA GPU: prepared, recorded as CUDA graphs.

A graph has fixed sizes, so there is one for each of a few numbers of pairs, all of them groups of one example; what
varies between batches (pixels, embedding types, mask streams) is data in the graph's own buffers. Other batches run the
same forward without a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from model.encoder import SegGptLayer
from model.forward import EMBEDDING_TYPES, AnswerForward
from model.kernels.choice import choose_attention
from model.layout import Layout
from model.seggpt import SegGptForImageSegmentation

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A batch may be filled up to a graph's size with this share of pairs that nobody asked for. Beyond it the launches
# that a graph saves cost less than the pairs.
_MOST_PADDING = 1 / 8


@dataclass(frozen=True)
class Prepared:
    """A network on a GPU, ready to answer.

    Args:
        forward: its forward pass.
        attention: the name of the attention kernel.
    """

    forward: AnswerForward
    attention: str


@torch.inference_mode()
def prepare(model: SegGptForImageSegmentation, precision: str) -> Prepared:
    """Choose the attention kernel, cast the weights in place, sum the constants.

    Args:
        model: in eval, on a GPU. It works as before afterwards, with the chosen kernel; it cannot be trained.
        precision: "float32", "bfloat16" or "float16": of matrix products.

    Raises:
        ValueError: there is no such precision on a GPU.
        RuntimeError: no attention kernel is right on this GPU.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision is {precision!r}; on a GPU it must be one of {', '.join(DTYPES)}")
    dtype = DTYPES[precision]
    config = model.config
    blocks = [layer.attention for layer in model.model.encoder.layers if isinstance(layer, SegGptLayer)]
    tables = [
        (block.rel_pos_h.to(dtype), block.rel_pos_w.to(dtype)) if block.is_relative else (None, None)
        for block in blocks
    ]
    chosen = choose_attention(config, tables[0][0], tables[0][1], model.device, dtype)
    kernels = [chosen.like(*own) for own in tables]
    for block, kernel in zip(blocks, kernels, strict=True):
        block.kernel = kernel
    return Prepared(AnswerForward(model, dtype, kernels), chosen.name)


@lru_cache(maxsize=1024)
def kinds_of(embedding_types: tuple[str, ...], device: torch.device) -> Tensor:
    """(groups,) int64 on the device: each group's index into EMBEDDING_TYPES.

    Raises:
        ValueError: an embedding type is unknown.
    """
    unknown = sorted(set(embedding_types) - set(EMBEDDING_TYPES))
    if unknown:
        raise ValueError(f"embedding_type is {unknown[0]!r}; it must be one of {', '.join(EMBEDDING_TYPES)}")
    kinds = torch.tensor([EMBEDDING_TYPES.index(kind) for kind in embedding_types])
    if device.type == "cuda":
        # From memory that is not pinned the host would wait for everything that was enqueued before.
        return kinds.pin_memory().to(device, non_blocking=True)
    return kinds


def bucket_for(pairs: int, buckets: Sequence[int]) -> int | None:
    """The recorded size that a batch of lone pairs should run in; None if it should run without a graph.

    Args:
        pairs: of the batch.
        buckets: sizes that are recorded.
    """
    fitting = [bucket for bucket in buckets if bucket >= pairs]
    if not fitting or (min(fitting) - pairs) / pairs > _MOST_PADDING:
        return None
    return min(fitting)


@dataclass(frozen=True)
class _Recording:
    """One graph, and the memory that it reads and writes at every replay."""

    graph: torch.cuda.CUDAGraph
    layout: Layout
    pixels: Tensor
    kinds: Tensor
    stream: Tensor
    finite: Tensor
    levels: Tensor


class Captured:
    """The forward pass of one network as CUDA graphs, by number of pairs.

    Args:
        forward: what to record.
        device: its GPU.
    """

    def __init__(self, forward: AnswerForward, device: torch.device) -> None:
        self._forward = forward
        self._device = device
        self._recordings: dict[int, _Recording] = {}
        # Graphs run one after another and their answers are copied out between them, so they can share memory.
        self._pool = torch.cuda.graph_pool_handle()

    @property
    def buckets(self) -> tuple[int, ...]:
        """The sizes that are recorded, smallest first."""
        return tuple(sorted(self._recordings))

    @torch.inference_mode()
    def capture(self, pairs: int) -> None:
        """Record the forward of so many lone pairs. It takes a few forwards' time; nothing else may run meanwhile.

        Raises:
            torch.OutOfMemoryError: it does not fit; what was recorded before still runs.
        """
        if pairs in self._recordings:
            return
        height, width = self._forward.config.half_size
        layout = self._forward.layout((1,) * pairs)
        pixels = torch.zeros(2 * pairs, height, width, 3, dtype=torch.uint8, device=self._device)
        kinds = torch.zeros(pairs, dtype=torch.int64, device=self._device)
        stream = torch.zeros(2 * pairs * layout.half_tokens, self._forward.config.hidden_size, device=self._device)
        # What allocates, compiles or copies from the host on first use does so before the recording.
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._forward.levels(self._forward.answers(pixels, layout, kinds, stream))
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            finite, levels = self._forward.levels(self._forward.answers(pixels, layout, kinds, stream))
        self._recordings[pairs] = _Recording(graph, layout, pixels, kinds, stream, finite, levels)

    @torch.inference_mode()
    def run(self, pixels: Tensor, kinds: Tensor, layout: Layout, stream: Tensor) -> tuple[Tensor, Tensor]:
        """Answer one batch, by a graph if one fits, enqueued on the current stream.

        Args:
            pixels: (groups + pairs, H, W, 3) uint8 on the GPU: input images, then prompt images.
            kinds: (groups,) int64 on the GPU: indices into EMBEDDING_TYPES.
            layout: pairs and groups.
            stream: (T, hidden_size) float32, the mask stream.

        Returns:
            (groups,) bool, which answers are finite, and (groups, H, W, 4) uint8, their levels; the caller's own.
        """
        bucket = bucket_for(layout.pairs, self.buckets) if layout.is_one_to_one else None
        if bucket is None:
            return self._forward.levels(self._forward.answers(pixels, layout, kinds, stream))
        recording = self._recordings[bucket]
        fill(recording.pixels, recording.stream, recording.layout, pixels, stream, layout)
        recording.kinds[: layout.pairs].copy_(kinds)
        recording.graph.replay()
        # Copies: the next replay writes over these.
        return recording.finite[: layout.pairs].clone(), recording.levels[: layout.pairs].clone()


def fill(
    target_pixels: Tensor, target_stream: Tensor, target: Layout, pixels: Tensor, stream: Tensor, layout: Layout
) -> None:
    """Put a batch of lone pairs into the buffers of a larger one; the pairs behind it keep what they had."""
    count = layout.pairs
    inputs, prompts = target_pixels.chunk(2)
    inputs[:count].copy_(pixels[:count])
    prompts[:count].copy_(pixels[count:])
    for whole, part in zip(target.halves(target_stream), layout.halves(stream), strict=True):
        whole[:count].copy_(part)
