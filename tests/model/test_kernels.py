"""The passes between products, each beside torch's own operations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from model.kernels.linear import PackedLinear, PlainLinear, QuantisedLinear
from model.kernels.quantise import ZERO_POINT, quantise_rows, rescale_rows
from model.kernels.rows import add_norm, paint
from model.kernels.threads import run_all
from tests.model.conftest import relative_rms

PRECISIONS = [torch.float32, torch.bfloat16]
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("with_branch", [True, False])
def test_adding_and_norming_is_torchs_layernorm_of_the_sum(dtype: torch.dtype, with_branch: bool):
    stream, branch = drawn(300, 50), drawn(300, 50, seed=1, dtype=dtype)
    weight, bias = drawn(50, seed=2), drawn(50, seed=3)
    wanted_sum = stream + branch.float() if with_branch else stream.clone()
    normed = add_norm(stream, branch if with_branch else None, weight, bias, 1e-6, dtype)
    assert torch.equal(stream, wanted_sum)
    assert normed.dtype == dtype
    assert relative_rms(normed.float(), F.layer_norm(wanted_sum, (50,), weight, bias, 1e-6)) <= ROUNDING[dtype]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_painting_is_layernorm_gelu_and_product(dtype: torch.dtype):
    features = drawn(2, 24, 70, 130, dtype=dtype).to(memory_format=torch.channels_last)
    weight, bias, head, head_bias = drawn(24, seed=1), drawn(24, seed=2), drawn(3, 24, seed=3), drawn(3, seed=4)
    normed = F.gelu(F.layer_norm(features.float().permute(0, 2, 3, 1), (24,), weight, bias, 1e-6))
    wanted = (normed @ head.T + head_bias).permute(0, 3, 1, 2)
    assert relative_rms(paint(features, weight, bias, 1e-6, head, head_bias), wanted) <= 1e-6


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_quantised_rows_come_back_within_half_a_step(dtype: torch.dtype):
    values = drawn(130, 33, dtype=dtype) * torch.logspace(-6, 6, 130)[:, None].to(dtype)
    values[7] = 0
    quantised, steps = quantise_rows(values)
    back = (quantised.float() - ZERO_POINT) * steps[:, None]
    assert ((back - values.float()).abs() <= 0.501 * steps[:, None]).all()
    assert (back[7] == 0).all()


@pytest.mark.parametrize("with_gelu", [True, False])
def test_rescaling_rows_is_product_sum_and_gelu(with_gelu: bool):
    products, steps, bias = drawn(130, 33, dtype=torch.bfloat16), drawn(130, seed=1).abs(), drawn(33, seed=2)
    wanted = products.float() * steps[:, None] + bias
    wanted = F.gelu(wanted) if with_gelu else wanted
    rescale_rows(products, steps, bias, with_gelu=with_gelu)
    assert relative_rms(products.float(), wanted) <= ROUNDING[torch.bfloat16]


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_layers_multiply_as_torchs_own(activation: str, has_bias: bool):
    weight, bias, inputs = drawn(40, 64), drawn(40, seed=1) if has_bias else None, drawn(3, 17, 64, seed=2)
    wanted = F.linear(inputs, weight, bias)
    wanted = F.gelu(wanted) if activation == "gelu" else wanted
    for layer in (PackedLinear, PlainLinear):
        assert relative_rms(layer(weight, bias, 51, activation)(inputs), wanted) <= 1e-6
    assert relative_rms(QuantisedLinear(weight, bias, 51, activation)(inputs).float(), wanted) <= 3e-2


@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_a_linear_layer_over_weights_in_bfloat16_rounds_its_results_alone(activation: str):
    weight, bias, inputs = drawn(40, 64).bfloat16(), drawn(40, seed=1), drawn(3, 17, 64, seed=2).bfloat16()
    wanted = F.linear(inputs.float(), weight.float(), bias)
    wanted = F.gelu(wanted) if activation == "gelu" else wanted
    answer = PlainLinear(weight, bias, 51, activation)(inputs)
    assert answer.dtype == torch.bfloat16
    assert relative_rms(answer.float(), wanted) <= ROUNDING[torch.bfloat16]


def test_one_large_row_costs_the_others_no_precision():
    weight, inputs = drawn(40, 64), drawn(17, 64, seed=2)
    inputs[3] *= 1e4
    wanted = F.linear(inputs, weight)
    answer = QuantisedLinear(weight, None, 17)(inputs).float()
    rest = [row for row in range(17) if row != 3]
    assert relative_rms(answer[rest], wanted[rest]) <= 3e-2


def test_every_piece_runs_once_and_a_failing_one_is_told():
    torch.set_num_threads(2)
    done: list[int] = []
    run_all(done.append, 100)
    assert sorted(done) == list(range(100))
    assert torch.get_num_threads() == 2

    def fail(index: int) -> None:
        raise OSError(f"piece {index}")

    with pytest.raises(OSError, match="piece"):
        run_all(fail, 5)


def test_pieces_compute_on_one_thread_each():
    torch.set_num_threads(2)
    seen: list[int] = []
    run_all(lambda index: seen.append(torch.get_num_threads()), 8)
    assert seen == [1] * 8
