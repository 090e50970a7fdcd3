"""Which batch sizes a worker uses: what it has warmed up, and what pays.

Knows pairs and milliseconds, no tensors. A size is judged once by its warm-up; a size that was refused for its time is
tried again after real batches have shown that the machine is faster now than it was then, e.g. after a busy start.
"""

from __future__ import annotations

# A larger batch that takes this much longer per pair than the best size only makes requests wait.
_WORSE = 1.1
_FIRST_PATIENCE = 8


class Buckets:
    """The sizes 1, 2, 4, ... and the largest that is allowed.

    Args:
        most_pairs: the largest bucket that may be used.
        limit_ms: a bucket whose forward takes longer is not used, except the first.
    """

    def __init__(self, most_pairs: int, limit_ms: float) -> None:
        self._most_pairs = most_pairs
        self._limit_ms = limit_ms
        self._forward_ms: dict[int, float] = {}
        self._lacks_memory = most_pairs + 1
        self._patience = _FIRST_PATIENCE
        self._favourable = 0
        #: The bucket to be warmed up next; None when there is nothing to do.
        self.next: int | None = 1
        #: Most pairs of one batch now.
        self.largest = 0

    def note_warm_up(self, bucket: int, forward_ms: float | None) -> None:
        """What the warm-up of `next` gave.

        Args:
            bucket: its pairs.
            forward_ms: milliseconds; None if memory did not suffice, which no later try can mend.
        """
        if forward_ms is None:
            self._lacks_memory = bucket
            self.next = None
            return
        self._forward_ms[bucket] = forward_ms
        fitting = {size: ms / size for size, ms in self._forward_ms.items() if size == 1 or ms <= self._limit_ms}
        best = min(fitting.values())
        self.largest = max(size for size, ms_per_pair in fitting.items() if ms_per_pair <= _WORSE * best)
        self.next = self._after(bucket) if forward_ms <= self._limit_ms else None

    def note_batch(self, pairs: int, forward_ms: float) -> None:
        """What a real batch took. Enough of them that would have let a refused bucket pass make it the next again."""
        refused = self._after(self.largest)
        if self.next is not None or refused is None or forward_ms / pairs * refused > self._limit_ms:
            return
        self._favourable += 1
        if self._favourable >= self._patience:
            self._favourable = 0
            self._patience *= 2  # a bucket that is refused every time costs less and less
            self.next = refused

    def _after(self, bucket: int) -> int | None:
        larger = min(2 * bucket, self._most_pairs)
        return larger if bucket < larger < self._lacks_memory else None
