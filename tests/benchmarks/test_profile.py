"""The profile finds every part of a prepared network, and leaves the network as it was."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks.contenders import network, ours, question
from benchmarks.flops import PRODUCT_PARTS
from benchmarks.peaks import peaks
from benchmarks.profile import PARTS, Stopwatch, figures, part_of, profile, table, watched
from model.checkpoint import BUNDLED
from model.config import SegGptConfig

PEAKS = {"float32": 400.0, "bfloat16": 800.0, "int8": 1600.0, "memory": 40.0}
EVERYWHERE = {"embedding", "layernorm and sum", "qkv", "proj", "mlp", "decoder linear", "decoder convolution", "rest"}


def test_time_within_a_part_is_counted_for_the_inner_part_alone():
    watch = Stopwatch()
    watch.begin()
    watch.begin()
    end = time.perf_counter() + 0.01
    while time.perf_counter() < end:
        pass
    inner = watch.end("inner")
    outer = watch.end("outer")
    assert watch.seconds["inner"] == inner
    assert watch.seconds["outer"] == pytest.approx(outer - inner)


def test_modules_of_the_plain_network_belong_to_parts():
    names = {
        "model.encoder.layers.3.attention.qkv": "qkv",
        "model.encoder.layers.11.mlp": "mlp",
        "model.encoder.layers.11.mlp.lin1": None,  # within mlp already
        "model.encoder.layernorm": "layernorm and sum",
        "decoder.decoder_embed": "decoder linear",
        "": "rest",
        "model": None,
    }
    assert {name: part_of(name) for name in names} == names


@pytest.mark.parametrize("mode", ["float32", "bfloat16", "int8"])
def test_a_profile_finds_every_part_of_a_forward(mode):
    result = profile(mode, BUNDLED, rounds=1)
    assert set(PARTS) >= result["parts"].keys() >= EVERYWHERE
    assert sum(result["parts"].values()) <= result["watched_s"]
    if network(BUNDLED, mode).model.encoder.layers[0].attention.kernel is not None:
        assert result["parts"]["attention products"] > 0
        assert result["parts"]["softmax pass"] > 0
    assert ("int8 to and fro" in result["parts"]) == (mode == "int8")


def test_a_watched_network_answers_the_same_and_is_left_as_it_was():
    model = network(BUNDLED, "float32")
    ask, answer = question(model.config), ours(BUNDLED, "float32")
    before = answer(ask)
    kernels = [layer.attention.kernel for layer in model.model.encoder.layers]
    with watched(model, Stopwatch()):
        assert torch.equal(answer(ask), before)
    assert [layer.attention.kernel for layer in model.model.encoder.layers] == kernels
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_rates_are_operations_over_seconds_and_roofs_the_lower_of_the_two():
    config = SegGptConfig()
    parts = dict.fromkeys(PARTS, 0.5)
    result = {"parts": parts, "watched_s": 0.5 * len(parts), "plain_s": 1.0}
    found = {row["part"]: row for row in figures("int8", result, PEAKS, config)}
    assert set(found) == set(PARTS)
    assert found["mlp"]["roof_gflop_per_s"] == 1600.0
    assert found["attention products"]["roof_gflop_per_s"] == 800.0  # int8 is the linear layers' alone
    assert found["mlp"]["gflop_per_s"] == 2 * found["mlp"]["gflop"]
    counted = sum(row["gflop"] for row in found.values())
    assert {part for part, row in found.items() if row["gflop"]} == set(PRODUCT_PARTS) - {"position terms"}
    assert f"{counted:.1f}" in table("int8", result, PEAKS, config).text()


def test_peaks_are_measured_for_every_precision_and_unknown_ones_refused():
    found = peaks(seconds=0.0)
    assert set(found) == {"float32", "bfloat16", "int8", "memory"}
    assert all(rate > 0 for rate in found.values())
    with pytest.raises(ValueError, match="mode is 'float8'; it must be"):
        peaks(("float8",), seconds=0.0)
