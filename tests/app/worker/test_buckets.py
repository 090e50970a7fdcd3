"""Which batch sizes are used: what fits, what pays, and what is tried again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.worker.buckets import Buckets

LIMIT_MS = 100.0


def warm(buckets: Buckets, forward_ms: Callable[[int], float | None]) -> list[int]:
    """Warm up all there is to warm up; gives the sizes that were run."""
    run = []
    while (bucket := buckets.next) is not None:
        run.append(bucket)
        buckets.note_warm_up(bucket, forward_ms(bucket))
    return run


@pytest.mark.parametrize(("most", "sizes"), [(1, [1]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_sizes_double_up_to_the_largest_that_is_allowed(most: int, sizes: list[int]):
    buckets = Buckets(most, LIMIT_MS)
    assert warm(buckets, lambda bucket: 5.0 * bucket) == sizes
    assert buckets.largest == most


def test_a_size_over_the_limit_ends_the_warm_up_and_is_not_used():
    buckets = Buckets(32, LIMIT_MS)
    assert warm(buckets, lambda bucket: 15.0 * bucket) == [1, 2, 4, 8]
    assert buckets.largest == 4


def test_the_first_size_is_used_however_slow_it_is():
    buckets = Buckets(8, LIMIT_MS)
    assert warm(buckets, lambda bucket: 1000.0) == [1]
    assert buckets.largest == 1


def test_a_size_that_is_slower_per_pair_is_not_used():
    buckets = Buckets(8, LIMIT_MS)
    assert warm(buckets, lambda bucket: {1: 5.0, 2: 8.0, 4: 14.0, 8: 40.0}[bucket]) == [1, 2, 4, 8]
    assert buckets.largest == 4


def test_a_slow_size_does_not_hide_a_faster_larger_one():
    buckets = Buckets(8, LIMIT_MS)
    warm(buckets, lambda bucket: {1: 5.0, 2: 14.0, 4: 16.0, 8: 30.0}[bucket])
    assert buckets.largest == 8


def test_after_a_busy_start_fast_batches_let_the_larger_sizes_be_tried_again():
    buckets = Buckets(8, LIMIT_MS)
    warm(buckets, lambda bucket: 1000.0)
    while buckets.next is None:
        buckets.note_batch(1, 10.0)
    assert warm(buckets, lambda bucket: 10.0 * bucket) == [2, 4, 8]
    assert buckets.largest == 8


def test_slow_batches_let_nothing_be_tried_again():
    buckets = Buckets(8, LIMIT_MS)
    warm(buckets, lambda bucket: 1000.0)
    for _ in range(100):
        buckets.note_batch(1, 60.0)
    assert buckets.next is None


def test_a_size_that_is_refused_again_and_again_is_tried_ever_more_rarely():
    buckets = Buckets(8, LIMIT_MS)
    warm(buckets, lambda bucket: 10.0 if bucket == 1 else 1000.0)
    waits = []
    for _ in range(3):
        batches = 0
        while buckets.next is None:
            buckets.note_batch(1, 10.0)
            batches += 1
        waits.append(batches)
        buckets.note_warm_up(2, 1000.0)
    assert waits[0] < waits[1] < waits[2]
    assert buckets.largest == 1


def test_a_size_that_lacked_memory_is_never_tried_again():
    buckets = Buckets(8, LIMIT_MS)
    assert warm(buckets, lambda bucket: 1.0 * bucket if bucket < 4 else None) == [1, 2, 4]
    for _ in range(100):
        buckets.note_batch(2, 2.0)
    assert buckets.next is None
    assert buckets.largest == 2
