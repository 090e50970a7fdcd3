"""The engine in this process, on the CPU: answers, memory limits, numbers that are not finite, warm-up."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from app.worker.cells import Cells
from app.worker.engine import Engine, LoadError, is_out_of_memory
from app.worker.messages import GroupCells, GroupRun
from model.checkpoint import Checkpoint
from model.seggpt import SegGptForImageSegmentation

from .conftest import Pictures, assert_same, make_setup


@pytest.fixture
def engine(checkpoint: Checkpoint, cells: Cells) -> Iterator[Engine]:
    threads = torch.get_num_threads()
    yield Engine(make_setup(checkpoint, cells), cells)
    torch.set_num_threads(threads)


def lay(cells: Cells, pictures: Pictures, embedding_type: str = "instance", prompt: str | None = None) -> GroupRun:
    """Put one request's pixels into cells."""
    own = cells.take(1 + 2 * len(pictures.examples))
    assert own is not None
    flat = [pictures.image, *(picture for example in pictures.examples for picture in example)]
    for cell, picture in zip(own, flat, strict=True):
        cells.pixels[cell] = picture
    return GroupRun(GroupCells(own[0], tuple(zip(own[1::2], own[2::2], strict=True))), embedding_type, prompt)


@contextmanager
def a_device_for(engine: Engine, pairs: int) -> Iterator[list[int]]:
    """Let the network raise what a GPU raises when a forward has more than `pairs`; gives the sizes that were tried."""
    tried: list[int] = []

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        tried.append(len(inputs[1]))
        if len(inputs[1]) > pairs:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = engine._runner._model.register_forward_pre_hook(refuse)
    yield tried
    hook.remove()


def test_a_mixed_batch_gives_each_group_the_answer_that_it_gets_alone(
    engine: Engine, cells: Cells, model: SegGptForImageSegmentation
):
    requests = [
        (Pictures(seed, examples), kind)
        for seed, (examples, kind) in enumerate([(1, "instance"), (2, "semantic"), (5, "instance"), (1, "semantic")])
    ]
    groups = [lay(cells, pictures, kind) for pictures, kind in requests]
    result = engine.run(groups)
    assert result.statuses == ("done",) * 4
    for group, (pictures, kind) in zip(groups, requests, strict=True):
        assert_same(cells.answers[group.cells.input_cell], pictures.alone(model, kind))


def test_a_batch_leaves_the_pixels_as_they_were_so_that_it_can_be_run_again(engine: Engine, cells: Cells):
    group = lay(cells, Pictures(0, 3))
    before = cells.pixels.copy()
    engine.run([group])
    first = cells.answers[group.cells.input_cell].copy()
    assert (cells.pixels == before).all()
    engine.run([group])
    assert (cells.answers[group.cells.input_cell] == first).all()


def test_a_small_batch_after_a_large_one_uses_nothing_of_it(
    engine: Engine, cells: Cells, model: SegGptForImageSegmentation
):
    engine.run([lay(cells, Pictures(seed)) for seed in range(6)])
    last = Pictures(99, 2)
    group = lay(cells, last)
    engine.run([group])
    assert_same(cells.answers[group.cells.input_cell], last.alone(model))


def test_a_batch_beyond_the_memory_is_halved_until_it_fits(
    engine: Engine, cells: Cells, model: SegGptForImageSegmentation
):
    requests = [Pictures(seed) for seed in range(5)]
    groups = [lay(cells, pictures) for pictures in requests]
    with a_device_for(engine, 2) as tried:
        result = engine.run(groups)
    assert result.statuses == ("done",) * 5
    assert tried == [5, 2, 3, 1, 2]
    for group, pictures in zip(groups, requests, strict=True):
        assert_same(cells.answers[group.cells.input_cell], pictures.alone(model))


def test_two_batches_may_be_begun_before_the_first_is_finished(
    engine: Engine, cells: Cells, model: SegGptForImageSegmentation
):
    requests = [[Pictures(1), Pictures(2, 2)], [Pictures(3, 3)]]
    batches = [[lay(cells, pictures) for pictures in batch] for batch in requests]
    pending = [engine.begin(groups) for groups in batches]
    assert all(batch.is_computed for batch in pending)
    results = [engine.finish(batch) for batch in pending]
    assert [result.statuses for result in results] == [("done", "done"), ("done",)]
    for groups, batch in zip(batches, requests, strict=True):
        for group, pictures in zip(groups, batch, strict=True):
            assert_same(cells.answers[group.cells.input_cell], pictures.alone(model))


def test_a_batch_that_finds_no_memory_beside_another_is_run_when_that_is_finished(
    engine: Engine, cells: Cells, model: SegGptForImageSegmentation
):
    requests = [Pictures(seed) for seed in range(5)]
    groups = [lay(cells, pictures, prompt=str(seed)) for seed, pictures in enumerate(requests)]
    with a_device_for(engine, 2) as tried:
        first, second = engine.begin(groups[:2]), engine.begin(groups[2:])
        assert tried == [2, 3]
        assert engine.finish(first).statuses == ("done",) * 2
        third = engine.begin(groups[:1])
        assert engine.finish(second).statuses == ("done",) * 3
        assert engine.finish(third).statuses == ("done",)
    for group, pictures in zip(groups, requests, strict=True):
        assert_same(cells.answers[group.cells.input_cell], pictures.alone(model))


def test_a_request_that_found_no_memory_has_another_try_alone(engine: Engine, cells: Cells):
    group = lay(cells, Pictures(0, 2))
    with a_device_for(engine, 1):
        pending = engine.begin([group])
    assert pending.is_computed
    assert engine.finish(pending).statuses == ("done",)


def test_only_the_group_that_does_not_fit_is_out_of_memory(engine: Engine, cells: Cells):
    groups = [lay(cells, Pictures(seed, examples)) for seed, examples in enumerate([1, 4, 2])]
    with a_device_for(engine, 2):
        assert engine.run(groups).statuses == ("done", "out-of-memory", "done")
    assert engine.run(groups).statuses == ("done", "done", "done")


def test_another_failure_is_not_taken_for_a_lack_of_memory(engine: Engine, cells: Cells):
    with pytest.raises(ValueError, match="embedding_type"):
        engine.run([lay(cells, Pictures(0), "nonsense")])
    assert not engine.is_poisoned()


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("not enough memory of ours"), False),
    ],
)
def test_what_counts_as_a_lack_of_memory(error: Exception, verdict: bool):
    assert is_out_of_memory(error) is verdict


def test_a_real_lack_of_memory_is_recognised():
    # In a process of its own: the limit cannot be taken back.
    script = """
        import resource, torch
        from app.worker.engine import is_out_of_memory
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
        try:
            torch.zeros(2**31)
        except RuntimeError as error:
            print(is_out_of_memory(error))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "True"


def test_an_answer_that_is_not_finite_is_not_written(engine: Engine, cells: Cells):
    group = lay(cells, Pictures(0))
    cells.answers[group.cells.input_cell] = 77
    with torch.no_grad():
        for parameter in engine._runner._model.parameters():
            parameter.fill_(float("nan"))
    assert engine.run([group]).statuses == ("not-finite",)
    assert (cells.answers[group.cells.input_cell] == 77).all()


def test_weights_that_give_no_finite_answer_are_refused_at_the_warm_up(engine: Engine):
    with torch.no_grad():
        for parameter in engine._runner._model.parameters():
            parameter.fill_(float("inf"))
    with pytest.raises(LoadError, match="not finite numbers in float32") as caught:
        engine.warm_up()
    assert "\n" not in str(caught.value)


def test_buckets_double_up_to_the_largest_batch(checkpoint: Checkpoint, cells: Cells, monkeypatch: pytest.MonkeyPatch):
    engine = Engine(make_setup(checkpoint, cells, pairs=6), cells)
    ticks = itertools.count()  # every forward takes as long: a busy machine must not make a size look slow
    monkeypatch.setattr("app.worker.engine.time.perf_counter", lambda: next(ticks) / 1000)
    warm = []
    while engine.buckets.next is not None:
        assert engine.warm_up() is not None
        warm.append(engine.buckets.largest)
    assert warm == [1, 2, 4, 6]


def test_a_slow_first_bucket_is_used_and_is_the_only_one(checkpoint: Checkpoint, cells: Cells):
    engine = Engine(replace(make_setup(checkpoint, cells), warmup_limit_s=0.0), cells)
    assert engine.warm_up() is not None
    assert engine.buckets.largest == 1
    assert engine.buckets.next is None


def test_a_bucket_that_does_not_fit_ends_the_warm_up(engine: Engine):
    with a_device_for(engine, 2):
        assert engine.warm_up() is not None
        assert engine.warm_up() is not None
        assert engine.warm_up() is None
    assert engine.buckets.largest == 2
    assert engine.buckets.next is None


def test_a_network_that_does_not_fit_at_all_is_refused_in_one_line(engine: Engine):
    with a_device_for(engine, 0), pytest.raises(LoadError, match="does not fit into the memory of cpu"):
        engine.warm_up()


def test_half_precision_runs_and_stays_close(checkpoint: Checkpoint, cells: Cells, model: SegGptForImageSegmentation):
    engine = Engine(make_setup(checkpoint, cells, dtype="bfloat16"), cells)
    pictures = Pictures(1, 2)
    group = lay(cells, pictures)
    assert engine.run([group]).statuses == ("done",)
    answer, expected = cells.answers[group.cells.input_cell].astype(int), pictures.alone(model).astype(int)
    assert abs(answer - expected).mean() < 4
    assert engine.mode.precision == "bfloat16"


def test_the_engine_describes_itself(engine: Engine, model: SegGptForImageSegmentation):
    assert engine.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert engine.mode.precision == "float32"
    assert engine.device_name


def test_a_device_that_is_not_there_is_refused_in_one_line(checkpoint: Checkpoint, cells: Cells):
    with pytest.raises(LoadError, match="cuda:63 is not there"):
        Engine(replace(make_setup(checkpoint, cells), device="cuda:63"), cells)


@pytest.mark.gpu
def test_a_gpu_holds_two_batches_and_answers_each_as_the_cpu_does(
    checkpoint: Checkpoint, cells: Cells, model: SegGptForImageSegmentation
):
    engine = Engine(replace(make_setup(checkpoint, cells), device="cuda:0"), cells)
    while engine.buckets.next is not None:
        engine.warm_up()
    assert engine.batches_at_once == 2
    # With and without a graph, and the same prompt in two batches.
    names = [[(1, 1), (2, 2)], [(3, 1), (4, 1), (5, 1), (6, 1)], [(7, 3), (1, 1)]]
    requests = [[Pictures(*name) for name in batch] for batch in names]
    batches = [
        [lay(cells, pictures, prompt=str(name)) for pictures, name in zip(*both, strict=True)]
        for both in zip(requests, names, strict=True)
    ]
    held, results = [engine.begin(batches[0])], []
    for following in [*batches[1:], *batches]:
        held.append(engine.begin(following))
        results.append(engine.finish(held.pop(0)))
    results.append(engine.finish(held.pop(0)))
    for result in results:
        assert set(result.statuses) == {"done"}
        assert min(result.copy_ms, result.forward_ms, result.postprocess_ms) > 0
    assert [result.known_prompts for result in results] == [0, 0, 1, 2, 4, 2]
    for groups, batch in zip(batches, requests, strict=True):
        for group, pictures in zip(groups, batch, strict=True):
            got, wanted = cells.answers[group.cells.input_cell].astype(int), pictures.alone(model).astype(int)
            assert abs(got - wanted).max() <= 1


@pytest.mark.gpu
def test_a_gpu_that_runs_out_of_memory_keeps_the_batch_before(
    checkpoint: Checkpoint, cells: Cells, model: SegGptForImageSegmentation, monkeypatch: pytest.MonkeyPatch
):
    engine = Engine(replace(make_setup(checkpoint, cells), device="cuda:0"), cells)
    requests = [Pictures(seed) for seed in range(4)]
    groups = [lay(cells, pictures) for pictures in requests]
    first = engine.begin(groups[:2])
    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, "paint", lambda *_: torch.empty(2**50, device="cuda"))
        second = engine.begin(groups[2:])
    assert second.begun is None
    for pending in (first, second):
        assert engine.finish(pending).statuses == ("done",) * 2
    for group, pictures in zip(groups, requests, strict=True):
        got, wanted = cells.answers[group.cells.input_cell].astype(int), pictures.alone(model).astype(int)
        assert abs(got - wanted).max() <= 1
