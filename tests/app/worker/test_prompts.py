"""Mask streams that are kept: the same answers, computed once, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from app.worker.cells import Cells, Pixels
from app.worker.engine import Engine
from app.worker.messages import GroupCells, GroupRun
from app.worker.prompts import PromptStreams, apart
from model.checkpoint import Checkpoint
from model.encoder import MaskStream
from model.layout import Layout
from model.seggpt import SegGptForImageSegmentation

from .conftest import Pictures, assert_same, make_setup
from .test_engine import a_device_for, lay

WIDTH, HALF = 3, 4


@pytest.fixture
def make(checkpoint: Checkpoint, cells: Cells) -> Iterator[Callable[..., Engine]]:
    threads = torch.get_num_threads()
    yield lambda **settings: Engine(make_setup(checkpoint, cells, **settings), cells)
    torch.set_num_threads(threads)


@contextmanager
def computed(engine: Engine) -> Iterator[list[int]]:
    """The pairs of every computation of mask streams."""
    seen: list[int] = []
    own = engine._runner._model.model.mask_stream

    def watched(masks: torch.Tensor, *arguments: object) -> MaskStream:
        seen.append(len(masks))
        return own(masks, *arguments)

    engine._runner._model.model.mask_stream = watched
    yield seen
    engine._runner._model.model.mask_stream = own


def answer(engine: Engine, cells: Cells, group: GroupRun) -> Pixels:
    assert engine.run([group]).statuses == ("done",)
    return cells.answers[group.cells.input_cell].copy()


def test_a_known_prompt_is_not_computed_again_and_gives_the_same_answers(
    make: Callable[..., Engine], cells: Cells, model: SegGptForImageSegmentation
):
    engine, shown = make(), Pictures(1, 2)
    first = lay(cells, shown, prompt="shown")
    other = Pictures(2, 2)
    other.examples = shown.examples
    second = lay(cells, other, prompt="shown")
    with computed(engine) as pairs:
        miss = answer(engine, cells, first)
        assert engine.run([first]).known_prompts == 1
        assert (cells.answers[first.cells.input_cell] == miss).all()
        assert_same(answer(engine, cells, second), other.alone(model))
    assert pairs == [2]


def test_a_batch_computes_what_is_missing_at_once_and_each_prompt_once(
    make: Callable[..., Engine], cells: Cells, model: SegGptForImageSegmentation
):
    engine = make()
    requests = [(Pictures(seed, examples), kind, f"{seed} {examples}") for seed, examples, kind in
                ((1, 1, "instance"), (2, 2, "semantic"), (3, 1, "instance"), (3, 1, "semantic"))]  # fmt: skip
    groups = [lay(cells, pictures, kind, name) for pictures, kind, name in requests]
    engine.run([groups[1]])
    with computed(engine) as pairs:
        result = engine.run([*groups, groups[2]])
    assert result.known_prompts == 2  # the second was kept, and the last is the third again
    assert pairs == [3]
    for group, (pictures, kind, _) in zip(groups, requests, strict=True):
        assert_same(cells.answers[group.cells.input_cell], pictures.alone(model, kind))


def test_a_request_without_a_name_is_computed_every_time(make: Callable[..., Engine], cells: Cells):
    engine = make()
    group = lay(cells, Pictures(1))
    with computed(engine) as pairs:
        assert engine.run([group, group]).known_prompts == 0
        assert engine.run([group]).known_prompts == 0
    assert pairs == [2, 1]


def test_memory_that_is_needed_is_taken_from_what_is_kept(make: Callable[..., Engine], cells: Cells):
    engine = make()
    groups = [lay(cells, Pictures(seed), prompt=str(seed)) for seed in range(3)]
    engine.run(groups[:1])
    with a_device_for(engine, 2):
        assert engine.run(groups).statuses == ("done",) * 3
    assert engine._prompts.held_bytes > 0
    assert engine.run(groups).known_prompts == 3


def test_a_prompt_whose_answer_is_not_finite_is_not_kept(make: Callable[..., Engine], cells: Cells):
    engine = make()
    group = lay(cells, Pictures(1), prompt="shown")

    def damage(module: torch.nn.Module, inputs: object, output: object) -> None:
        output.pred_masks.fill_(float("nan"))

    hook = engine._runner._model.register_forward_hook(damage)
    assert engine.run([group]).statuses == ("not-finite",)
    hook.remove()
    assert engine._prompts.held_bytes == 0
    result = engine.run([group])
    assert (result.statuses, result.known_prompts) == (("done",), 0)


# The streams alone


def run(name: str | None, pairs: int = 1, kind: str = "instance") -> GroupRun:
    return GroupRun(GroupCells(0, ((0, 0),) * pairs), kind, name)


def of_ones(groups: Sequence[GroupRun]) -> MaskStream:
    layout = Layout(tuple(group.cells.pairs for group in groups), half_tokens=HALF, prompt_tokens=HALF)
    return MaskStream(torch.ones((layout.pairs + layout.groups) * HALF, WIDTH), layout)


ONE_PAIR_BYTES = of_ones([run("a")]).nbytes


def test_those_used_longest_ago_make_room():
    streams = PromptStreams(2 * ONE_PAIR_BYTES)
    for name in ("a", "b", "a", "c"):
        streams.of([run(name)], of_ones)
    assert streams.held_bytes == 2 * ONE_PAIR_BYTES
    assert streams.missing([run(name) for name in "abc"]) == [run("b")]


def test_a_batch_larger_than_what_may_be_kept_is_answered():
    streams = PromptStreams(ONE_PAIR_BYTES)
    groups = [run(name) for name in "abcb"]
    assert streams.of(groups, of_ones).layout.group_sizes == (1, 1, 1, 1)
    assert streams.held_bytes == ONE_PAIR_BYTES
    assert streams.of([run("large", pairs=5)], of_ones).layout.group_sizes == (5,)
    assert streams.held_bytes == ONE_PAIR_BYTES


def test_streams_taken_apart_are_joined_again_to_the_same():
    layout = Layout((2, 1, 3), half_tokens=HALF, prompt_tokens=HALF)
    rows = (layout.pairs + layout.groups) * HALF
    whole = MaskStream(torch.from_numpy(np.random.default_rng(0).random((rows, WIDTH), np.float32)), layout)
    parts = apart(whole)
    assert [part.layout.group_sizes for part in parts] == [(2,), (1,), (3,)]
    again = MaskStream.joined(parts)
    assert again.layout == layout
    assert torch.equal(again.tokens, whole.tokens)
    assert not any(part.tokens.untyped_storage().data_ptr() == whole.tokens.untyped_storage().data_ptr()
                   for part in parts), "a kept stream would keep the whole batch's memory"  # fmt: skip
