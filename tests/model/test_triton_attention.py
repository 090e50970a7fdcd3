"""The Triton kernels, in Triton's interpreter: what they compute is right, whatever compiles them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.layout import Layout
from tests.model.interpreted import ATTENTION, POINTWISE, TOLERANCES

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not on this platform")


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.interpreted"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_the_explicit_softmax(errors, name: str):
    assert errors[name] <= TOLERANCES[ATTENTION[name].dtype]


@pytest.mark.parametrize("name", POINTWISE)
def test_a_fused_step_is_its_parts(errors, name: str):
    assert errors[name] <= TOLERANCES["float32"]


@pytest.mark.parametrize("group_sizes", [(1,), (1, 1, 1), (2, 1, 5)])
@pytest.mark.parametrize("prompt_tokens", [96, 8])
@pytest.mark.parametrize("queries", [16, 64])
def test_programs_write_every_row_of_the_result_once_from_its_own_query(group_sizes, prompt_tokens: int, queries: int):
    from model.kernels.triton_attention import plan_rows

    layout = Layout(group_sizes, half_tokens=96, prompt_tokens=96)
    programs = plan_rows(layout, prompt_tokens, queries)

    def rows_of(first: int, jump: int, program) -> list[int]:
        places = range(program.queries)
        return [first + place + (jump if place >= program.split else 0) for place in places]

    result = [row for program in programs for row in rows_of(program.result_row, program.result_jump, program)]
    asking = [row for program in programs for row in rows_of(program.query_row, program.jump, program)]
    whole = torch.arange((layout.pairs + layout.groups) * 96).view(-1, 1)
    kept = layout.tail(whole, prompt_tokens)[1].flatten().tolist()
    assert sorted(result) == list(range(len(kept)))
    assert [row for _, row in sorted(zip(result, asking, strict=True))] == kept
    assert [program.prompts for program in programs] == sorted((part.prompts for part in programs), reverse=True)
