"""One run: its batches, its steps, its end."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.tiny import TINY
from training.batches import Ahead, Composer
from training.draw import Dice
from training.mixtures import bundled_mixture, held_out_maker
from training.painting import answer, hidden_patches, loss_of_answers, loss_of_hidden
from training.recipe import BUNDLED, OVERLAP, Recipe, Stage, bundled_config, fine_tuning
from training.run_folder import Existing, RunFolder
from training.scenes import SceneMaker, Scenes
from training.snapshot import Snapshot, follow
from training.train import Run

CPU = torch.device("cpu")
RECIPE = Recipe(
    stages=(Stage(0.5, 32, 8), Stage(1.0, 48, 8)), pairs=64, warm_up_steps=2, report_every=4, precision=torch.float32
)


def tiny_run(
    data: Path, out: Path, recipe: Recipe = RECIPE, existing: Existing = "refuse", device: torch.device = CPU
) -> Run:
    judge = held_out_maker(data, device)

    def make_scenes(dice: Dice) -> SceneMaker:
        return bundled_mixture(data, dice, drawn_kinds=12)

    return Run(recipe, make_scenes, judge, RunFolder(out, existing), start=TINY, device=device)


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_few_steps_lower_the_loss(data: Path, tmp_path: Path, optimiser: str, hidden: bool) -> None:
    run = tiny_run(data, tmp_path, replace(RECIPE, pairs=10**6, optimiser=optimiser, learning_rate=3e-3))
    scenes, losses = run.makers.batch(8, 32), []
    for _ in range(8):
        if hidden:
            loss = loss_of_hidden(run.network, scenes, "instance", 1.0, hidden_patches(Dice(5), 8, 4))
        else:
            loss = loss_of_answers(run.network, scenes, "instance", 1.0)
        run.network.zero_grad()
        loss.backward()
        run.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_ensembles_are_answered_once_a_scene_and_learnt_from(data: Path, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path, replace(RECIPE, pairs=10**6, learning_rate=3e-3, ensembles=1.0, masked=0.0))
    scenes, losses = run.makers.batch(4, 32, examples=2), []
    assert answer(run.network, scenes, examples=2).shape == (4, 3, 32, 32)
    for _ in range(8):
        loss = loss_of_answers(run.network, scenes, "instance", 1.0, examples=2)
        run.network.zero_grad()
        loss.backward()
        run.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    run.gradients()  # composes such scenes itself


def test_a_run_grows_its_pictures_ends_and_logs(data: Path, tmp_path: Path) -> None:
    tiny_run(data, tmp_path).train()
    snapshot = Snapshot.load(tmp_path / "snapshot.pt")
    assert snapshot.pairs == 64
    assert snapshot.config.image_size == (96, 48)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "pairs,seconds,size,loss,learning_rate,held_out_iou"
    assert [line.split(",")[0] for line in lines[1:]] == ["32", "64"]
    assert [line.split(",")[2] for line in lines[1:]] == ["32", "48"]
    assert list(tmp_path.glob("samples_*.png"))


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(data: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        tiny_run(data, tmp_path / name, replace(RECIPE, seed=seed)).train()
    losses = {}
    for name in ("one", "again", "other"):
        rows = (tmp_path / name / "log.csv").read_text().splitlines()[1:]
        losses[name] = [row.split(",")[3] for row in rows]
    assert losses["one"] == losses["again"]
    assert losses["one"] != losses["other"]


def test_an_interrupted_run_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path)
    for _ in range(5):
        run._enter(run.recipe.stage(run.progress))
        run.gradients()
        run.step()
    run.report(1.0, 0.0)
    run.folder.close()
    again = tiny_run(data, tmp_path, existing="resume")
    assert (again.pairs, again.steps, again.stage.size) == (40, 5, 48)
    for name, weight in run.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name]), name
    again.train()
    assert Snapshot.load(tmp_path / "snapshot.pt").pairs == 64


def test_a_run_that_is_stopped_in_its_last_report_is_finished(data: Path, tmp_path: Path) -> None:
    class Interrupting(SceneMaker):
        def batch(self, count: int, size: int) -> Scenes:
            signal.raise_signal(signal.SIGTERM)
            return super().batch(count, size)

    run = tiny_run(data, tmp_path, replace(RECIPE, report_every=1000))
    run.judge.__class__ = Interrupting
    with run.stop as stop:
        run.train()
    assert not stop.is_asked
    assert Snapshot.load(tmp_path / "snapshot.pt").pairs == 64


def test_a_run_that_is_stopped_before_its_first_step_replaces_nothing(data: Path, tmp_path: Path) -> None:
    tiny_run(data, tmp_path, replace(RECIPE, pairs=8)).train()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run = tiny_run(data, tmp_path, existing="replace")
    with run.stop:
        signal.raise_signal(signal.SIGTERM)
        run.train()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_interrupted_at_a_stages_end_goes_on_in_the_next(data: Path, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path)
    while run.progress < 0.5:
        run.gradients()
        run.step()
    run.report(1.0, 0.0)
    assert (run.stage.size, run.pairs) == (32, 32)
    run.folder.close()
    again = tiny_run(data, tmp_path, existing="resume")
    assert again.stage.size == 48
    again.train()
    assert Snapshot.load(tmp_path / "snapshot.pt").pairs == 64


def test_batches_composed_ahead_are_those_composed_when_needed(data: Path) -> None:
    recipe = replace(RECIPE, ensembles=0.5, masked=0.3)
    small, large = recipe.stages
    at_need, ahead = (
        Ahead(Composer(bundled_mixture(data, Dice(3), drawn_kinds=12), recipe, TINY.patch_size), CPU, depth)
        for depth in (0, 2)
    )
    for stage in (small, small, small, large, small, large, large):
        one, other = at_need.next(stage), ahead.next(stage)
        assert (one.examples, one.kind) == (other.examples, other.kind)
        assert (one.hidden is None) == (other.hidden is None)
        if one.hidden is not None and other.hidden is not None:
            assert one.hidden.shape[1] == 2 * (stage.size // TINY.patch_size) ** 2
            assert torch.equal(one.hidden, other.hidden)
        for name, tensor in vars(one.scenes).items():
            assert torch.equal(tensor, vars(other.scenes)[name]), name


def test_what_fails_while_composing_ahead_fails_where_it_is_asked_for(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composer = Composer(bundled_mixture(data, Dice(3), drawn_kinds=12), RECIPE, TINY.patch_size)
    monkeypatch.setattr(composer.makers, "batch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Ahead(composer, CPU, depth=2).next(RECIPE.stages[0])


def test_the_learning_rate_rises_and_falls_to_zero(data: Path, tmp_path: Path) -> None:
    run = tiny_run(data, tmp_path)
    rates = []
    for progress, fresh in ((0.0, 0), (0.0, 1), (0.5, 9), (1.0, 9)):
        run.pairs, run.fresh_steps = round(progress * RECIPE.pairs), fresh
        rates.append(run.learning_rate())
    top = RECIPE.learning_rate
    assert rates == pytest.approx([top / 2, top, top / 2, 0.0])


def test_the_bundled_recipe_covers_the_whole_run_in_growing_pictures() -> None:
    painting = BUNDLED.painting()
    sizes = [painting.stage(progress / 100).size for progress in range(101)]
    assert sizes == sorted(sizes)
    assert BUNDLED.stages[-1].until == 1.0
    assert bundled_config(sizes[-1]).half_size == (sizes[-1], sizes[-1])
    assert fine_tuning(TINY, 2).stages == (Stage(1.0, 32, 2, OVERLAP),)


def test_the_average_follows_the_weights() -> None:
    average, weights = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    for step in range(1, 200):
        follow(average, weights, step)
    assert average["w"].item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.gpu
def test_a_gpu_composes_and_learns(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, ensembles=0.5, masked=0.2, precision=None, learning_rate=2e-3)
    run = tiny_run(data, tmp_path / "whole", recipe, device=torch.device("cuda"))
    run.train()
    assert run.precision == torch.bfloat16
    assert {parameter.device.type for parameter in run.network.parameters()} == {"cuda"}
    kept = Snapshot.load(tmp_path / "whole" / "snapshot.pt")
    assert kept.config.image_size == (96, 48)
    assert all(bool(weight.isfinite().all()) for weight in kept.average.values())
    assert (tmp_path / "whole" / "log.csv").read_text().count("\n") >= 3


@pytest.mark.gpu
def test_a_gpu_composes_ahead_what_it_composes_when_needed(data: Path, tmp_path: Path) -> None:
    device, recipe = torch.device("cuda"), replace(RECIPE, ensembles=0.5, masked=0.3)
    small, large = recipe.stages
    batches = {}
    for depth in (0, 2):
        composer = Composer(bundled_mixture(data, Dice(3, device), drawn_kinds=12), recipe, TINY.patch_size)
        ahead = Ahead(composer, device, depth)
        # Each is used up and its memory given back while the next ones are composed.
        batches[depth] = [
            [ahead.next(stage).scenes.image.double().mean((1, 2, 3)), ahead.next(stage).scenes.area.sum((1, 2))]
            for stage in (small, small, large, large, small)
            for _ in range(4)
        ]
    for one, other in zip(batches[0], batches[2], strict=True):
        torch.testing.assert_close(one, other)
