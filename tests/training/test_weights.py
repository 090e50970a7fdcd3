"""First weights, the mean of several, export, the matrices' optimiser."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from transformers import SegGptForImageSegmentation as Reference

from model.checkpoint import load, resolve
from tests.training.tiny import TINY, tiny_config
from training.export import export, mean
from training.export import main as export_command
from training.initialise import new_network, resized
from training.muon import orthogonal
from training.snapshot import Snapshot


def test_queries_and_keys_of_a_fresh_network_are_alike() -> None:
    query, key, value = new_network(TINY, seed=0).model.encoder.layers[0].attention.qkv.weight.detach().chunk(3)
    assert torch.corrcoef(torch.stack([query.flatten(), key.flatten()]))[0, 1] > 0.7
    assert torch.corrcoef(torch.stack([query.flatten(), value.flatten()]))[0, 1].abs() < 0.1


def test_a_seed_says_all_of_a_fresh_network() -> None:
    one, other = new_network(TINY, seed=0).state_dict(), new_network(TINY, seed=0).state_dict()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_tables_of_distances_keep_their_ends_on_a_larger_canvas() -> None:
    small = new_network(TINY, seed=0)
    for layer in small.model.encoder.layers:
        torch.nn.init.normal_(layer.attention.rel_pos_h)
    large = resized(small, tiny_config(64))
    before, after = (one.model.encoder.layers[0].attention.rel_pos_h for one in (small, large))
    assert after.shape[0] == 2 * 16 - 1
    torch.testing.assert_close(after[[0, -1]], before[[0, -1]])
    torch.testing.assert_close(after[15], before[7])  # distance 0


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
