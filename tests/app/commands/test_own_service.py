"""Commands without an address: a service of their own, which ends with them."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.app.commands.command_line import (
    JOURNAL,
    children,
    command,
    environment,
    expected,
    many,
    own,
    seggpt,
    wait_for_lines,
)
from tests.app.conftest import RunningServer


def test_without_an_address_it_runs_the_model_itself_with_the_same_answers(
    tiny_folder: Path, shown: list[str], server: RunningServer, pictures: Path, tmp_path: Path
) -> None:
    words = ["--checkpoint", tiny_folder, "--devices", "cpu", "--dtype", "float32"]
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    _, error = seggpt(
        "segment", pictures, "--out", tmp_path / "out", *shown, *words, cwd=tmp_path, prompts=tmp_path / "prompts"
    )
    assert "6/6" in error
    assert (tmp_path / "out" / "a.png").read_bytes() == expected(server.url, shown, pictures / "a.png")


def test_its_own_service_that_cannot_start_is_said(shown: list[str], pictures: Path, tmp_path: Path) -> None:
    words = ["--checkpoint", tmp_path / "nowhere"]
    _, error = seggpt("segment", pictures, "--out", tmp_path / "out", *shown, *words, status=1)
    assert str(tmp_path / "nowhere") in error
    assert "the service ended with status 1 before it could answer" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_its_own_service_ends_with_it(
    tiny_folder: Path, shown: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    words = ["segment", many(tmp_path / "in", 30), "--out", tmp_path / "out", "--images-per-call", "4", *shown]
    process = subprocess.Popen(
        command(*words),
        env=environment(**own(tiny_folder, tmp_path)),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_lines(tmp_path / "out" / JOURNAL, 1, process)
    (service,) = children(process.pid)
    workers = children(service)
    process.send_signal(number)
    process.wait(30)
    end = time.monotonic() + 30
    while any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in [service, *workers]
    ):
        assert time.monotonic() < end
        time.sleep(0.05)
