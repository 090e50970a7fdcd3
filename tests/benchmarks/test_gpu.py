"""What the GPU's table is made of besides clocks: counts, quotients, and one line where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu
from benchmarks.flops import reference_gflop
from benchmarks.report import Spread
from model import SegGptConfig

VIT_LARGE = SegGptConfig()


def test_attention_products_are_two_per_query_and_key():
    tokens = 56 * 28
    assert gpu.attention_gflop(VIT_LARGE, 1) == pytest.approx(2 * 2 * tokens * tokens * 1024 / 1e9)
    assert gpu.attention_gflop(VIT_LARGE, 8) == pytest.approx(8 * gpu.attention_gflop(VIT_LARGE, 1))


def test_a_known_prompt_needs_the_published_share_of_the_reference():
    assert reference_gflop(VIT_LARGE, 1) == pytest.approx(1590, rel=0.01)
    assert gpu.known_gflop(VIT_LARGE, 1, 1) == pytest.approx(1291, rel=0.01)
    assert gpu.known_gflop(VIT_LARGE, 8, 8) == pytest.approx(8 * gpu.known_gflop(VIT_LARGE, 1, 1))


@pytest.mark.parametrize(("examples", "fewer"), [(2, 1.6), (4, 1.9), (8, 2.2)])
def test_an_ensemble_needs_fewer_operations_than_the_reference(examples: int, fewer: float):
    assert reference_gflop(VIT_LARGE, examples) / gpu.known_gflop(VIT_LARGE, examples, 1) >= fewer


def test_share_of_peak_is_operations_over_time_over_peak():
    assert gpu.share_of_peak(gflop=1000, ms=4, peak_tflops=500) == pytest.approx(0.5)


def test_rows_compare_every_time_with_the_first_of_the_same_round():
    times = {"ours": Spread((2.0, 4.0, 2.0)), "theirs": Spread((6.0, 12.0, 8.0))}
    needed = {"ours": 1000.0, "theirs": 1500.0}
    ours, theirs = gpu.rate_rows(8, times, needed, peak=500.0)
    assert ours == ["ours", "8", "2.000 (2.000 to 4.000)", "4000.0 (2000.0 to 4000.0)", "100%", "1.00 (1.00 to 1.00)"]
    assert theirs[-1] == "3.00 (3.00 to 4.00)"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys, tmp_path):
    assert gpu.main(["--out", str(tmp_path / "none")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip().splitlines() == ["benchmarks.gpu needs an NVIDIA GPU; this machine shows none"]
    assert not (tmp_path / "none").exists()
