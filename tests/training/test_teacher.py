"""The teacher is DINOv2, a network begins with its blocks, and what it teaches is learnt."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from transformers import Dinov2Model

from model.config import SegGptConfig
from model.layout import Layout
from model.seggpt import SegGptForImageSegmentation
from training import command
from training.draw import Dice
from training.inherit import inherited, inherited_blocks, resampled_kernel
from training.initialise import new_network
from training.mixtures import HELD_OUT_SEED, drawn_mixture
from training.painting import answer
from training.recipe import BUNDLED, Recipe, Stage, bundled_config, short_config
from training.run_folder import Existing, RunFolder
from training.scenes import SceneMaker, Scenes
from training.snapshot import Snapshot
from training.teacher import Heard, Lesson, Teacher, heard_blocks, listening
from training.train import Run

SMALL = short_config(32)
WIDE = replace(
    SMALL, hidden_size=48, num_attention_heads=3, mlp_dim=64, pretrain_image_size=64, num_hidden_layers=6
)  # as wide as the teacher of the tests
RECIPE = Recipe(
    stages=(Stage(0.5, 32, 8), Stage(1.0, 48, 8)),
    pairs=64,
    warm_up_steps=2,
    report_every=4,
    precision=torch.float32,
    ensembles=0.3,
    taught=1.0,
    taught_every=2,
)


@pytest.fixture(scope="module")
def makers() -> Callable[[Dice], SceneMaker]:
    drawn = drawn_mixture(Dice(0))
    return lambda dice: SceneMaker([(1.0, drawn.sources[0])], dice, random_colours=0.1)


@pytest.fixture
def taught_run(dinov2: Path, makers: Callable[[Dice], SceneMaker]) -> Callable[..., Run]:
    def make(out: Path, existing: Existing = "refuse", start: SegGptConfig = SMALL, **changed: Any) -> Run:
        judge, folder = makers(Dice(HELD_OUT_SEED)), RunFolder(out, existing)
        return Run(replace(RECIPE, **changed), makers, judge, folder, start=start, teacher=dinov2)

    return make


def step(run: Run) -> None:
    run._enter(run.recipe.stage(run.progress))
    run.gradients()
    run.step()


def test_the_teacher_sees_what_the_published_network_sees(dinov2: Path) -> None:
    published = Dinov2Model.from_pretrained(dinov2).eval()
    pictures = torch.rand(2, 3, 112, 112) * 255
    with torch.inference_mode():
        states = published(_units(pictures), output_hidden_states=True).hidden_states
    seen = Teacher(dinov2)(pictures, (8, 8))
    for own, block in zip(seen, (8, 10), strict=True):  # of twelve; states[0] is what goes into the first
        assert (own - states[block][:, 1:]).norm() < 0.02 * states[block].norm()  # bfloat16 where it is native


def test_a_smaller_picture_is_enlarged_to_the_places_asked_for(dinov2: Path) -> None:
    teacher, pictures = Teacher(dinov2), torch.rand(1, 3, 32, 32) * 255
    assert teacher(pictures, (4, 6)).shape == (2, 1, 24, 48)


def test_what_the_teacher_always_sees_is_taken_off(dinov2: Path) -> None:
    teacher, pictures = Teacher(dinov2), torch.rand(4, 3, 56, 56) * 255
    before = teacher(pictures, (4, 4))
    teacher.measure(pictures, (4, 4))
    after = teacher(pictures, (4, 4))
    torch.testing.assert_close(after.mean((1, 2)), torch.zeros(2, 48), atol=1e-3, rtol=0)
    torch.testing.assert_close(after.flatten(1, 2).std(1), torch.ones(2, 48), atol=1e-3, rtol=0)
    torch.testing.assert_close(teacher.scaled(before), after)


@pytest.mark.parametrize("examples", [1, 2])
def test_right_guesses_are_no_loss_and_every_token_is_compared_with_its_own_place(
    dinov2: Path, makers: Callable[[Dice], SceneMaker], examples: int
) -> None:
    lesson, scenes = Lesson(48, seed=0, source=dinov2), makers(Dice(1)).batch(2, 32, examples)
    prompts, inputs = lesson.teacher(scenes.prompt_image, (4, 4)), lesson.teacher(scenes.image[::examples], (4, 4))
    layout = Layout((examples,) * 2, 16, 16)
    perfect = [layout.flat(*both) for both in zip(prompts, inputs, strict=True)]
    assert lesson(scenes, examples, Heard(layout, perfect, (4, 4))).item() == pytest.approx(0, abs=1e-4)
    assert lesson(scenes, examples, Heard(layout, [own.roll(1, 0) for own in perfect], (4, 4))).item() > 0.05
    assert lesson(scenes, examples, Heard(layout, perfect[::-1], (4, 4))).item() > 0.05


def test_listening_leaves_the_network_as_it_was(
    taught_run: Callable[..., Run], makers: Callable[[Dice], SceneMaker], tmp_path: Path
) -> None:
    run = taught_run(tmp_path)
    scenes = makers(Dice(1)).batch(2, 32)
    before = answer(run.network, scenes)
    with listening(run.network) as heard:
        assert torch.equal(answer(run.network, scenes), before)
    [(layout, tokens, grid)] = heard
    assert (layout.pairs, [own.shape for own in tokens], grid) == (2, [(2 * 2 * 16, SMALL.hidden_size)] * 2, (4, 4))
    answer(run.network, scenes)
    assert len(heard) == 1


@pytest.mark.parametrize("painted", [True, False])
def test_what_is_taught_is_learnt_by_the_encoder_itself(
    taught_run: Callable[..., Run], tmp_path: Path, painted: bool
) -> None:
    run = taught_run(tmp_path, stages=(Stage(1.0, 32, 8, painted=painted),), pairs=10**6, learning_rate=3e-3)
    first = run.network.model.encoder.layers[0].mlp.lin1.weight
    early, losses = first.detach().clone(), []
    for _ in range(40):
        step(run)
        losses.append(run.unlike)
    assert sum(losses[-6:]) < 0.95 * sum(losses[:6])  # type: ignore[arg-type]
    assert not torch.equal(first, early)
    of_decoder = [parameter.grad for parameter in run.network.decoder.parameters()]
    assert any(gradient is not None and bool(gradient.any()) for gradient in of_decoder) == painted


def test_a_stage_that_does_not_paint_paints_nothing_and_logs_no_loss(
    taught_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = (Stage(0.5, 32, 8, painted=False), Stage(1.0, 32, 8))
    run = taught_run(tmp_path, stages=stages, report_every=2, masked=0.5)
    painted = []
    run.fast.decoder.register_forward_hook(lambda *_: painted.append(run.stage.painted))
    run.train()
    assert painted == [True] * 4
    with (tmp_path / "log.csv").open(newline="") as file:
        losses = [row["loss"] for row in csv.DictReader(file)]
    assert losses[:2] == ["", ""]
    assert all(float(loss) > 0 for loss in losses[2:])
    assert "nan" not in capsys.readouterr().err


def test_painted_steps_are_taught_now_and_then(taught_run: Callable[..., Run], tmp_path: Path) -> None:
    run = taught_run(tmp_path, pairs=10**6)
    taught = []
    for _ in range(5):
        run.unlike = None
        step(run)
        taught.append(run.unlike is not None)
    assert taught == [True, False, True, False, True]


def test_a_run_that_goes_on_from_a_network_begins_with_the_best_linear_guesses(
    taught_run: Callable[..., Run], makers: Callable[[Dice], SceneMaker], tmp_path: Path
) -> None:
    network = new_network(SMALL, 0)
    run = taught_run(tmp_path, start=network)
    lesson = run.lesson
    assert lesson is not None

    @torch.no_grad()
    def tokens_and_teacher(scenes: Scenes) -> tuple[Tensor, Tensor]:
        with listening(run.network) as heard:
            answer(run.network, scenes)
        layout, tokens, grid = heard[0]
        halves = lesson.teacher(scenes.prompt_image, grid), lesson.teacher(scenes.image, grid)
        return torch.stack(tokens), torch.stack([layout.flat(*both) for both in zip(*halves, strict=True)])

    learnt, others = (tokens_and_teacher(makers(Dice(seed)).batch(128, 32)) for seed in (7, 8))
    for block, layer in enumerate(lesson.guess):
        best = Ridge(alpha=1e-3).fit(learnt[0][block], learnt[1][block]).predict(others[0][block])
        right = others[1][block]
        with torch.no_grad():
            guessed = lesson.teacher.scaled(layer(others[0]))[block]
        assert (guessed - right).norm() < 1.02 * (torch.from_numpy(best) - right).norm()
        assert (guessed - right).norm() < 0.98 * (right - right.mean(0)).norm()
    step(run)
    run.report(1.0, 0.0)
    run.folder.close()
    resumed = taught_run(tmp_path, start=network, existing="resume")
    assert resumed.lesson is not None
    for one, other in zip(run.lesson.guess.parameters(), resumed.lesson.guess.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_taught_run_is_repeatable_and_goes_on_where_it_was(taught_run: Callable[..., Run], tmp_path: Path) -> None:
    one, again = (taught_run(tmp_path / name) for name in ("one", "again"))
    for _ in range(5):
        for run in (one, again):
            step(run)
        assert one.unlike == again.unlike
    one.report(1.0, 0.0)
    one.folder.close()
    resumed = taught_run(tmp_path / "one", existing="resume")
    assert one.lesson is not None
    assert resumed.lesson is not None
    for name, weight in one.lesson.state_dict().items():
        assert torch.equal(weight, resumed.lesson.state_dict()[name]), name
    resumed.train()
    assert Snapshot.load(tmp_path / "one" / "snapshot.pt").pairs == 64


def test_a_network_of_the_teachers_depth_and_units_sees_what_the_teacher_sees(dinov2: Path) -> None:
    """The whole way of the weights: nothing is left out here, so only the missing class token and the masks differ."""
    teacher = Teacher(dinov2)
    config = replace(
        WIDE,
        num_hidden_layers=12,
        mlp_dim=192,
        patch_size=14,
        image_size=(112, 56),
        pretrain_image_size=112,
        intermediate_hidden_state_indices=(7, 9),
    )
    pictures = torch.rand(4, 3, 56, 56) * 255
    with torch.no_grad():  # no class token, and a picture attends to itself alone
        network = inherited(config, teacher, pictures, seed=0).eval()
        published = teacher.network
        states = published.embeddings.patch_embeddings(_units(pictures))
        places = published.embeddings.interpolate_pos_encoding(torch.zeros(1, 17, 48), 56, 56)
        states = states + places[:, 1:]
        layers, ours = network.model.encoder.layers, network.model.embeddings
        layout = Layout((1, 1), 16, 16)
        upper, lower = ours.positions()
        tokens = ours.patch_embeddings(_units(pictures)) + torch.stack([upper, upper, lower, lower])
        torch.testing.assert_close(tokens, 2 * states, atol=1e-4, rtol=1e-4)
        for block, layer in zip(published.encoder.layer, layers, strict=True):
            theirs = block(torch.cat([states[:2], states[2:]], 1))
            states = theirs.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 1)
            _, flat, _ = layer(layout.flat(tokens[:2], tokens[2:]), layout, 16)
            tokens = torch.cat(layout.halves(flat))
            if layer is layers[0]:
                torch.testing.assert_close(tokens, 2 * states, atol=1e-3, rtol=1e-3)
                tokens = tokens / 2  # what the merge does to it
        torch.testing.assert_close(tokens, states, atol=1e-2, rtol=1e-2)


def _units(pictures: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (pictures / 255 - mean) / deviation


def test_the_units_that_give_most_are_kept(dinov2: Path, tmp_path: Path) -> None:
    network = Dinov2Model.from_pretrained(dinov2)
    with torch.no_grad():
        for layer in network.encoder.layer:
            layer.mlp.fc2.weight[:, ::3] = 0  # a third of the 192 units gives nothing
    network.save_pretrained(tmp_path)
    made = inherited(replace(WIDE, mlp_dim=128), Teacher(tmp_path), torch.rand(2, 3, 32, 32) * 255, seed=0)
    for layer in made.model.encoder.layers:
        assert (layer.mlp.lin2.weight.norm(dim=0) > 0).all()


def test_a_resampled_kernel_gives_what_the_kernel_gives_for_the_enlarged_patch() -> None:
    kernel, patches = torch.randn(5, 3, 14, 14), torch.randn(2, 3, 8, 8)
    enlarged = torch.nn.functional.interpolate(patches, (14, 14), mode="bicubic")
    wanted = torch.nn.functional.conv2d(enlarged, kernel)
    torch.testing.assert_close(
        torch.nn.functional.conv2d(patches, resampled_kernel(kernel, 8)), wanted, atol=1e-3, rtol=1e-3
    )


def test_blocks_that_are_listened_to_begin_as_their_counterparts() -> None:
    assert heard_blocks(12) == (7, 9)
    assert inherited_blocks(6, 12) == (0, 2, 5, 7, 9, 10)
    assert inherited_blocks(12, 12) == (*range(11), 11)
    for depth in (6, 8, 9):
        blocks = inherited_blocks(depth, 12)
        assert [blocks[block] for block in heard_blocks(depth)] == [7, 9]


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_size", 96), ("num_attention_heads", 6), ("pretrain_image_size", 128)]
)
def test_a_shape_that_does_not_fit_the_teacher_is_named(dinov2: Path, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        inherited(replace(WIDE, **{name: value}), Teacher(dinov2), torch.rand(2, 3, 32, 32) * 255, seed=0)


def test_a_run_of_the_teachers_width_begins_with_its_blocks(taught_run: Callable[..., Run], tmp_path: Path) -> None:
    run = taught_run(tmp_path, start=WIDE)
    assert run.lesson is not None
    theirs = run.lesson.teacher.network.encoder.layer[7].norm1.weight
    assert torch.equal(run.network.model.encoder.layers[3].layernorm_before.weight, theirs)


def test_the_bundled_recipe_fits_the_published_teacher_and_learns_from_it_first() -> None:
    first, *others = BUNDLED.stages
    config = bundled_config(first.size)
    assert (config.hidden_size, config.num_attention_heads) == (384, 6)  # as facebook/dinov2-small
    assert config.pretrain_image_size == config.image_size[0]
    assert not first.painted
    assert all(stage.painted for stage in others)
    assert sum(parameter.numel() for parameter in _parameters(config)) * 2 < 16e6  # bytes as fp16


def _parameters(config: SegGptConfig) -> list[Tensor]:
    with torch.device("meta"):
        return list(SegGptForImageSegmentation(config).parameters())


def test_without_a_teachers_stages_the_others_fill_the_run() -> None:
    stages = (Stage(0.2, 8, 1, painted=False), Stage(0.6, 8, 1), Stage(1.0, 16, 1))
    painting = Recipe(stages, taught=1.0).painting().stages
    assert [(stage.until, stage.size) for stage in painting] == [(pytest.approx(0.5), 8), (1.0, 16)]
    with pytest.raises(ValueError, match="a stage that does not paint learns from a teacher, and taught is 0"):
        Recipe(stages)


def test_a_missing_teacher_is_said_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "teacher_is_there", lambda: False)
    with pytest.raises(SystemExit):
        command.main(["bundled", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "seggpt-serve[teacher]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
