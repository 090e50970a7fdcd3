"""Loss, first weights, one run, export."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import SegGptForImageSegmentation as Reference

from model.checkpoint import load, resolve
from model.config import SegGptConfig
from training import train
from training.export import export
from training.initialise import new_network, resized
from training.loss import balanced_loss, overlap
from training.snapshot import Snapshot, follow
from training.train import Recipe, Run

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


def tiny_run(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Run:
    monkeypatch.setattr(train, "small_config", tiny_config)
    recipe = replace(
        Recipe(size=32, batch=8, pairs=64, warm_up_steps=2, report_every=4, precision=torch.float32), **changes
    )
    return Run(recipe, data, out, None, torch.device("cpu"))


def test_object_and_background_weigh_the_same_however_small_the_object() -> None:
    area = torch.zeros(1, 10, 10, dtype=torch.bool)
    area[0, 0, :2] = True
    wanted = torch.zeros(1, 3, 10, 10)
    object_wrong, background_wrong = wanted + 3.0 * area, wanted + 3.0 * ~area
    assert balanced_loss(object_wrong, wanted, area) == pytest.approx(
        balanced_loss(background_wrong, wanted, area).item()
    )
    plain = [balanced_loss(painted, wanted, area, balance=0.0) for painted in (object_wrong, background_wrong)]
    assert plain[1] == pytest.approx(49 * plain[0].item())


def test_the_loss_of_a_perfect_answer_is_zero() -> None:
    wanted = torch.randn(2, 3, 4, 4)
    assert balanced_loss(wanted, wanted, torch.rand(2, 4, 4) > 0.5) == 0


def test_overlap_counts_shared_over_all() -> None:
    one, two = torch.zeros(2, 2, 2, dtype=torch.bool), torch.zeros(2, 2, 2, dtype=torch.bool)
    one[0, 0], two[0, :, 0] = True, True
    assert overlap(one, two).tolist() == pytest.approx([1 / 3, 1.0])


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_a_few_steps_lower_the_loss(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str
) -> None:
    run = tiny_run(data, tmp_path, monkeypatch, optimiser=optimiser)
    scenes, kind = next(run.batches())
    losses = []
    for _ in range(8):
        losses.append(run.gradients(scenes, kind, 0.0)[1])
        run.step(3e-3)
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_ends_logs_and_can_be_resumed_at_another_size(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(data, tmp_path, monkeypatch)
    run.train()
    snapshot = Snapshot.load(tmp_path / "snapshot.pt")
    assert snapshot.pairs == 64
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 3
    assert list(tmp_path.glob("samples_*.png"))
    larger = replace(run.recipe, size=48, pairs=8)
    Run(larger, data, tmp_path, tmp_path / "snapshot.pt", torch.device("cpu")).train()
    assert Snapshot.load(tmp_path / "snapshot.pt").pairs == 72
    assert Snapshot.load(tmp_path / "snapshot.pt").config.image_size == (96, 48)


def test_an_exported_snapshot_answers_in_transformers_as_here(tmp_path: Path) -> None:
    network = new_network(TINY, seed=0)
    state = network.state_dict()
    export(Snapshot(TINY, state, state, pairs=1), tmp_path)
    ours = load(resolve(tmp_path), dtype=torch.float32)
    theirs = Reference.from_pretrained(tmp_path, dtype=torch.float32).eval()
    images = torch.randn(3, 2, 3, 32, 32)
    with torch.inference_mode():
        answer = ours(*images, answer_only=True).pred_masks
        # One pair at a time: transformers averages a batch's examples, ours only within a request.
        reference = torch.cat([theirs(*(image[i : i + 1] for image in images)).pred_masks for i in range(2)])
    torch.testing.assert_close(answer, reference[:, :, 32:], atol=1e-5, rtol=1e-5)


def test_an_export_has_a_processor_of_its_size_and_true_checksums(tmp_path: Path) -> None:
    state = new_network(TINY, seed=0).state_dict()
    export(Snapshot(TINY, state, state), tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == {"height": 32, "width": 32}
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    assert {"config.json", "model.safetensors"} <= set(sums)
    for name, digest in sums.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


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
