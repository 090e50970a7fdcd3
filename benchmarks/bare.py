"""The network alone, as fast as this machine runs it: no server, no pictures to decode.

As many processes as the service would start workers, each with the worker's threads and allocator settings: the whole
machine, as the service uses it.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any, cast

import torch

from app.worker.devices import share_out
from model.checkpoint import load, resolve
from model.inference import Mode, Precision, native_precision, optimise

BATCHES = (1, 2, 4, 8)


class Bare:
    """Processes that compute at the same time.

    Args:
        checkpoint: as SEGGPT_CHECKPOINT.
        precision: as SEGGPT_DTYPE.
        is_known: the mask stream of the prompt is there already.
    """

    def __init__(self, checkpoint: str, precision: str, is_known: bool) -> None:
        devices, self.threads = share_out("auto", None, resolve(checkpoint).parameters)
        assert set(devices) == {"cpu"}, "on a GPU `python -m benchmarks.gpu` measures"
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in devices]
        for _, other in pipes:
            arguments = (other, checkpoint, precision, is_known, self.threads)
            context.Process(target=_serve, args=arguments, daemon=True).start()
        self._processes = [here for here, _ in pipes]
        modes: list[Mode] = [process.recv() for process in self._processes]
        self.mode = modes[0]
        self.fastest = 1

    @property
    def processes(self) -> int:
        """How many compute."""
        return len(self._processes)

    def tune(self, seconds: float) -> None:
        """Find the fastest batch size."""
        self.fastest = max(BATCHES, key=lambda pairs: self.rate(seconds, pairs))

    def rate(self, seconds: float, pairs: int | None = None) -> float:
        """Images per second of all together."""
        for process in self._processes:
            process.send((seconds, pairs or self.fastest))
        return sum(float(process.recv()) for process in self._processes)


def _serve(pipe: Connection[Any, Any], source: str, precision: str, is_known: bool, threads: int) -> None:
    """Answer (seconds, pairs) with a rate, until the other side is gone."""
    torch.set_num_threads(threads)
    model = load(resolve(source))
    chosen = native_precision(torch.device("cpu")) if precision == "auto" else cast(Precision, precision)
    pipe.send(optimise(model, chosen))
    height, width = model.config.half_size
    with torch.inference_mode():
        while True:
            try:
                seconds, pairs = pipe.recv()
            except EOFError:
                return
            images, prompts, masks = torch.randn(3, pairs, 3, height, width)
            sizes = [1] * pairs
            stream = model.model.mask_stream(masks, None, sizes)
            done, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                if not is_known:
                    stream = model.model.mask_stream(masks, None, sizes)
                model(images, prompts, group_sizes=sizes, answer_only=True, mask_stream=stream)
                done += pairs
            pipe.send(done / (time.perf_counter() - start))
