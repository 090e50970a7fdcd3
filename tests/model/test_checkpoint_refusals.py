"""Whatever is wrong with a local checkpoint is said in one line that names it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import CheckpointError, load, resolve
from tests.model.conftest import TINY, reference_of, refusal_of, write_original


def test_a_path_that_is_not_there_is_refused(tmp_path):
    for source in (tmp_path / "nothing", "./nothing/at/all", "nothing.safetensors", "folder/nothing.pth", "", "a b/c"):
        assert "no such file or folder" in refusal_of(source)


def test_a_folder_without_a_config_or_weights_is_refused(saved):
    (saved.folder / "model.safetensors").rename(saved.folder / "pytorch_model.bin")
    assert "neither model.safetensors nor" in refusal_of(saved.folder)
    (saved.folder / "config.json").unlink()
    assert "has no config.json" in refusal_of(saved.folder)


def test_missing_surplus_and_misshapen_tensors_are_named(saved):
    path = saved.folder / "model.safetensors"
    tensors = load_file(path)
    for index in range(5):
        del tensors[f"model.encoder.layers.{index}.attention.qkv.bias"]
        tensors[f"surplus.{index}"] = torch.zeros(1)
    tensors["model.embeddings.mask_token"] = torch.zeros(1, 64)
    save_file(tensors, path)
    message = refusal_of(saved.folder)
    assert "5 missing: model.encoder.layers.0.attention.qkv.bias, " in message
    assert "5 surplus: surplus.0, surplus.1, surplus.2 and 2 more" in message
    assert "1 misshapen: model.embeddings.mask_token is (1, 64), must be (1, 1, 1, 64)" in message


def test_tensors_of_an_original_checkpoint_are_named_as_there(saved, tmp_path):
    path = write_original(tmp_path / "original.pth", saved.model)
    shutil.copy(saved.folder / "config.json", tmp_path)
    content = torch.load(path, weights_only=True)
    content["model"]["blocks.0.attn.extra"] = content["model"].pop("blocks.0.attn.rel_pos_h")
    content["model"]["pos_embed"] = torch.zeros(1, 2, 64)
    torch.save(content, path)
    message = refusal_of(path)
    assert "1 missing: blocks.0.attn.rel_pos_h" in message
    assert "1 surplus: blocks.0.attn.extra" in message
    assert "pos_embed is (1, 2, 64)" in message


def test_a_config_of_another_network_is_refused(saved):
    replace(TINY, num_hidden_layers=8).save_json(saved.folder / "config.json")
    assert "28 missing: model.encoder.layers.6." in refusal_of(saved.folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not a SegGPT config"),
        ("[]", "holds an object"),
        ('{"model_type": "vit"}', "model_type is 'vit'; it must be 'seggpt'"),
        ('{"hidden_size": -1}', "hidden_size is -1; it must be"),
    ],
)
def test_a_config_that_is_none_is_refused(saved, content, said):
    (saved.folder / "config.json").write_text(content)
    message = refusal_of(saved.folder)
    assert said in message
    assert str(saved.folder / "config.json") in message


def test_a_truncated_file_is_refused(saved):
    path = saved.folder / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "is damaged or not a safetensors file" in refusal_of(saved.folder)


def test_a_file_of_something_else_is_refused(saved):
    path = saved.folder / "model.safetensors"
    for content in (b"GIF89a" + bytes(1000), os.urandom(1000), b"<!DOCTYPE html>" * 50):
        path.write_bytes(content)
        assert "is damaged or not a safetensors file" in refusal_of(saved.folder)


@pytest.mark.parametrize("is_zip", [True, False], ids=["as torch writes it", "as torch wrote it before 1.6"])
def test_a_pickle_of_weights_is_called_one_not_damaged(saved, is_zip: bool):
    path = saved.folder / "pytorch_model.bin"
    torch.save(saved.model.state_dict(), path, _use_new_zipfile_serialization=is_zip)
    said = refusal_of(path)
    assert "is a pickle of torch.save" in said
    assert "damaged" not in said


def test_a_git_lfs_pointer_is_recognised(saved):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (saved.folder / "model.safetensors").write_text(pointer)
    assert "git lfs pull" in refusal_of(saved.folder)


def test_a_file_without_floating_point_is_refused(saved):
    path = saved.folder / "model.safetensors"
    save_file({name: tensor.to(torch.int8) for name, tensor in load_file(path).items()}, path)
    message = refusal_of(saved.folder)
    assert "is torch.int8" in message
    assert "allowed are torch.float16" in message


def test_a_lone_file_of_another_shape_without_config_is_refused(saved, tmp_path):
    tensors = load_file(saved.folder / "model.safetensors")
    save_file(tensors, tmp_path / "bare.safetensors")
    message = refusal_of(tmp_path / "bare.safetensors")
    assert "has no config.json beside it and is not of the published shape" in message
    assert "must be (1, 1, 1, 1024)" in message


@pytest.mark.parametrize("content", [{}, {"weights": {}}, [1, 2], {"model": {"a": 3}}, {"model": [torch.zeros(1)]}])
def test_a_pth_that_is_not_an_original_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    assert "an original checkpoint has its tensors under 'model'" in refusal_of(tmp_path / "other.pth")


class Intruder:
    """Runs code when it is unpickled, as a malicious .pth would."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch intruded",)


def test_a_pth_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Intruder()}, "evil.pth")
    assert "is damaged or not an original checkpoint" in refusal_of("evil.pth")
    assert not Path("intruded").exists()


def test_a_damaged_pth_is_refused(saved, tmp_path):
    path = write_original(tmp_path / "original.pth", saved.model)
    whole = path.read_bytes()
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:-1], os.urandom(500), b"\x80\x04K\x01."):
        path.write_bytes(content)
        assert str(path) in refusal_of(path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}', '{"weight_map": {"a": "../model.safetensors"}}'],
)
def test_an_index_that_is_none_is_refused(saved, content):
    (saved.folder / "model.safetensors").unlink()
    (saved.folder / "model.safetensors.index.json").write_text(content)
    assert "is not an index of safetensors files" in refusal_of(saved.folder)


def test_a_missing_shard_is_named(tmp_path):
    reference_of(TINY).save_pretrained(tmp_path, max_shard_size="500KB")
    next(tmp_path.glob("model-00002-*")).unlink()
    assert "model-00002-of-" in refusal_of(tmp_path)


def test_a_file_that_goes_or_changes_after_it_was_resolved_is_refused(saved):
    checkpoint = resolve(saved.folder)
    save_file({"other": torch.zeros(1)}, checkpoint.weights)
    with pytest.raises(CheckpointError, match="does not fit its config"):
        load(checkpoint)
    checkpoint.weights.unlink()
    with pytest.raises(CheckpointError, match="is not there"):
        load(checkpoint)
