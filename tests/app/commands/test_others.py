"""`seggpt prompts`, `convert` and `info`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import SegGptImageProcessor
from model.checkpoint import fingerprint, load, resolve
from seggpt import Client, NotFoundError
from tests.app.commands.command_line import (
    expected,
    own,
    seggpt,
)
from tests.app.conftest import RunningServer
from tests.model.conftest import write_original


def test_prompts_are_added_listed_shown_renamed_used_and_removed(
    at: list[str], shown: list[str], server: RunningServer, pictures: Path, tmp_path: Path
) -> None:
    url = ["--url", server.url]
    out, _ = seggpt("prompts", "add", "--name", "round thing", *at)
    identity = out.strip()
    try:
        listed = [json.loads(line) for line in seggpt("prompts", "list", "--json", *url)[0].splitlines()]
        assert (identity, "round thing") in [(one["id"], one["name"]) for one in listed]
        (line,) = [one for one in seggpt("prompts", "list", *url)[0].splitlines() if one.startswith(identity)]
        assert "1 examples of object" in line
        out, _ = seggpt("prompts", "show", "round thing", "--preview", tmp_path / "preview.png", *url)
        assert json.loads(out)["id"] == identity
        with Image.open(tmp_path / "preview.png") as preview:
            assert preview.format == "PNG"
        seggpt("segment", pictures / "a.png", "--out", tmp_path / "out", "--prompt", "round thing", *url)
        wanted = expected(server.url, shown, pictures / "a.png")
        assert (tmp_path / "out" / "a.png").read_bytes() == wanted
        seggpt("prompts", "rename", "round thing", "disc", *url)
        _, error = seggpt("prompts", "show", "round thing", *url, status=1)
        assert "prompt-not-found" in error
        seggpt("prompts", "rename", "disc", *url)
        assert json.loads(seggpt("prompts", "show", identity, *url)[0])["name"] is None
    finally:
        seggpt("prompts", "rm", identity, *url)
    with Client(server.url) as client, pytest.raises(NotFoundError):
        client.prompts.get(identity)


def test_prompts_of_this_machine_need_no_address(tiny_folder: Path, shown: list[str], tmp_path: Path) -> None:
    settings = own(tiny_folder, tmp_path)
    out, _ = seggpt("prompts", "add", *shown, **settings)
    assert out.strip() in seggpt("prompts", "list", **settings)[0]


def test_an_original_pth_becomes_a_checkpoint_that_is_served_alike(tiny_folder: Path, tmp_path: Path) -> None:
    network = load(resolve(tiny_folder))
    original = write_original(tmp_path / "original.pth", network)
    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    out, _ = seggpt("convert", original, tmp_path / "converted")
    assert str(tmp_path / "converted" / "model.safetensors") in out
    again = load(resolve(tmp_path / "converted")).state_dict()
    assert all(np.array_equal(tensor.numpy(), again[name].numpy()) for name, tensor in network.state_dict().items())
    _, error = seggpt("convert", original, tmp_path / "converted", status=2)
    assert "--force" in error
    seggpt("convert", original, tmp_path / "converted", "--force", "--dtype", "bfloat16")
    assert "bfloat16" in {
        str(tensor.dtype).removeprefix("torch.")
        for tensor in load(resolve(tmp_path / "converted")).state_dict().values()
    }
    seggpt("convert", "bundled", tmp_path / "mini")
    assert fingerprint(resolve(tmp_path / "mini")) == fingerprint(resolve("bundled"))
    SegGptImageProcessor((48, 64), num_labels=3).save_pretrained(tmp_path)
    seggpt("convert", original, tmp_path / "converted", "--force")
    assert SegGptImageProcessor.from_pretrained(tmp_path / "converted").num_labels == 3
    _, error = seggpt("convert", tmp_path / "nowhere.pth", tmp_path / "other", status=1)
    assert "nowhere.pth" in error


def test_info_tells_of_a_checkpoint(tiny_folder: Path) -> None:
    facts = json.loads(seggpt("info", tiny_folder, "--json")[0])
    assert (facts["picture_size"], facts["layout"], facts["layers"]) == ([48, 64], "huggingface", 3)
    assert f"parameters: {facts['parameters']}\n" in seggpt("info", tiny_folder)[0]
    assert facts["fingerprint"] == fingerprint(resolve(tiny_folder))
    assert "bundled" in seggpt("info")[0]
    assert "no such file" in seggpt("info", "nowhere", status=1)[1]


def test_info_tells_of_a_running_service(server: RunningServer, tiny_folder: Path) -> None:
    facts = json.loads(seggpt("info", "--url", server.url, "--json")[0])
    assert facts["ready"] is True
    assert facts["checkpoint"] == str(tiny_folder)
    out, _ = seggpt("info", "--url", server.url)
    assert "ready: True" in out
    assert "device cpu" in out
    _, error = seggpt("info", "--url", "http://127.0.0.1:1", status=1)
    assert "Connection refused" in error


@pytest.mark.parametrize(("variable", "value"), [("ALL_PROXY", "socks5://127.0.0.1:9"), ("SSL_CERT_FILE", "nowhere")])
@pytest.mark.parametrize("words", [["info"], ["prompts", "list"], ["segment", "{}", "--out", "out", "--prompt", "x"]])
def test_an_environment_that_cannot_be_used_is_one_line(
    pictures: Path, words: list[str], variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    words = [word.format(pictures / "a.png") for word in words]
    status = 2 if variable == "ALL_PROXY" else 1
    _, error = seggpt(*words, "--url", "http://127.0.0.1:1", status=status, cwd=pictures)
    assert error.startswith(f"seggpt {words[0]}: ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("words", [["convert", "bundled", "{}"], ["tune", "--data", ".", "--out", "{}"]])
def test_outputs_that_cannot_be_paths_are_one_line(tmp_path: Path, words: list[str]) -> None:
    for path, status, said in (("a" * 300, 1, "File name too long"), ("", 2, "got nothing")):
        _, error = seggpt(*(word.format(path) for word in words), status=status, cwd=tmp_path)
        assert said in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--images-per-call", "--timeout"])
def test_numbers_that_are_none_are_told_what_is_allowed(option: str) -> None:
    for text in ("x", "0", "-1", "nan"):
        _, error = seggpt("segment", "a.png", "--out", "out", option, text, status=2)
        assert f"argument {option}: got {text}, " in error
