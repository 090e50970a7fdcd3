"""A network on its device as a service runs it: uint8 pixels in, uint8 answers out, the same calls on any device.

On a GPU it is `model.forward` with CUDA graphs and pinned buffers, on a CPU the network as `model.inference` prepared
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.colours import levels, normalise
from model.cuda import Captured, kinds_of, prepare
from model.encoder import MaskStream
from model.forward import AnswerForward
from model.inference import Mode, Precision, optimise
from model.seggpt import SegGptForImageSegmentation
from model.transfers import Fetched, Fetching, Moment, Staged, Staging


@dataclass(frozen=True)
class Painted:
    """The answers of one batch, on the device; reading them waits for it.

    Args:
        finite: (groups,) bool: whether all of an answer's numbers are.
        levels: (groups, H, W, 4) uint8, the painted RGB and its mean; a mean of more than 127 is foreground at a
            threshold of 0.5.
    """

    finite: Tensor
    levels: Tensor


@dataclass(frozen=True)
class _Gpu:
    forward: AnswerForward
    captured: Captured
    staging: Staging
    fetching: Fetching


class Runner:
    """One network on one device. Not for several threads at once.

    Args:
        model: loaded, in eval, on its device; prepared here, in place, so give it in its best precision.
        precision: of products: "float32", "bfloat16", "float16", or on a CPU "int8".

    Raises:
        ValueError: there is no such precision on this device.
        RuntimeError: nothing computes the right attention here.
    """

    def __init__(self, model: SegGptForImageSegmentation, precision: Precision) -> None:
        self._model = model.requires_grad_(False)
        self.device = model.device
        self._gathered = torch.empty(0, dtype=torch.uint8)
        self._gpu: _Gpu | None = None
        if self.device.type == "cuda":
            prepared = prepare(model, precision)
            captured = Captured(prepared.forward, self.device)
            self._gpu = _Gpu(prepared.forward, captured, Staging(self.device), Fetching(self.device))
            #: What computes.
            self.mode = Mode(precision, prepared.attention, "cublas")
        else:
            self.mode = optimise(model, precision)

    @property
    def forward(self) -> AnswerForward | None:
        """The forward pass on a GPU; None on a CPU."""
        return None if self._gpu is None else self._gpu.forward

    @property
    def batches_at_once(self) -> int:
        """How many batches are worth beginning before the first is read: a GPU computes one beside the host's work."""
        return 1 if self._gpu is None else 2

    @property
    def captured(self) -> tuple[int, ...]:
        """Numbers of pairs that have a CUDA graph."""
        return () if self._gpu is None else self._gpu.captured.buckets

    def capture(self, pairs: int) -> None:
        """Record batches of so many lone pairs, on a GPU; nothing to do on a CPU.

        It takes a few forwards' time and may be done between batches, long after the first answer.

        Raises:
            torch.OutOfMemoryError: there is no room; batches of this size go on without a graph.
        """
        if self._gpu is not None:
            self._gpu.captured.capture(pairs)

    def stage(self, pixels: Tensor, cells: Sequence[int]) -> Staged:
        """Gather some rows of (all, H, W, 3) uint8 pixels in host memory, and have them brought to the device.

        On a GPU the host waits for no more than the copy of the batch before last, so the next batch can be staged
        while the present one is computed. On a CPU the result is valid until the next call.
        """
        if self._gpu is not None:
            return self._gpu.staging.copy(pixels, cells)
        started = self.now()
        if len(cells) > len(self._gathered):
            self._gathered = torch.empty(len(cells), *pixels.shape[1:], dtype=torch.uint8)
        gathered = self._gathered[: len(cells)]
        torch.index_select(pixels, 0, torch.tensor(cells), out=gathered)
        return Staged(gathered, started, self.now())

    @torch.inference_mode()
    def mask_stream(self, masks: Tensor, embedding_types: Sequence[str], group_sizes: Sequence[int]) -> MaskStream:
        """What the network makes of prompt masks before it sees any picture.

        Args:
            masks: (pairs, H, W, 3) uint8 on the device.
            embedding_types: "instance" or "semantic", per group.
            group_sizes: pairs of each group.

        Raises:
            ValueError: an embedding type is unknown, or sizes do not fit together.
        """
        if self._gpu is None:
            return self._model.model.mask_stream(normalise(masks), list(embedding_types), list(group_sizes))
        layout = self._gpu.forward.layout(tuple(group_sizes))
        kinds = kinds_of(tuple(embedding_types), self.device)
        return MaskStream(self._gpu.forward.mask_stream(masks, layout, kinds), layout)

    @torch.inference_mode()
    def paint(
        self, pixels: Tensor, embedding_types: Sequence[str], group_sizes: Sequence[int], mask_stream: MaskStream
    ) -> Painted:
        """Answer one batch. On a GPU the work is enqueued and the host does not wait.

        Args:
            pixels: (groups + pairs, H, W, 3) uint8 on the device: the input images, then the prompt images.
            embedding_types: "instance" or "semantic", per group.
            group_sizes: pairs of each group.
            mask_stream: of these groups, in their order.

        Raises:
            ValueError: an embedding type is unknown, or sizes do not fit together.
        """
        if self._gpu is not None:
            layout = self._gpu.forward.layout(tuple(group_sizes))
            if mask_stream.layout != layout:
                raise ValueError(f"mask_stream is of groups {mask_stream.layout.group_sizes}, not {layout.group_sizes}")
            kinds = kinds_of(tuple(embedding_types), self.device)
            return Painted(*self._gpu.captured.run(pixels, kinds, layout, mask_stream.tokens))
        inputs, prompts = normalise(pixels).split([len(group_sizes), sum(group_sizes)])
        pred_masks = self._model(
            inputs,
            prompts,
            embedding_type=list(embedding_types),
            group_sizes=list(group_sizes),
            answer_only=True,
            mask_stream=mask_stream,
        ).pred_masks
        return Painted(*levels(pred_masks))

    def fetch(self, painted: Painted) -> Fetched:
        """Have answers brought to the host. On a GPU that is enqueued beside later work, and the host does not wait."""
        if self._gpu is None:
            return Fetched(painted.finite, painted.levels, self.now())
        (finite, levels), arrived = self._gpu.fetching.copy(painted.finite, painted.levels)
        return Fetched(finite, levels, arrived)

    def now(self) -> Moment:
        """When what the device was given to compute so far is done."""
        return Moment(None if self._gpu is None else torch.cuda.current_stream(self.device))

    def synchronise(self) -> None:
        """Wait until the device has done all that it was given."""
        if self._gpu is not None:
            torch.cuda.synchronize(self.device)
