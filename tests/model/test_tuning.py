"""In-context tuning: what is learned, what stays as it was, and the file that it goes to."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.checkpoint import fingerprint, load, resolve, save
from model.runner import Runner
from model.seggpt import SegGptForImageSegmentation
from model.tuned_prompt import TunedPrompt, TunedPromptError, name_of
from model.tuning import Check, Tuning, TuningSettings, intersection_over_union, soft_intersection_over_union
from model.tuning_data import Pictures, TuningDataError, augmented, read_folder
from tests.model.conftest import TINY, Saved, draw_weights, write_original

SIZE = TINY.half_size
FEW = TuningSettings(steps=12, check_every=4, batch=3, learning_rate=12.0)


def pictures(count: int = 8, seed: int = 0) -> Pictures:
    """Bright squares on dark noise."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 90, (count, *SIZE, 3), dtype=np.uint8)
    masks = np.zeros_like(images)
    for image, mask in zip(images, masks, strict=True):
        top, left = random.integers(0, SIZE[0] // 2, 2)
        place = slice(top, top + SIZE[0] // 3), slice(left, left + SIZE[0] // 3)
        image[place] += 150
        mask[place] = 255
    return Pictures(torch.from_numpy(images), torch.from_numpy(masks))


@pytest.fixture
def network() -> SegGptForImageSegmentation:
    model = SegGptForImageSegmentation(TINY).eval()
    draw_weights(model, seed=0)
    return model


def tuned(model: SegGptForImageSegmentation, settings: TuningSettings = FEW) -> tuple[Tuning, list[Check]]:
    tuning = Tuning(model, pictures(), settings)
    return tuning, list(tuning.run())


def test_the_loss_falls_and_no_weight_changes(network: SegGptForImageSegmentation) -> None:
    before = deepcopy(network.state_dict())
    tuning, checks = tuned(network, replace(FEW, steps=40, check_every=10))
    losses = [check.loss for check in checks[1:]]
    assert losses == sorted(losses, reverse=True)  # no further: random weights paint no masks
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert tuning.images.dtype == tuning.masks.dtype == torch.uint8
    assert tuning.images.shape == tuning.masks.shape == (1, *SIZE, 3)


def test_the_best_until_now_is_kept(network: SegGptForImageSegmentation) -> None:
    tuning, checks = tuned(network)
    assert [check.step for check in checks] == [0, 4, 8, 12]
    assert math.isnan(checks[0].loss)
    assert tuning.iou_before == checks[0].iou
    assert tuning.iou_after == checks[-1].best_iou
    assert tuning.iou_after in {check.iou for check in checks}
    assert tuning.score(tuning.images, tuning.masks, tuning.held_out) == tuning.iou_after


def test_what_was_tuned_is_what_is_served(network: SegGptForImageSegmentation) -> None:
    tuning, _ = tuned(network, replace(FEW, prompts=2))
    runner = Runner(deepcopy(network), "float32")
    shown = pictures(3, seed=9).images
    for index, grey in enumerate(tuning.grey(tuning.images, tuning.masks, shown)):
        stream = runner.mask_stream(tuning.masks, ["instance"], [2])
        painted = runner.paint(torch.cat((shown[index : index + 1], tuning.images)), ["instance"], [2], stream)
        served = painted.levels[0, ..., 3]
        assert (served.int() - grey.int()).abs().max() <= 1  # other kernels round differently


def test_a_seed_gives_the_same_prompt_again_and_another_one_another(network: SegGptForImageSegmentation) -> None:
    one, two, other = (tuned(network, replace(FEW, seed=seed))[0] for seed in (3, 3, 4))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.masks, two.masks)
    assert not torch.equal(one.images, other.images)


def test_held_out_pictures_are_not_trained_on(network: SegGptForImageSegmentation) -> None:
    everything = pictures()
    tuning = Tuning(network, everything, FEW)
    assert len(tuning.held_out) == 2
    known = {image.numpy().tobytes() for image in tuning._training.images}
    assert len(known) == 6
    assert not known & {image.numpy().tobytes() for image in tuning.held_out.images}


def test_time_ends_it_and_there_is_a_prompt(network: SegGptForImageSegmentation) -> None:
    tuning, checks = tuned(network, replace(FEW, steps=1_000_000, check_every=1_000_000, minutes=1e-4))
    assert 1 <= checks[-1].step < 1_000_000 or len(checks) == 1
    assert not math.isnan(tuning.iou_after)


def test_it_may_be_left_at_any_time(network: SegGptForImageSegmentation) -> None:
    tuning = Tuning(network, pictures(), FEW)
    for _ in tuning.run():
        break
    assert tuning.images.shape == (1, *SIZE, 3)
    assert tuning.iou_after == tuning.iou_before


@pytest.mark.parametrize(
    ("setting", "value"),
    [("prompts", 0), ("steps", 0), ("batch", 0), ("learning_rate", 0.0), ("minutes", -1.0), ("held_out", 1.0)],
)
def test_settings_that_mean_nothing_are_refused_by_name(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} is {value}"):
        replace(FEW, **{setting: value})


def test_it_needs_pictures_that_show_the_thing(network: SegGptForImageSegmentation) -> None:
    black = Pictures(pictures().images, torch.zeros_like(pictures().masks))
    with pytest.raises(ValueError, match="0 of the 6 training pictures show the thing"):
        Tuning(network, black, FEW)


def test_overlap_of_two_empty_masks_is_whole() -> None:
    found, areas = torch.zeros(3, 2, 2, dtype=torch.bool), torch.zeros(3, 2, 2, dtype=torch.bool)
    found[1:, 0] = areas[2] = True
    assert intersection_over_union(found, areas).tolist() == [1, 0, 0.5]
    assert soft_intersection_over_union(found * 255, areas).tolist() == [1, 0, 0.5]
    assert soft_intersection_over_union(found * 51, areas).tolist() == pytest.approx([1, 0, 0.1])


# Pictures.


def write(folder: Path, count: int = 4) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    drawn = pictures(count)
    for index in range(count):
        image, mask = (Image.fromarray(part[index].numpy()) for part in (drawn.images, drawn.masks))
        image.resize((120, 90)).save(folder / "images" / f"{index}.png")
        mask.convert("L").resize((120, 90)).save(folder / "masks" / f"{index}.png")
    return folder


def test_a_folder_is_read_as_the_service_reads_pictures(tmp_path: Path) -> None:
    from app.preprocess import mask_to_cell, to_cell

    read = read_folder(write(tmp_path), SIZE)
    assert len(read) == 4
    with Image.open(tmp_path / "images" / "2.png") as image, Image.open(tmp_path / "masks" / "2.png") as mask:
        assert np.array_equal(read.images[2].numpy(), to_cell(image, SIZE))
        white = mask.point([255 * (level > 127) for level in range(256)])
        assert np.array_equal(read.masks[2].numpy(), mask_to_cell(white, SIZE))


def test_masks_move_with_their_pictures() -> None:
    drawn = pictures(8)
    varied = augmented(drawn, torch.Generator().manual_seed(0))
    assert not torch.equal(varied.images, drawn.images)
    bright = varied.images.float().mean(dim=-1) > 110
    assert intersection_over_union(bright, varied.areas).mean() > 0.8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "masks" / "1.png").unlink(), "'1' has no mask"),
        (lambda folder: (folder / "images" / "1.png").unlink(), "'1' has no image"),
        (lambda folder: (folder / "images" / "1.png").write_bytes(b"no"), r"1\.png cannot be read"),
        (lambda folder: Image.new("L", (90, 90)).save(folder / "masks" / "1.png"), "must have the image's aspect"),
        (lambda folder: Image.new("L", (120, 90), 1).save(folder / "masks" / "1.png"), "whose brightest pixel is 1"),
        (lambda folder: Image.new("L", (120, 90)).save(folder / "images" / "1.webp"), "allowed is one of a name"),
        (lambda folder: (folder / "masks").rename(folder / "m"), "masks is not there"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_in_one_line(tmp_path: Path, change: object, said: str) -> None:
    change(write(tmp_path))
    with pytest.raises(TuningDataError, match=said) as caught:
        read_folder(tmp_path, SIZE)
    assert "\n" not in str(caught.value)


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TuningDataError, match="got 3 pictures; tuning needs at least 4"):
        read_folder(write(tmp_path, 3), SIZE)


# The file, and the checkpoint that it fits.


def prompt(**changes: object) -> TunedPrompt:
    drawn = pictures(2)
    return replace(TunedPrompt(drawn.images, drawn.masks, "tiny", "0f" * 32, 0.25, 0.5), **changes)


def test_a_file_holds_what_was_tuned_and_equal_ones_are_equal(tmp_path: Path) -> None:
    for name in ("one", "two"):
        prompt().save(tmp_path / name, "seggpt 1.2")
    read = TunedPrompt.load(tmp_path / "one", "0f" * 32)
    assert torch.equal(read.images, prompt().images)
    assert torch.equal(read.masks, prompt().masks)
    assert (read.checkpoint, read.fingerprint, read.iou_before, read.iou_after) == ("tiny", "0f" * 32, 0.25, 0.5)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_file_for_another_checkpoint_or_of_another_kind_is_refused(tmp_path: Path, saved: Saved) -> None:
    prompt().save(tmp_path / "tuned.safetensors")
    with pytest.raises(TunedPromptError, match="tuned for 'tiny', whose fingerprint is 0f0f0f0f0f0f; this"):
        TunedPrompt.load(tmp_path / "tuned.safetensors", "ab" * 32)
    for path in (tmp_path / "nowhere", saved.folder / "config.json"):
        with pytest.raises(TunedPromptError, match=path.name):
            TunedPrompt.load(path)
    with pytest.raises(TunedPromptError, match="its format is"):
        TunedPrompt.load(saved.folder / "model.safetensors")


@pytest.mark.parametrize("images", [torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, dtype=torch.uint8)])
def test_learned_pictures_are_whole_numbers_of_three_channels(images: Tensor) -> None:
    with pytest.raises(TunedPromptError, match="uint8 of shape"):
        prompt(images=images, masks=images)


def test_a_fingerprint_is_that_of_the_weights_not_of_the_file(saved: Saved, tmp_path: Path) -> None:
    own = fingerprint(resolve(saved.folder))
    assert len(own) == 64
    original = write_original(tmp_path / "original.pth", saved.model)
    (tmp_path / "config.json").write_bytes((saved.folder / "config.json").read_bytes())
    assert fingerprint(resolve(original)) == own
    save(load(resolve(saved.folder)), tmp_path / "again")
    assert fingerprint(resolve(tmp_path / "again")) == own
    with torch.no_grad():
        for parameter in saved.model.parameters():
            parameter.mul_(1.001)
    save(saved.model, tmp_path / "trained")
    assert fingerprint(resolve(tmp_path / "trained")) != own


def test_a_checkpoint_is_called_by_the_last_part_of_its_path(saved: Saved) -> None:
    assert name_of(resolve(saved.folder)) == "checkpoint"
    assert name_of(replace(resolve(saved.folder), source="owner/name")) == "owner/name"
