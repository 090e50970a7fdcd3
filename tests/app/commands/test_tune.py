"""`seggpt tune`, and what becomes of its file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.commands.interrupts import STATUS
from model.checkpoint import fingerprint, resolve
from model.tuned_prompt import TunedPrompt
from tests.app.commands.command_line import command, environment, seggpt
from tests.app.conftest import RunningServer, disc, picture

FEW = ["--steps", 8, "--batch", 2, "--threads", 1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six pictures with masks."""
    folder = tmp_path / "data"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(6):
        picture(index).save(folder / "images" / f"{index}.jpg")
        disc(centre=(0.3 + 0.08 * index, 0.5)).save(folder / "masks" / f"{index}.png")
    return folder


def test_a_prompt_is_tuned_registered_and_used(
    data: Path, tiny_folder: Path, server: RunningServer, tmp_path: Path
) -> None:
    file, url = tmp_path / "tuned.safetensors", ["--url", server.url]
    words = ["tune", "--data", data, "--out", file, "--checkpoint", tiny_folder, *FEW]
    out, error = seggpt(*words)
    assert "held-out pictures" in out
    assert "step 8/8" in error
    prompt = TunedPrompt.load(file, fingerprint(resolve(tiny_folder)))
    assert prompt.checkpoint == tiny_folder.name
    _, error = seggpt(*words, status=2)
    assert "--force" in error
    seggpt(*words, "--force")
    again = TunedPrompt.load(file)
    assert np.array_equal(again.images.numpy(), prompt.images.numpy())
    identity = seggpt("prompts", "add", "--tuned", file, "--name", "discs by learning", *url)[0].strip()
    try:
        shown = json.loads(seggpt("prompts", "show", "discs by learning", *url)[0])
        assert (shown["id"], shown["mask_kind"]) == (identity, "tuned")
        image = data / "images" / "0.jpg"
        seggpt("segment", image, "--out", tmp_path / "out", "--prompt", "discs by learning", *url)
        with Image.open(tmp_path / "out" / "0.png") as mask:
            assert mask.size == (120, 90)
    finally:
        seggpt("prompts", "rm", identity, *url)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_best_until_then(
    data: Path, tiny_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    file = tmp_path / "tuned.safetensors"
    words = ["tune", "--data", data, "--out", file, "--checkpoint", tiny_folder, "--steps", 10**6, "--threads", 1]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what ends with "&"
    process = subprocess.Popen(command(*words), env=environment(), stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 20/"):
                break
        os.kill(process.pid, number)
        rest = process.stderr.read()
        assert process.wait(60) == STATUS, rest
    assert "the best until now is written" in rest
    assert "Traceback" not in rest
    assert TunedPrompt.load(file).images.shape[0] == 1


def test_what_cannot_be_tuned_is_said_in_one_line(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    words = ["tune", "--out", tmp_path / "t.safetensors", *FEW]
    _, error = seggpt(*words, "--data", tmp_path / "nowhere", "--checkpoint", tiny_folder, status=1)
    assert "nowhere" in error
    _, error = seggpt(*words, "--data", data, "--checkpoint", tmp_path / "none", status=1)
    assert "no such file" in error
    _, error = seggpt(*words, "--data", data, "--checkpoint", tiny_folder, "--prompts", 5, status=1)
    assert "5 learned prompts need as many" in error
    (data / "masks" / "3.png").unlink()
    _, error = seggpt(*words, "--data", data, "--checkpoint", tiny_folder, status=1)
    assert "'3' has no mask" in error
    assert not (tmp_path / "t.safetensors").exists()
