"""The command line as users type it: real processes in a user's environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from seggpt import Client
from tests.app.conftest import ROOT, picture

JOURNAL = "seggpt-journal.jsonl"


def environment(**settings: object) -> dict[str, str]:
    """Of a user without settings of the service, in this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEGGPT_")}
    return kept | {"PYTHONPATH": str(ROOT)} | {f"SEGGPT_{name.upper()}": str(value) for name, value in settings.items()}


def command(*words: object) -> list[str]:
    # As the installed script: what lies in the current folder is not imported.
    return [sys.executable, "-P", "-c", "import sys; from app.cli import main; sys.exit(main())", *map(str, words)]


def seggpt(*words: object, status: int = 0, cwd: Path | None = None, **settings: object) -> tuple[str, str]:
    """Run it to its end; what it wrote to stdout and stderr."""
    done = subprocess.run(
        command(*words), env=environment(**settings), cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr


def files(folder: Path) -> list[str]:
    """Everything below a folder but the journal."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != JOURNAL
    )


def records(journal: Path) -> list[dict[str, object]]:
    """The journal's lines about finished pictures."""
    return [line for line in map(json.loads, journal.read_text().splitlines()) if "input" in line]


def expected(url: str, shown: Sequence[str], path: Path, **options: object) -> bytes:
    with Client(url) as client:
        return client.segment(path, examples=[(shown[1], shown[3])], **options)


def many(folder: Path, count: int, size: tuple[int, int] = (1100, 1500)) -> Path:
    """Large pictures, unless said otherwise, so that a run takes a while."""
    folder.mkdir()
    for index in range(count):
        picture(index, size).save(folder / f"{index:04d}.jpg")
    return folder


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words), env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_lines(journal: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the journal has so many about finished pictures; the run must not be over."""
    while not journal.exists() or journal.read_bytes().count(b'\n{"input": ') < count + 1:
        assert process.poll() is None
        time.sleep(0.002)


def own(tiny_folder: Path, tmp_path: Path) -> dict[str, object]:
    return {"checkpoint": tiny_folder, "devices": "cpu", "dtype": "float32", "prompts": tmp_path / "prompts"}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
