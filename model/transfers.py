"""Pixels to a device and answers back, beside its work, and when each is done.

On a GPU everything is enqueued and the host does not wait, so it can copy for one batch while another is computed. On a
CPU there is nothing to copy: the same handles say that it is done already.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Moment:
    """When the work that was given to a device before is done, by the device's own clock.

    Args:
        stream: the GPU's stream that the work is on; None on a CPU, where it is done already.
    """

    def __init__(self, stream: torch.cuda.Stream | None = None) -> None:
        self._host_s = time.perf_counter()
        self._event: torch.cuda.Event | None = None
        if stream is not None:
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(stream)

    @property
    def has_come(self) -> bool:
        """Whether `wait` would return, or raise, at once."""
        try:
            return self._event is None or self._event.query()
        except RuntimeError:
            return True  # the context is lost: `wait` says so

    def wait(self) -> None:
        """Let the host wait for it."""
        if self._event is not None:
            self._event.synchronize()

    def hold_back(self, stream: torch.cuda.Stream) -> None:
        """Let what is enqueued on `stream` from now on wait for it. The host does not wait."""
        if self._event is not None:
            stream.wait_event(self._event)

    def ms_since(self, earlier: Moment) -> float:
        """Milliseconds from `earlier`, of the same device, to this; both must have come."""
        if self._event is None or earlier._event is None:
            return (self._host_s - earlier._host_s) * 1000
        return float(earlier._event.elapsed_time(self._event))


@dataclass(frozen=True)
class Staged:
    """Pixels on their way to the device.

    Args:
        pixels: (count, H, W, 3) uint8 on the device, to be read only by `ready`'s leave.
        started: before they were gathered.
        copied: when they are there.
    """

    pixels: Tensor
    started: Moment
    copied: Moment

    def ready(self) -> Tensor:
        """The pixels, for work that is enqueued on the current stream from now on. The host does not wait."""
        if self.pixels.is_cuda:
            now = torch.cuda.current_stream(self.pixels.device)
            self.copied.hold_back(now)
            self.pixels.record_stream(now)  # their memory was asked for on the stream that copied
        return self.pixels


class Staging:
    """Pixels from shared memory to the GPU: two pinned buffers in turn, copied on a stream of their own.

    So the next batch can be gathered and copied while the present one is computed.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(2)]
        self._copied = [Moment(), Moment()]
        self._turn = 0

    def copy(self, pixels: Tensor, cells: Sequence[int]) -> Staged:
        """Gather some rows of (all, H, W, 3) uint8 pixels in host memory and send them; the host waits for no more than
        the copy of the batch before last.
        """
        turn, self._turn = self._turn, 1 - self._turn
        self._copied[turn].wait()  # the batch before last has left this buffer
        started = Moment(self._stream)
        if len(self._buffers[turn]) < len(cells):
            shape = (len(cells), *pixels.shape[1:])
            self._buffers[turn] = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        buffer = self._buffers[turn][: len(cells)]
        torch.index_select(pixels, 0, torch.tensor(cells), out=buffer)
        with torch.cuda.stream(self._stream):
            sent = buffer.to(self._device, non_blocking=True)
        copied = self._copied[turn] = Moment(self._stream)
        return Staged(sent, started, copied)


@dataclass(frozen=True)
class Fetched:
    """Answers of one batch on their way to the host.

    Args:
        finite: (groups,) bool in host memory, to be read only after `arrived`; likewise
        levels: (groups, H, W, 4) uint8.
        arrived: when they are there.
    """

    finite: Tensor
    levels: Tensor
    arrived: Moment


class Fetching:
    """Answers from the GPU to pinned memory, copied on a stream of their own, while the next batch is computed.

    Every batch has memory of its own, from torch's cache of pinned memory, so any number may be on their way.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def copy(self, *answers: Tensor) -> tuple[list[Tensor], Moment]:
        """Bring tensors that the current stream makes to the host, which does not wait.

        Returns:
            The tensors in pinned memory, and when they are there.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        fetched = [torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in answers]
        with torch.cuda.stream(self._stream):
            for target, part in zip(fetched, answers, strict=True):
                target.copy_(part, non_blocking=True)
                part.record_stream(self._stream)  # their memory was asked for on the stream that computed
        return fetched, Moment(self._stream)
