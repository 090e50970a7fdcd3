"""Independent pieces of one computation on all cores, each on a thread whose own torch calls stay on that thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch


def run_all(piece: Callable[[int], None], count: int) -> None:
    """Call `piece(0)` to `piece(count - 1)`, on as many threads as torch computes with; return when all are done.

    Raises:
        Exception: what a piece raised; the pieces that had not begun by then may be left out.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        for index in range(count):
            piece(index)
        return
    pool = _pool(torch.get_num_threads())
    is_inference = torch.is_inference_mode_enabled()
    numbers = iter(range(count))  # advancing it is atomic under the interpreter lock

    def work() -> None:
        with torch.inference_mode(is_inference), torch.no_grad():
            for index in numbers:
                piece(index)

    futures: list[Future[None]] = [pool.submit(work) for _ in range(threads)]
    for future in futures:
        future.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """As many threads as asked for, with one torch thread each."""
    started = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first parallel call sets its count to the default; have that behind us
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, "seggpt-kernel", begin)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    # The count is kept per thread, but also as the default of threads to come.
    torch.set_num_threads(threads)
    return pool
