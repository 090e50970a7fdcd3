"""The device: the only code that puts the network and pixels on it. Runs in the worker process.

Knows cells and tensors; knows nothing of sockets, queues or requests.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.worker.cells import CellMemory
from app.worker.messages import Configure, GroupRun, Status
from model.checkpoint import Checkpoint, CheckpointError, load
from model.colours import grey, normalise

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoadError(RuntimeError):
    """The checkpoint cannot be served; the message is one line for the operator."""


@dataclass(frozen=True)
class BatchResult:
    """Per group what came of it, and what the whole batch took."""

    statuses: tuple[Status, ...]
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
        self._dtype = _dtype(setup.dtype, self._device)
        self._source = setup.checkpoint["source"]
        self._on_cuda = self._device.type == "cuda"
        if self._on_cuda:
            torch.cuda.set_device(self._device)
            torch.backends.cudnn.allow_tf32 = False  # float32 was asked for by name: it means float32
        else:
            torch.set_num_threads(setup.threads or available_cores())
        self._model = _load(setup, self._dtype, self._device, memory.shape)
        self._staging = torch.empty(0, dtype=torch.uint8)
        self._limit_ms = setup.warmup_limit_s * 1000
        self.max_batch_pairs = 0
        self._most_pairs = setup.max_batch_pairs
        self.next_bucket: int | None = 1

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    @property
    def dtype_name(self) -> str:
        """The data type as the settings name it."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def device_name(self) -> str:
        """What its maker calls the device."""
        return torch.cuda.get_device_name(self._device) if self._on_cuda else _processor_name()

    def warm_up(self) -> float | None:
        """Run a batch of made pixels of the next bucket's size, once, and decide about the buckets after it.

        The first bucket is always used. A larger one that takes longer than the limit, or that does not fit into
        memory, is not, and neither are those after it.

        Returns:
            Milliseconds of the forward; None if this bucket will not be used.

        Raises:
            LoadError: the first bucket does not fit, or its answer is not finite.
        """
        bucket = self.next_bucket
        assert bucket is not None, "every bucket is warm"
        forward_ms = self._attempt_warm_up(bucket)
        if bucket == 1 and forward_ms is None:
            raise LoadError(f"{self._source} does not fit into the memory of {self._device}: one pair is too much")
        if forward_ms is None or (bucket > 1 and forward_ms > self._limit_ms):
            self.next_bucket = None
            self._free_memory()
            return None
        self.max_batch_pairs = bucket
        larger = min(2 * bucket, self._most_pairs)
        self.next_bucket = larger if larger > bucket and forward_ms <= self._limit_ms else None
        return forward_ms

    def run(self, groups: Sequence[GroupRun]) -> BatchResult:
        """Run one batch and write the answers of the groups that are "done" into their planes.

        If the device's memory does not suffice, the batch is halved by groups until it does; a single group that
        does not fit is "out-of-memory" and the others have their answers.
        """
        result = self._attempt(groups)
        if result is not None:
            return result
        self._free_memory()
        if len(groups) == 1:
            return BatchResult(("out-of-memory",), 0.0, 0.0, 0.0)
        middle = len(groups) // 2
        parts = [self.run(groups[:middle]), self.run(groups[middle:])]
        return BatchResult(
            statuses=parts[0].statuses + parts[1].statuses,
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

    def _attempt(self, groups: Sequence[GroupRun]) -> BatchResult | None:
        """One forward of `groups`; None if memory did not suffice.

        It returns before anything is tried again: while an exception is handled, its traceback keeps the tensors
        of the failed forward alive.
        """
        try:
            return self._run(groups)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _attempt_warm_up(self, bucket: int) -> float | None:
        pixels = torch.randint(0, 256, (3 * bucket, *self._pixels.shape[1:]), dtype=torch.uint8)
        sizes, kinds = [1] * bucket, ["instance"] * bucket
        try:
            # A GPU's first forward of a size also loads kernels and grows the pool; the second one is the usual one.
            for _ in range(2 if self._on_cuda else 1):
                started = time.perf_counter()
                finite, _ = self._grey(self._forward(pixels.to(self._device), sizes, kinds))
                self._synchronise()
                forward_ms = _since_ms(started)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        if not all(finite.tolist()):
            raise LoadError(
                f"{self._source} gives answers that are not finite numbers in {self.dtype_name};"
                " the weights are damaged or need another SEGGPT_DTYPE"
            )
        return forward_ms

    @torch.inference_mode()
    def _run(self, groups: Sequence[GroupRun]) -> BatchResult:
        started = time.perf_counter()
        pixels = self._gather(groups)
        self._synchronise()
        copied = time.perf_counter()
        pred_masks = self._forward(
            pixels, [group.cells.pairs for group in groups], [group.embedding_type for group in groups]
        )
        self._synchronise()
        painted = time.perf_counter()
        finite, answers = self._grey(pred_masks)
        statuses: list[Status] = []
        for group, is_finite, answer in zip(groups, finite.tolist(), answers.cpu().numpy(), strict=True):
            statuses.append("done" if is_finite else "not-finite")
            if is_finite:
                self._memory.answers[group.cells.input_cell] = answer
        return BatchResult(
            statuses=tuple(statuses),
            copy_ms=(copied - started) * 1000,
            forward_ms=(painted - copied) * 1000,
            postprocess_ms=_since_ms(painted),
        )

    def _gather(self, groups: Sequence[GroupRun]) -> Tensor:
        """The pixels of `groups` on the device: (G + 2P, h, w, 3) uint8; inputs, then prompt images, then masks."""
        pairs = [pair for group in groups for pair in group.cells.examples]
        cells = [group.cells.input_cell for group in groups]
        cells += [image for image, _ in pairs] + [mask for _, mask in pairs]
        if len(cells) > len(self._staging):
            # Kept for the next batch; pinned, so that the copy to a GPU does not wait for the processor.
            shape = (len(cells), *self._pixels.shape[1:])
            self._staging = torch.empty(shape, dtype=torch.uint8, pin_memory=self._on_cuda)
        staged = self._staging[: len(cells)]
        torch.index_select(self._pixels, 0, torch.tensor(cells), out=staged)
        return staged.to(self._device, non_blocking=True)

    @torch.inference_mode()
    def _forward(self, pixels: Tensor, group_sizes: Sequence[int], embedding_types: Sequence[str]) -> Tensor:
        """`_gather`'s pixels -> (G, 3, h, w) answers, normalised RGB."""
        rows = normalise(pixels, self._dtype)
        inputs, prompts, masks = torch.split(rows, [len(group_sizes), sum(group_sizes), sum(group_sizes)])
        output = self._model(
            inputs,
            prompts,
            masks,
            embedding_type=list(embedding_types),
            group_sizes=list(group_sizes),
            answer_only=True,
        )
        pred_masks: Tensor = output.pred_masks
        return pred_masks

    @torch.inference_mode()
    def _grey(self, pred_masks: Tensor) -> tuple[Tensor, Tensor]:
        """Which answers are finite, (G,) bool, and the answers, (G, h, w) uint8."""
        finite = torch.isfinite(pred_masks).flatten(1).all(dim=1)
        values = torch.nan_to_num(grey(pred_masks))
        # Half rounds down: "mean > 127.5", the reference's rule for one class, is then exactly "uint8 > 127".
        return finite, torch.ceil(values - 0.5).clamp(0, 255).to(torch.uint8)

    def _synchronise(self) -> None:
        if self._on_cuda:
            torch.cuda.synchronize(self._device)

    def _free_memory(self) -> None:
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


def available_cores() -> int:
    """Cores that this process may use: by affinity and by the container's quota, at least 1.

    Torch's own default counts the machine's cores, which a container with a quota does not have.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    if quota_file.is_file():
        quota, period = quota_file.read_text().split()
        if quota != "max":
            cores = min(cores, round(int(quota) / int(period)))
    return max(1, min(cores, torch.get_num_threads()))


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


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return _DTYPES[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _load(setup: Configure, dtype: torch.dtype, device: torch.device, cell_shape: tuple[int, int]) -> torch.nn.Module:
    checkpoint = Checkpoint.from_dict(setup.checkpoint)
    assert checkpoint.config.half_size == cell_shape, f"cells of {cell_shape} for {checkpoint.config.half_size}"
    try:
        model: torch.nn.Module = load(checkpoint, dtype=dtype, device=device)
    except CheckpointError as error:
        raise LoadError(str(error)) from error
    return model.eval()
