"""`seggpt` itself: help, wrong usage, `serve`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.commands.command_line import (
    command,
    environment,
    seggpt,
)


def test_it_says_what_it_can_without_loading_anything_heavy() -> None:
    out, _ = seggpt("--help")
    for name in ("serve", "segment", "prompts", "tune", "convert", "info", "exit status"):
        assert name in out
    for name in ("serve", "segment", "prompts", "tune", "convert", "info"):
        out, _ = seggpt(name, "--help")
        assert f"seggpt {name}" in out
    code = "import sys; from app.cli import main\ntry: main(['segment', '--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    out = done.stdout
    assert "app.commands.segment" in out.split()
    assert not {"torch", "fastapi", "uvicorn", "app.main", "app.commands.serve"} & set(out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "command"),
        (["sever"], "invalid choice"),
        (["segment"], "picture"),
        (["segment", "x.png", "--prompt", "p"], "--out"),
        (["segment", "x.png", "--out", "o"], "nothing says what to look for"),
        (["segment", "nowhere-*.png", "--out", "o", "--prompt", "p"], "nowhere-*.png"),
        (["segment", "x.png", "--out", "o", "--prompt-image", "a"], "1 --prompt-image and 0 --prompt-mask"),
        (["segment", "x.png", "--coco", "c", "--format", "mask", "--prompt", "p"], "--format"),
        (["segment", "x.png", "--out", "o", "--prompt", "p", "--url", "nonsense"], "address"),
        (["segment", "x.png", "--out", "o", "--prompt", "p", "--url", "http://a", "--dtype", "int8"], "--dtype"),
        (["prompts", "add"], "no example"),
        (["prompts", "add", "--tuned", "t", "--mask-kind", "index"], "learned examples of its own"),
        (["tune", "--data", "d"], "--out"),
        (["tune", "--data", "d", "--out", "t.safetensors", "--steps", "0"], "steps is 0"),
        (["tune", "--data", "d", "--out", "nowhere/t.safetensors"], "is no folder"),
        (["tune", "--data", "d", "--out", "."], "--out .: is a folder"),
        (["tune", "--data", "d", "--out", "t.safetensors", "--threads", "0"], "--threads: got 0"),
        (["tune", "--data", "d", "--out", "t.safetensors", "--device", "cuda:77"], "got 'cuda:77'; this machine has"),
        (["tune", "--data", "d", "--out", "t.safetensors", "--device", "abacus"], "got 'abacus'; this machine has"),
        (
            ["segment", "x.png", "--out", "o", "--prompt", "p", "--images-per-call", "0"],
            "got 0, must be a whole number of at least 1",
        ),
        (["segment", "x.png", "--out", "o", "--prompt", "p", "--timeout", "1e12"], "got 1e12, allowed are"),
        (["info", "x", "--url", "http://a"], "not allowed with"),
    ],
)
def test_wrong_usage_is_status_2_and_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    _, error = seggpt(*words, status=2, cwd=tmp_path)
    assert said in error
    assert not list(tmp_path.iterdir())


def test_serve_takes_settings_as_options_and_names_wrong_ones(tmp_path: Path) -> None:
    _, error = seggpt("serve", "--port", "eighty", "--dtype", "float8", status=2)
    assert [line.split(":")[0] for line in error.splitlines()] == ["SEGGPT_PORT", "SEGGPT_DTYPE"]
    _, error = seggpt("serve", "--port", "0", "--checkpoint", tmp_path / "nowhere", status=1)
    assert str(tmp_path / "nowhere") in error


def test_an_address_that_is_not_this_machine_s_is_a_failure(tiny_folder: Path) -> None:
    words = ["--host", "192.0.2.1", "--port", "0", "--checkpoint", tiny_folder, "--devices", "cpu"]
    _, error = seggpt("serve", *words, status=1)
    assert "192.0.2.1" in error


def test_serve_can_end_with_whoever_started_it(tiny_folder: Path) -> None:
    process = subprocess.Popen(
        command("serve", "--until-stdin-closes", "--port", "0", "--checkpoint", tiny_folder, "--devices", "cpu"),
        env=environment(log_format="text"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stderr is not None
        for line in process.stderr:
            if "Uvicorn running" in line:
                break
        assert process.poll() is None
        process.stdin.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(30) == 0
