"""How a service runs the network: the host's part on any machine, and the GPU's where there is one (`-m gpu`)."""

from __future__ import annotations

import pytest
import torch

from model import SegGptForImageSegmentation
from model.colours import grey, normalise
from model.cuda import bucket_for, fill, kinds_of, prepare
from model.kernels.choice import LIMITS, candidates, layout_of, worst_error
from model.runner import Runner
from tests.model.conftest import TINY, draw_weights

CPU = torch.device("cpu")
GROUPS, TYPES = (2, 1, 1), ("instance", "semantic", "instance")
# Grey levels between an answer and the exact colour: half a level is its own rounding.
LEVELS = {"float32": 1, "bfloat16": 2, "float16": 1}


@pytest.fixture
def model() -> SegGptForImageSegmentation:
    network = SegGptForImageSegmentation(TINY).eval()
    draw_weights(network, seed=0)
    return network


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """What shared memory holds: (16, H, W, 3) uint8."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (16, *TINY.half_size, 3), dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def explicit_grey(model: SegGptForImageSegmentation, pixels: torch.Tensor, sizes, types) -> torch.Tensor:
    """Input images, prompt images and prompt masks in `pixels` -> (groups, H, W) float32 in [0, 255]."""
    groups, pairs = len(sizes), sum(sizes)
    inputs, prompts, masks = normalise(pixels[: groups + 2 * pairs]).split([groups, pairs, pairs])
    output = model(inputs, prompts, masks, group_sizes=list(sizes), embedding_type=list(types), answer_only=True)
    return grey(output.pred_masks)


def answer(runner: Runner, pixels: torch.Tensor, sizes, types) -> tuple[list[bool], torch.Tensor]:
    """As a service asks: stage everything, then the mask stream, then the answer."""
    groups, pairs = len(sizes), sum(sizes)
    staged = runner.stage(pixels, range(groups + 2 * pairs)).ready()
    stream = runner.mask_stream(staged[groups + pairs :], types, sizes)
    painted = runner.paint(staged[: groups + pairs], types, sizes, stream)
    return painted.finite.tolist(), painted.levels[..., 3].cpu()


def assert_close(got: torch.Tensor, wanted: torch.Tensor, levels: int) -> None:
    assert got.dtype == torch.uint8
    assert float((got.float() - wanted.cpu()).abs().max()) <= levels


# On any machine.


@pytest.mark.parametrize(
    ("pairs", "recorded", "bucket"),
    [
        (1, (), None),
        (1, (1, 2, 4, 8), 1),
        (3, (1, 2, 4, 8), None),
        (4, (1, 2, 4, 8), 4),
        (8, (1, 2, 4), None),
        (15, (1, 16), 16),
        (14, (1, 16), None),
        (29, (1, 32), 32),
    ],
)
def test_a_batch_runs_in_a_graph_that_it_fills_almost(pairs: int, recorded, bucket):
    assert bucket_for(pairs, recorded) == bucket


def test_a_smaller_batch_takes_the_first_places_of_a_larger_one():
    larger, smaller = layout_of(TINY, (1,) * 4), layout_of(TINY, (1,) * 3)
    pixels, stream = torch.arange(8.0), torch.arange(8.0 * larger.half_tokens).view(-1, 1)
    more_pixels, more_stream = -torch.arange(1.0, 7.0), -torch.arange(1.0, 1 + 6.0 * larger.half_tokens).view(-1, 1)
    fill(pixels, stream, larger, more_pixels, more_stream, smaller)
    assert pixels.tolist() == [-1, -2, -3, 3, -4, -5, -6, 7]
    got, wanted = larger.halves(stream), smaller.halves(more_stream)
    assert all(torch.equal(mine[:3], theirs) for mine, theirs in zip(got, wanted, strict=True))
    assert all(bool((half[3] >= 0).all()) for half in got)


def test_embedding_types_become_indices():
    assert kinds_of(TYPES, CPU).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="'panoptic'; it must be one of instance, semantic"):
        kinds_of(("panoptic",), CPU)


def test_a_gpu_refuses_a_precision_that_it_has_not(model):
    with pytest.raises(ValueError, match="'int8'; on a GPU it must be one of float32, bfloat16, float16"):
        prepare(model, "int8")


def test_a_runner_answers_as_the_network_does(model, pixels):
    wanted = explicit_grey(model, pixels, GROUPS, TYPES)
    finite, got = answer(Runner(model, "float32"), pixels, GROUPS, TYPES)
    assert finite == [True] * 3
    assert_close(got, wanted, levels=1)


def test_a_runner_says_whose_answer_is_not_finite(model, pixels):
    runner = Runner(model, "float32")
    staged = runner.stage(pixels, range(11)).ready()
    stream = runner.mask_stream(staged[7:], TYPES, GROUPS)
    with torch.inference_mode():
        stream.tokens[2 * stream.layout.half_tokens] = torch.nan  # the third pair, the second group
    painted = runner.paint(staged[:7], TYPES, GROUPS, stream)
    assert painted.finite.tolist() == [True, False, True]


def test_staging_gathers_cells_in_the_order_asked_for(model, pixels):
    runner = Runner(model, "float32")
    for cells in ([3, 1, 3], [15], [0, 2, 4, 6, 8]):
        assert torch.equal(runner.stage(pixels, cells).ready().cpu(), pixels[cells])


def test_answers_on_a_cpu_are_with_the_host_at_once(model, pixels):
    runner = Runner(model, "float32")
    assert runner.batches_at_once == 1
    before = runner.now()
    staged = runner.stage(pixels, range(3))
    rows = staged.ready()
    painted = runner.paint(rows[:2], ("instance",), (1,), runner.mask_stream(rows[2:], ("instance",), (1,)))
    fetched = runner.fetch(painted)
    assert fetched.arrived.has_come
    fetched.arrived.wait()
    assert torch.equal(fetched.levels, painted.levels)
    assert fetched.finite.tolist() == [True]
    assert fetched.arrived.ms_since(before) > staged.copied.ms_since(staged.started) > 0


def test_on_a_cpu_there_is_nothing_to_record(model):
    runner = Runner(model, "float32")
    runner.capture(4)
    assert runner.captured == ()


# On a GPU.


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", LIMITS)
def test_every_kernel_that_compiles_is_right(model, dtype: torch.dtype):
    device = torch.device("cuda")
    attention = model.model.encoder.layers[0].attention
    tables = [table.detach().to(device, dtype) for table in (attention.rel_pos_h, attention.rel_pos_w)]
    tried = 0
    for kernel in candidates(TINY, *tables, device):
        if kernel.name == "triton":
            tried += 1
            assert worst_error(kernel, TINY, *tables, device, dtype) <= LIMITS[dtype], kernel.tile
    assert tried


@pytest.mark.gpu
@pytest.mark.parametrize("precision", LEVELS)
@pytest.mark.parametrize(("sizes", "types"), [((1,), ("semantic",)), ((1, 1, 1), TYPES), (GROUPS, TYPES)])
def test_a_gpu_answers_as_the_cpu_does_with_and_without_a_graph(model, pixels, precision, sizes, types):
    wanted = explicit_grey(model, pixels, sizes, types)
    runner = Runner(model.to("cuda"), precision)
    _, eager = answer(runner, pixels, sizes, types)
    for pairs in (1, 2, 3):
        runner.capture(pairs)
    finite, recorded = answer(runner, pixels, sizes, types)
    assert finite == [True] * len(sizes)
    for got in (eager, recorded):
        assert_close(got, wanted, LEVELS[precision])


@pytest.mark.gpu
def test_a_replay_answers_the_batch_that_it_was_given(model, pixels):
    wanted = [explicit_grey(model, part, (1,), ("instance",)) for part in (pixels[:3], pixels[3:6])]
    runner = Runner(model.to("cuda"), "float32")
    runner.capture(1)
    staged = [runner.stage(pixels, cells) for cells in ((0, 1, 2), (3, 4, 5))]
    painted = []
    for part in staged:
        rows = part.ready()
        stream = runner.mask_stream(rows[2:], ("instance",), (1,))
        painted.append(runner.paint(rows[:2], ("instance",), (1,), stream))
    for got, right in zip(painted, wanted, strict=True):
        assert_close(got.levels[..., 3].cpu(), right, levels=1)


@pytest.mark.gpu
@pytest.mark.parametrize("is_recorded", [False, True])
def test_answers_are_fetched_while_later_batches_are_computed(model, pixels, is_recorded: bool):
    parts = [(3 * number, 3 * number + 1, 3 * number + 2) for number in range(5)]
    wanted = [explicit_grey(model, pixels[list(part)], (1,), ("instance",)) for part in parts]
    runner = Runner(model.to("cuda"), "float32")
    assert runner.batches_at_once == 2
    if is_recorded:
        runner.capture(1)
    fetched = []
    for part in parts:
        rows = runner.stage(pixels, part).ready()
        stream = runner.mask_stream(rows[2:], ("instance",), (1,))
        started = runner.now()
        painted = runner.paint(rows[:2], ("instance",), (1,), stream)
        fetched.append((runner.fetch(painted), started, runner.now()))
        del rows, stream, painted  # their memory may be used again as soon as the device has gone past them
    for (answers, started, ended), right in zip(fetched, wanted, strict=True):
        answers.arrived.wait()
        assert answers.arrived.has_come
        assert answers.levels.is_pinned()
        assert answers.finite.tolist() == [True]
        assert_close(answers.levels[..., 3], right, levels=1)
        assert ended.ms_since(started) > 0
