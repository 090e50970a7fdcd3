"""Loss, first weights, one run, export."""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import SegGptForImageSegmentation as Reference

from model.checkpoint import load, resolve
from model.config import SegGptConfig
from training.batches import Ahead, Composer
from training.draw import Dice
from training.export import export, mean
from training.export import main as export_command
from training.initialise import new_network, resized
from training.loss import overlap, painting_loss
from training.mixtures import bundled_mixture, held_out_maker
from training.muon import orthogonal
from training.painting import answer, hidden_patches, loss_of_answers, loss_of_hidden
from training.recipe import BUNDLED, OVERLAP, Recipe, Stage, bundled_config, fine_tuning
from training.run_folder import Existing, RunFolder
from training.scenes import SceneMaker, Scenes
from training.snapshot import Snapshot, follow
from training.train import Run

CPU = torch.device("cpu")
TINY = SegGptConfig(
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=2,
    image_size=(64, 32),
    patch_size=8,
    pretrain_image_size=64,
    decoder_hidden_size=8,
    merge_index=1,
    intermediate_hidden_state_indices=(1, 2, 3),
    drop_path_rate=0.0,
    beta=0.5,
)


def tiny_config(size: int) -> SegGptConfig:
    return replace(TINY, image_size=(2 * size, size))


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


BLACK = torch.zeros(1, 10, 10, dtype=torch.uint8)


def test_object_and_background_weigh_the_same_however_small_the_object() -> None:
    area = torch.zeros(1, 10, 10, dtype=torch.bool)
    area[0, 0, :2] = True
    wanted = torch.zeros(1, 3, 10, 10)
    losses = [painting_loss(wanted + 3.0 * wrong, wanted, area, BLACK).item() for wrong in (area, ~area)]
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_the_loss_of_a_perfect_answer_is_zero(balance: float) -> None:
    wanted, labels = torch.randn(2, 3, 4, 4), torch.rand(2, 4, 4) > 0.5
    assert painting_loss(wanted, wanted, labels, labels, balance=balance) == 0


def test_every_class_of_a_pair_weighs_the_same() -> None:
    labels = torch.zeros(1, 10, 10, dtype=torch.uint8)
    labels[0, 0, 0], labels[0, 5:] = 2, 1
    wanted = torch.zeros(1, 3, 10, 10)
    losses = [painting_loss(wanted + 3.0 * (labels == label), wanted, labels, BLACK).item() for label in range(3)]
    assert losses == pytest.approx([losses[0]] * 3)


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_pixels_that_are_not_counted_do_not_matter(balance: float) -> None:
    labels, wanted = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4)
    counted = torch.zeros(1, 4, 4, dtype=torch.bool)
    counted[0, 0] = True
    painted, found = wanted.clone(), labels.clone()
    painted[:, :, 1:], found[:, 1:] = 9.0, 1
    assert painting_loss(painted, wanted, labels, found, counted=counted, balance=balance) == 0


def overlap_loss(labels: Tensor, found: Tensor, wrong: tuple[int, ...]) -> float:
    """Of an answer that is off by one (smooth-L1: 1 - beta / 2) at these places of the first row."""
    wanted = torch.zeros(1, 3, *labels.shape[1:])
    painted = wanted.clone()
    painted[..., 0, list(wrong)] = 1.0
    return painting_loss(painted, wanted, labels, found, balance=0.0).item() / 0.75


def test_a_pixel_weighs_what_the_overlap_loses_by_it() -> None:
    labels, found = BLACK.clone(), BLACK.clone()
    labels[0, 0, :5] = 1  # 5 pixels of 100
    found[0, 0, 2:9] = 1  # 3 of them, and 4 false ones: the union is 9, the overlap 1 / 3
    assert overlap_loss(labels, found, (0,)) == pytest.approx(1 / 9)  # missed
    assert overlap_loss(labels, found, (6,)) == pytest.approx(1 / 3 / 9)  # false
    assert overlap_loss(labels, found, (0, 6, 7)) == pytest.approx((1 + 2 / 3) / 9)


def test_a_false_pixel_still_costs_where_all_is_wrong() -> None:
    labels, found = BLACK.clone(), BLACK.clone()
    labels[0, 0, :5], found[0, 0, 5:] = 1, 1
    assert overlap_loss(labels, found, (5,)) == pytest.approx(0.25 / 10)


def test_an_absent_thing_costs_by_what_is_marked_of_it() -> None:
    found = BLACK.clone()
    found[0, 0] = 1
    assert overlap_loss(BLACK, found, tuple(range(10))) == pytest.approx(0.5)
    found[0, 0, 1:] = 0
    assert overlap_loss(BLACK, found, (0,)) == pytest.approx(0.5 / 10)  # nearly empty: less and less


def test_of_two_things_each_has_its_own_overlap() -> None:
    labels = BLACK.clone()
    labels[0, 0, :2], labels[0, 1:5] = 2, 1
    assert overlap_loss(labels, labels, (0,)) == pytest.approx(1 / 2 / 2)  # the mean of two overlaps
    assert overlap_loss(labels, labels, (5,)) == pytest.approx((1 / 2 + 1 / 40) / 2 / 2)


def test_overlap_counts_shared_over_all() -> None:
    one, two = torch.zeros(2, 2, 2, dtype=torch.bool), torch.zeros(2, 2, 2, dtype=torch.bool)
    one[0, 0], two[0, :, 0] = True, True
    assert overlap(one, two).tolist() == pytest.approx([1 / 3, 1.0])


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


def test_orthogonal_matrices_have_singular_values_near_one() -> None:
    for shape in ((24, 8), (8, 24)):
        matrices = torch.randn(3, *shape) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
        together = orthogonal(matrices)
        values = torch.linalg.svdvals(together)
        assert values.min() > 0.5
        assert values.max() < 1.5
        alone = torch.cat([orthogonal(matrix[None]) for matrix in matrices])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_an_export_answers_in_transformers_as_here(tmp_path: Path) -> None:
    export(new_network(TINY, seed=0), tmp_path)
    ours = load(resolve(tmp_path), dtype=torch.float32)
    theirs = Reference.from_pretrained(tmp_path, dtype=torch.float32).eval()
    images = torch.randn(3, 2, 3, 32, 32)
    with torch.inference_mode():
        answer = ours(*images, answer_only=True).pred_masks
        # One pair at a time: transformers averages a batch's examples, ours only within a request.
        reference = torch.cat([theirs(*(image[i : i + 1] for image in images)).pred_masks for i in range(2)])
    torch.testing.assert_close(answer, reference[:, :, 32:], atol=1e-5, rtol=1e-5)


def test_an_export_has_a_processor_of_its_size_and_true_checksums(tmp_path: Path) -> None:
    export(new_network(TINY, seed=0), tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == {"height": 32, "width": 32}
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    assert {"config.json", "model.safetensors"} <= set(sums)
    for name, digest in sums.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_a_snapshot_and_a_checkpoint_are_exported_as_the_mean_of_their_weights_at_another_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (new_network(TINY, seed=seed).state_dict() for seed in (0, 1))
    Snapshot(TINY, weights=other, average=one).save(tmp_path / "snapshot.pt")
    export(new_network(TINY, seed=1), tmp_path / "checkpoint", dtype=torch.float32)
    command = [str(tmp_path / "snapshot.pt"), str(tmp_path / "checkpoint"), "--out", str(tmp_path / "out")]
    export_command([*command, "--size", "64"])
    assert "64 pixels" in capsys.readouterr().out
    made = load(resolve(tmp_path / "out"), dtype=torch.float32)
    assert made.config.half_size == (64, 64)
    name = "model.encoder.layers.0.mlp.lin1.weight"
    expected = (one[name].double() + other[name].double()) / 2
    torch.testing.assert_close(made.state_dict()[name].double(), expected, atol=1e-3, rtol=1e-3)  # fp16 on disk
    torch.testing.assert_close(load(resolve(tmp_path / "checkpoint")).state_dict()[name], other[name], atol=0, rtol=0)


def test_there_is_no_mean_of_networks_of_unlike_shape() -> None:
    with pytest.raises(ValueError, match="no mean of"):
        mean([new_network(TINY, seed=0), new_network(tiny_config(64), seed=0)])


def test_queries_and_keys_of_a_fresh_network_are_alike() -> None:
    query, key, value = new_network(TINY, seed=0).model.encoder.layers[0].attention.qkv.weight.detach().chunk(3)
    assert torch.corrcoef(torch.stack([query.flatten(), key.flatten()]))[0, 1] > 0.7
    assert torch.corrcoef(torch.stack([query.flatten(), value.flatten()]))[0, 1].abs() < 0.1


def test_the_tables_of_distances_keep_their_ends_on_a_larger_canvas() -> None:
    small = new_network(TINY, seed=0)
    for layer in small.model.encoder.layers:
        torch.nn.init.normal_(layer.attention.rel_pos_h)
    large = resized(small, tiny_config(64))
    before, after = (one.model.encoder.layers[0].attention.rel_pos_h for one in (small, large))
    assert after.shape[0] == 2 * 16 - 1
    torch.testing.assert_close(after[[0, -1]], before[[0, -1]])
    torch.testing.assert_close(after[15], before[7])  # distance 0


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
