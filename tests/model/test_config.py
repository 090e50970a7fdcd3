"""A config.json goes in and out as transformers writes it; impossible values are refused by name."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import transformers

from model import SegGptConfig
from tests.model.conftest import TINY


def test_the_defaults_are_those_of_transformers():
    theirs = transformers.SegGptConfig().to_dict()
    for name, value in SegGptConfig().to_dict().items():
        if name != "architectures":
            assert theirs[name] == value or tuple(theirs[name]) == tuple(value), name


def test_a_config_written_by_transformers_round_trips(tmp_path: Path):
    transformers.SegGptConfig(**TINY.to_dict()).save_pretrained(tmp_path)
    config = SegGptConfig.from_json_file(tmp_path / "config.json")
    assert config == TINY
    written = json.loads((tmp_path / "config.json").read_text())
    config.save_json(tmp_path / "config.json")
    again = json.loads((tmp_path / "config.json").read_text())
    assert {**again, **written} == again  # nothing that transformers wrote was lost or changed
    assert SegGptConfig.from_json_file(tmp_path / "config.json") == TINY


def test_a_config_written_here_is_read_by_transformers(tmp_path: Path):
    TINY.save_json(tmp_path / "config.json")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.SegGptConfig)
    for name, value in TINY.to_dict().items():
        got = getattr(theirs, name)
        assert (list(got) if isinstance(got, tuple) else got) == value, name


def test_a_config_is_saved_and_read_as_in_transformers(tmp_path: Path):
    TINY.save_pretrained(tmp_path / "ours")
    assert transformers.SegGptConfig.from_pretrained(tmp_path / "ours").hidden_size == TINY.hidden_size
    transformers.SegGptConfig(**TINY.to_dict()).save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        assert SegGptConfig.from_pretrained(tmp_path / folder) == TINY
        assert SegGptConfig.from_pretrained(tmp_path / folder, beta=0.5) == replace(TINY, beta=0.5)


def test_unknown_keys_are_kept_and_written_back():
    values = {**TINY.to_dict(), "id2label": {"0": "cow"}, "_name_or_path": "somewhere"}
    config = SegGptConfig.from_dict(values)
    assert config == TINY
    assert config.to_dict() == values


def test_missing_keys_take_the_published_values():
    assert SegGptConfig.from_dict({"model_type": "seggpt"}) == SegGptConfig()


def test_mlp_dim_defaults_to_four_times_the_width():
    assert SegGptConfig().mlp_dim == 4096
    assert SegGptConfig.from_dict({"mlp_dim": None}).mlp_dim == 4096


def test_pairs_of_equal_sides_are_squares():
    assert SegGptConfig(patch_size=[16, 16], pretrain_image_size=[224, 224]) == SegGptConfig()


def test_one_number_is_a_square_canvas():
    assert SegGptConfig(image_size=448).half_size == (224, 448)


def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        TINY.hidden_size = 3


def test_sizes_are_derived():
    assert SegGptConfig().half_size == (448, 448)
    assert SegGptConfig().grid == (56, 28)
    assert SegGptConfig().head_dim == 64


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", -8),
        ("hidden_size", 64.0),
        ("hidden_size", "64"),
        ("hidden_size", None),
        ("hidden_size", True),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 7),
        ("num_attention_heads", 0),
        ("mlp_dim", 0),
        ("hidden_act", "relu"),
        ("hidden_act", "gelu_new"),
        ("hidden_dropout_prob", 1.0),
        ("drop_path_rate", -0.1),
        ("drop_path_rate", 1.0),
        ("drop_path_rate", "0.1"),
        ("initializer_range", float("nan")),
        ("layer_norm_eps", -1e-6),
        ("beta", float("inf")),
        ("beta", -1),
        ("image_size", 900),
        ("image_size", [896]),
        ("image_size", [896, 449]),
        ("image_size", [880, 448]),
        ("image_size", [896, 0]),
        ("image_size", [-896, -448]),
        ("image_size", None),
        ("patch_size", 0),
        ("patch_size", [16, 8]),
        ("num_channels", 4),
        ("qkv_bias", 1),
        ("use_relative_position_embeddings", "yes"),
        ("pretrain_image_size", 225),
        ("decoder_hidden_size", 0),
        ("merge_index", 6),
        ("merge_index", -1),
        ("merge_index", 2.0),
        ("intermediate_hidden_state_indices", []),
        ("intermediate_hidden_state_indices", 5),
        ("intermediate_hidden_state_indices", [5, 11, 17, 24]),
        ("intermediate_hidden_state_indices", [5, 5, 17, 23]),
        ("intermediate_hidden_state_indices", [5, "11"]),
        ("intermediate_hidden_state_indices", [[5], 11]),
        ("model_type", "vit"),
    ],
)
def test_an_impossible_value_is_refused_by_name(name: str, value: object):
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be ") as caught:
        SegGptConfig.from_dict({name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"hidden_size": }'])
def test_what_is_not_a_json_object_is_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"\S"):
        SegGptConfig.from_json_file(tmp_path / "config.json")
