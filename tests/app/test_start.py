"""Starting: what a user sees when it works, and the one line when it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from model.seggpt import SegGptForImageSegmentation
from tests.app.conftest import ROOT, TINY, RunningServer, decoded, form, running_server
from tests.model.hub_stand_in import COMMIT, HubStandIn, Repository


def run(tmp_path: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Start a server that is expected to end by itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEGGPT_")}
    environment |= {"SEGGPT_PORT": "0", "SEGGPT_DEVICES": "cpu", "SEGGPT_LOG_FORMAT": "text"}
    environment |= {f"SEGGPT_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "app"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def the_one_line(ended: subprocess.CompletedProcess[str]) -> str:
    """The log's only line above INFO."""
    assert "Traceback" not in ended.stderr, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if " INFO " not in line]
    return line


def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint whose weights were cut short."""
    copy = tmp_path / "damaged"
    copy.mkdir()
    (copy / "config.json").write_bytes((folder / "config.json").read_bytes())
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1000])
    return copy


def test_a_missing_checkpoint_is_one_line(tmp_path: Path) -> None:
    ended = run(tmp_path, checkpoint=tmp_path / "nowhere")
    assert ended.returncode == 1
    assert str(tmp_path / "nowhere") in the_one_line(ended)


def test_a_damaged_checkpoint_is_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    ended = run(tmp_path, checkpoint=damaged(tiny_folder, tmp_path))
    assert ended.returncode == 1
    assert "model.safetensors" in the_one_line(ended)


def test_a_hub_id_that_is_not_in_the_cache_is_one_line_when_offline(tmp_path: Path) -> None:
    ended = run(tmp_path, checkpoint="BAAI/seggpt-vit-large", cache_dir=tmp_path, offline=1)
    assert ended.returncode == 1
    assert "BAAI/seggpt-vit-large" in the_one_line(ended)


def test_a_device_that_is_not_there_is_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    ended = run(tmp_path, checkpoint=tiny_folder, devices="cuda:7")
    assert ended.returncode == 1
    assert "cuda:7" in the_one_line(ended)


def test_a_wrong_setting_is_named_before_anything_starts(tmp_path: Path) -> None:
    ended = run(tmp_path, port="eighty", dtype="float8")
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["SEGGPT_PORT", "SEGGPT_DTYPE"]


def test_before_it_is_ready_it_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        while True:
            try:
                starting = server.client.get("/health/startup")
                break
            except httpx.TransportError:
                assert server.process.poll() is None
        assert starting.status_code == 503
        assert server.client.get("/health/live").status_code == 200
        refused = server.client.post("/v1/segment", files=form(0))
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:seggpt:problem:not-ready"
        assert int(refused.headers["retry-after"]) >= 1
        server.wait_until_ready()
        assert decoded(server.client.post("/v1/segment", files=form(0))).shape == (90, 120)


def test_it_can_be_ended_while_it_starts(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        while "Uvicorn running" not in server.log.read_text():
            assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        server.process.wait(30)
        assert "Traceback" not in server.log.read_text()


def test_a_download_shows_progress_can_be_ended_and_goes_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = SegGptForImageSegmentation(replace(TINY, mlp_dim=2**15))  # 25 MB: huggingface_hub writes 10 MB at a time
    wide.save_pretrained(tmp_path / "wide")
    files = {path.name: path.read_bytes() for path in (tmp_path / "wide").iterdir()}
    hub = HubStandIn({"someone/wide": Repository(files, token="hf_secret")}, stall_after_bytes=11 * 2**20)
    settings = {"checkpoint": "someone/wide", "cache_dir": tmp_path / "cache", "token": "hf_secret"}
    with hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        with running_server(tmp_path / "first.log", **settings) as server:
            assert hub.stalled.wait(60)
            while not any(path.stat().st_size for path in (tmp_path / "cache").rglob("*.incomplete")):
                time.sleep(0.02)
            assert server.client.get("/health/startup").json()["detail"] == "fetching the checkpoint someone/wide"
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
        assert "model.safetensors:" in server.log.read_text()
        hub.stall_after_bytes = None
        with running_server(tmp_path / "second.log", **settings) as server:
            server.wait_until_ready()
            (model,) = server.client.get("/v1/models").json()["models"]
            assert (model["checkpoint"], model["revision"]) == ("someone/wide", COMMIT)
            assert decoded(server.client.post("/v1/segment", files=form(1))).shape == (90, 120)
        assert [asked.range is None for asked in hub.transfers()] == [True, False]
        assert "hf_secret" not in (tmp_path / "first.log").read_text() + (tmp_path / "second.log").read_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_other_precisions_are_served(tiny_folder: Path, tmp_path: Path, dtype: str, server: RunningServer) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, dtype=dtype) as half:
        half.wait_until_ready()
        got = decoded(half.client.post("/v1/segment", files=form(1)))
        assert half.client.get("/v1/models").json()["models"][0]["workers"][0]["dtype"] == dtype
    wanted = decoded(server.client.post("/v1/segment", files=form(1)))
    assert (got == wanted).mean() > 0.95


def test_the_default_precision_is_one_that_is_named_and_answers_alike(
    tiny_folder: Path, tmp_path: Path, server: RunningServer
) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, dtype="auto") as default:
        default.wait_until_ready()
        (worker,) = default.client.get("/v1/models").json()["models"][0]["workers"]
        assert worker["dtype"] in {"float32", "bfloat16"}
        got = decoded(default.client.post("/v1/segment", files=form(1)))
    assert (got == decoded(server.client.post("/v1/segment", files=form(1)))).mean() > 0.95
