"""The device: the only code that puts the network and pixels on it. Runs in the worker process.

Knows cells and tensors; knows nothing of sockets, queues or requests.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from app.worker.buckets import Buckets
from app.worker.cells import CellMemory
from app.worker.messages import Configure, GroupCells, GroupRun, Status
from app.worker.prompts import PromptStreams
from model.checkpoint import Checkpoint, CheckpointError, load
from model.encoder import MaskStream
from model.inference import Mode, Precision, native_precision
from model.runner import Painted, Runner
from model.seggpt import SegGptForImageSegmentation
from model.transfers import Fetched, Moment, Staged

# A warm-up forward is repeated, unless it takes longer than this.
_WARM_UPS = 3
_LONG_MS = 1000.0


class LoadError(RuntimeError):
    """The checkpoint cannot be served; the message is one line for the operator."""


@dataclass(frozen=True)
class _Begun:
    """What the device does for one batch: when what is done, and the answers on their way."""

    known_prompts: int
    staged: Moment
    copied: Moment
    started: Moment
    painted: Moment
    fetched: Fetched


@dataclass(frozen=True)
class Pending:
    """A batch between `Engine.begin` and `Engine.finish`.

    Args:
        groups: its groups.
        begun: None if memory did not suffice.
    """

    groups: Sequence[GroupRun]
    begun: _Begun | None

    @property
    def is_computed(self) -> bool:
        """Whether `finish` would not wait for the device."""
        return self.begun is None or self.begun.fetched.arrived.has_come


@dataclass(frozen=True)
class BatchResult:
    """Per group what came of it, and what the whole batch took."""

    statuses: tuple[Status, ...]
    known_prompts: int
    copy_ms: float
    forward_ms: float
    postprocess_ms: float


class Engine:
    """A network on its device.

    Args:
        setup: what to load and where.
        memory: the cells that groups name.

    Raises:
        LoadError: the checkpoint, the device or the data type cannot be had.
    """

    def __init__(self, setup: Configure, memory: CellMemory) -> None:
        self._memory = memory
        self._pixels = torch.from_numpy(memory.pixels)
        self._device = _device(setup.device)
        self._source = setup.checkpoint["source"]
        self._on_cuda = self._device.type == "cuda"
        if self._on_cuda:
            torch.cuda.set_device(self._device)
            torch.backends.cudnn.allow_tf32 = False  # float32 was asked for by name: it means float32
        else:
            torch.set_num_threads(setup.threads)
        model = _load(setup, self._device, memory.shape)
        #: How many numbers the network has.
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self._runner = _prepared(model, setup.dtype)
        #: How many batches may be begun before the first of them is finished.
        self.batches_at_once = self._runner.batches_at_once
        self._prompts = PromptStreams(setup.prompt_cache_bytes)
        self.buckets = Buckets(setup.max_batch_pairs, setup.warmup_limit_s * 1000)

    @property
    def mode(self) -> Mode:
        """What computes: the precision, and which kernels."""
        return self._runner.mode

    @property
    def device_name(self) -> str:
        """What its maker calls the device."""
        return torch.cuda.get_device_name(self._device) if self._on_cuda else _processor_name()

    def warm_up(self) -> float | None:
        """Run a batch of made pixels of the next bucket's size and let `buckets` decide about it.

        Returns:
            Milliseconds of the forward; None if this bucket is not used now.

        Raises:
            LoadError: the first bucket does not fit, or its answer is not finite.
        """
        bucket = self.buckets.next
        assert bucket is not None, "every bucket is warm"
        forward_ms = self._attempt_warm_up(bucket)
        if bucket == 1 and forward_ms is None:
            raise LoadError(f"{self._source} does not fit into the memory of {self._device}: one pair is too much")
        self.buckets.note_warm_up(bucket, forward_ms)
        if self.buckets.largest < bucket:
            self._free_memory()
            return None
        self._capture(bucket)
        return forward_ms

    def begin(self, groups: Sequence[GroupRun]) -> Pending:
        """Give one batch to the device, to be finished in the order of beginning. A GPU is not waited for."""
        return Pending(groups, self._attempt(groups))

    def finish(self, pending: Pending) -> BatchResult:
        """Wait for a batch and write the answers of the groups that are "done" into their planes.

        One that found too little memory is run now, and nothing beside it: what was begun before is finished, and the
        memory of what was begun later is waited for.
        """
        if pending.begun is not None:
            return self._write(pending.groups, pending.begun)
        self._make_room()
        return self.run(pending.groups)

    def run(self, groups: Sequence[GroupRun]) -> BatchResult:
        """Begin and finish one batch.

        If the device's memory does not suffice, the batch is halved by groups until it does; a single group that
        does not fit is "out-of-memory" and the others have their answers.
        """
        begun = self._attempt(groups)
        if begun is not None:
            return self._write(groups, begun)
        self._make_room()
        if len(groups) == 1:
            return BatchResult(("out-of-memory",), 0, 0.0, 0.0, 0.0)
        middle = len(groups) // 2
        parts = [self.run(groups[:middle]), self.run(groups[middle:])]
        return BatchResult(
            statuses=parts[0].statuses + parts[1].statuses,
            known_prompts=sum(part.known_prompts for part in parts),
            copy_ms=sum(part.copy_ms for part in parts),
            forward_ms=sum(part.forward_ms for part in parts),
            postprocess_ms=sum(part.postprocess_ms for part in parts),
        )

    def is_poisoned(self) -> bool:
        """Whether the device context is beyond recovery, so that every later call in this process would fail too."""
        if self._on_cuda:
            try:
                torch.cuda.synchronize(self._device)
            except RuntimeError:
                return True
        return False

    def _attempt(self, groups: Sequence[GroupRun]) -> _Begun | None:
        """Begin one forward of `groups`; None if memory did not suffice.

        It returns before anything is tried again: while an exception is handled, its traceback keeps the tensors
        of the failed forward alive.
        """
        try:
            return self._begin(groups)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _capture(self, bucket: int) -> None:
        """Record what can be recorded; what does not fit into memory goes on without."""
        try:
            self._runner.capture(bucket)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise

    def _attempt_warm_up(self, bucket: int) -> float | None:
        """The milliseconds of a forward, None if memory did not suffice."""
        pixels = torch.randint(0, 256, (3 * bucket, *self._pixels.shape[1:]), dtype=torch.uint8)
        groups = [GroupRun(GroupCells(0, ((0, 0),)), "instance", None)] * bucket
        try:
            # The first forward of a size also loads kernels and grows pools; the later ones are the usual ones.
            took_ms: list[float] = []
            while len(took_ms) < _WARM_UPS and max(took_ms, default=0.0) < _LONG_MS:
                started = time.perf_counter()
                painted = self._forward(pixels.to(self._device), groups, groups)
                self._runner.synchronise()
                took_ms.append(_since_ms(started))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        if not all(painted.finite.tolist()):
            raise LoadError(
                f"{self._source} gives answers that are not finite numbers in {self.mode.precision};"
                " the weights are damaged or need another SEGGPT_DTYPE"
            )
        return min(took_ms)

    @torch.inference_mode()
    def _begin(self, groups: Sequence[GroupRun]) -> _Begun:
        missing = self._prompts.missing(groups)
        staged = self._gather(groups, missing)
        pixels = staged.ready()
        started = self._runner.now()
        answer = self._forward(pixels, groups, missing)
        painted = self._runner.now()
        # Nothing of this holds the device's memory: when the device has gone past it, it can be used again.
        return _Begun(
            known_prompts=len(groups) - len(missing),
            staged=staged.started,
            copied=staged.copied,
            started=started,
            painted=painted,
            fetched=self._runner.fetch(answer),
        )

    def _write(self, groups: Sequence[GroupRun], begun: _Begun) -> BatchResult:
        """Wait for the answers and write them into their planes."""
        fetched = begun.fetched
        fetched.arrived.wait()
        waited = time.perf_counter()
        statuses: list[Status] = []
        for group, is_finite, levels in zip(groups, fetched.finite.tolist(), fetched.levels.numpy(), strict=True):
            statuses.append("done" if is_finite else "not-finite")
            if is_finite:
                self._memory.answers[group.cells.input_cell] = levels
            else:
                self._prompts.forget(group)
        # By the device's clock: a batch that waited there for the one before it counts its own forward only.
        forward_ms = begun.painted.ms_since(begun.started)
        self.buckets.note_batch(sum(group.cells.pairs for group in groups), forward_ms)
        return BatchResult(
            statuses=tuple(statuses),
            known_prompts=begun.known_prompts,
            copy_ms=begun.copied.ms_since(begun.staged),
            forward_ms=forward_ms,
            postprocess_ms=fetched.arrived.ms_since(begun.painted) + _since_ms(waited),
        )

    def _gather(self, groups: Sequence[GroupRun], missing: Sequence[GroupRun]) -> Staged:
        """Pixels for the device: inputs, prompt images, then the masks of `missing`; (count, h, w, 3) uint8."""
        cells = [group.cells.input_cell for group in groups]
        cells += [image for group in groups for image, _ in group.cells.examples]
        cells += [mask for group in missing for _, mask in group.cells.examples]
        return self._runner.stage(self._pixels, cells)

    def _forward(self, pixels: Tensor, groups: Sequence[GroupRun], missing: Sequence[GroupRun]) -> Painted:
        """Answer `_gather`'s pixels. The mask streams of `missing` are computed on the way."""
        kinds, sizes = _kinds_and_sizes(groups)
        shown = len(groups) + sum(sizes)

        def mask_streams(computed: Sequence[GroupRun]) -> MaskStream:
            assert list(computed) == list(missing), "the masks that were gathered are those that are missing"
            return self._runner.mask_stream(pixels[shown:], *_kinds_and_sizes(computed))

        return self._runner.paint(pixels[:shown], kinds, sizes, self._prompts.of(groups, mask_streams))

    def _make_room(self) -> None:
        """Give up what is kept of prompts, and all memory that is not in use."""
        self._prompts.clear()
        self._free_memory()

    def _free_memory(self) -> None:
        self._runner.synchronise()  # what copies still read is in use until then
        gc.collect()
        if self._on_cuda:
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory did not suffice, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The host's allocator has no exception type of its own.
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("can't allocate memory", "not enough memory")
    )


def _processor_name() -> str:
    cpu_info = Path("/proc/cpuinfo")
    for line in cpu_info.read_text().splitlines() if cpu_info.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise LoadError(f"device {name} is not there; this machine shows {count} CUDA devices")
    return device


def _load(setup: Configure, device: torch.device, cell_shape: tuple[int, int]) -> SegGptForImageSegmentation:
    checkpoint = Checkpoint.from_dict(setup.checkpoint)
    assert checkpoint.config.half_size == cell_shape, f"cells of {cell_shape} for {checkpoint.config.half_size}"
    try:
        model = load(checkpoint, device=device)
    except CheckpointError as error:
        raise LoadError(str(error)) from error
    return model.eval()


def _prepared(model: SegGptForImageSegmentation, dtype: str) -> Runner:
    device = model.device
    try:
        return Runner(model, native_precision(device) if dtype == "auto" else cast(Precision, dtype))
    except ValueError as error:
        raise LoadError(f"SEGGPT_DTYPE is {dtype!r}, which {device} cannot do: {error}") from error


def _kinds_and_sizes(groups: Sequence[GroupRun]) -> tuple[list[str], list[int]]:
    return [group.embedding_type for group in groups], [group.cells.pairs for group in groups]
