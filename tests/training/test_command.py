"""`python -m training`, from words to a run that goes on, ends, or is refused."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from model.checkpoint import BUNDLED, resolve
from tests.training.tiny import TINY
from training.command import main
from training.export import export
from training.export import main as export_command
from training.gather import main as gather
from training.held_out import is_held_out
from training.initialise import new_network
from training.snapshot import Snapshot
from training.stop import Stop

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    export(new_network(TINY, seed=0), folder)
    return str(folder)


@pytest.fixture
def words(data: Path, tiny: str, tmp_path: Path) -> list[str]:
    """A run of six steps in `tmp_path / "run"`."""
    place = ["--data", str(data / "things"), "--start", tiny, "--out", str(tmp_path / "run"), "--device", "cpu"]
    return ["finetune", *place, "--pairs", "12", "--batch", "2", "--report-every", "4"]


def refused(words: list[str], capsys: pytest.CaptureFixture[str], door: Callable[[Sequence[str]], None] = main) -> str:
    """The last line that is said of words that do not fit."""
    with pytest.raises(SystemExit) as stopped:
        door(words)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_finished_run_is_logged_to_its_end_and_says_what_is_next(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    main(words)
    assert signal.getsignal(signal.SIGINT) == handler
    rows = log(tmp_path / "run")
    assert [row["pairs"] for row in rows] == ["8", "12"]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert f"python -m training.export {tmp_path / 'run' / 'snapshot.pt'}" in capsys.readouterr().err


def test_what_is_held_out_is_asked_for_by_examples_that_are_learnt_from(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    for kind in ("images", "masks"):
        (pictures / "disc" / kind).mkdir(parents=True)
    names = [f"{index}" for index in range(24)]
    unseen = [name for name in names if is_held_out(f"disc/{name}")]
    for name in names:
        picture, mask = Image.new("RGB", (48, 48), "blue" if name in unseen else "red"), Image.new("L", (48, 48))
        ImageDraw.Draw(picture).ellipse((10, 10, 35, 35), fill="black")
        ImageDraw.Draw(mask).ellipse((10, 10, 35, 35), fill=255)
        picture.save(pictures / "disc" / "images" / f"{name}.png")
        mask.save(pictures / "disc" / "masks" / f"{name}.png")
    main([*words, "--data", str(pictures)])
    assert f"24 pictures, {len(unseen)} of them held out" in capsys.readouterr().err
    with Image.open(tmp_path / "run" / "samples_000000012.png") as sheet:
        strips = np.asarray(sheet).reshape(-1, 5, 32, 3).mean((0, 2))  # two scenes of five parts beside each other
    prompt_image, _, input_image, *_ = strips
    assert prompt_image[0] > 2 * prompt_image[2]
    assert input_image[2] > 2 * input_image[0]


def test_a_folder_with_a_run_is_left_alone(words: list[str], tmp_path: Path, capsys) -> None:
    main(words)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    capsys.readouterr()
    assert "holds a run; --resume goes on with it, --force replaces it" in refused(words, capsys)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_that_is_replaced_leaves_nothing_behind(words: list[str], tmp_path: Path) -> None:
    main(words)
    main([*words, "--force", "--pairs", "4"])
    assert [row["pairs"] for row in log(tmp_path / "run")] == ["4"]
    assert [path.name for path in (tmp_path / "run").glob("samples_*")] == ["samples_000000004.png"]


def test_a_finished_run_is_not_run_again_but_may_be_made_longer(words: list[str], tmp_path: Path, capsys) -> None:
    main(words)
    before = (tmp_path / "run" / "log.csv").read_bytes()
    capsys.readouterr()
    main([*words, "--resume"])
    assert "the run is finished" in capsys.readouterr().err
    assert (tmp_path / "run" / "log.csv").read_bytes() == before
    main([*words, "--resume", "--pairs", "20"])
    assert [row["pairs"] for row in log(tmp_path / "run")] == ["8", "12", "16", "20"]


def test_without_a_snapshot_nothing_goes_on(words: list[str], tmp_path: Path, capsys) -> None:
    assert f"there is no {tmp_path / 'run' / 'snapshot.pt'} to go on with" in refused([*words, "--resume"], capsys)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "snapshot.pt").write_bytes(b"half a file")
    assert "snapshot.pt is no snapshot of a run" in refused([*words, "--resume"], capsys)


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_an_interrupted_run_keeps_what_it_learnt_and_goes_on(
    words: list[str], tmp_path: Path, number: signal.Signals, processes: int
) -> None:
    endless = [*words, "--pairs", "1000000000", "--report-every", "1000000000"]
    endless += ["--processes", str(processes), "--threads", "1"]
    seen: list[int] = []
    for more in ([], ["--resume"]):
        done = interrupted([*endless, *more], number)
        assert done.returncode == 128 + number, done.stderr
        assert "interrupted; --resume goes on with" in done.stderr
        seen.append(Snapshot.load(tmp_path / "run" / "snapshot.pt").pairs)
    assert 0 < seen[0] < seen[1]


def test_ctrl_c_while_processes_start_ends_the_run_cleanly(words: list[str]) -> None:
    command = [sys.executable, "-m", "training", *words, "--pairs", "1000000000", "--processes", "2", "--threads", "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while len(workers_of(process.pid)) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)  # until the first process listens again; the others have torch to import
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said


def workers_of(pid: int) -> list[int]:
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_the_first_signal_asks_and_the_second_ends_at_once() -> None:
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert (stop.is_asked, stop.status) == (True, 130)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_killed_run_has_lost_minutes_at_most(words: list[str], tmp_path: Path) -> None:
    snapshot = tmp_path / "run" / "snapshot.pt"
    endless = [*words, "--pairs", "1000000000", "--report-every", "1000000000", "--snapshot-minutes", "0.001"]
    interrupted(endless, signal.SIGKILL)
    kept = Snapshot.load(snapshot).pairs
    main([*words, "--pairs", str(kept + 4), "--resume"])
    assert Snapshot.load(snapshot).pairs == kept + 4


@pytest.mark.parametrize("processes", [1, 2])
def test_a_folder_in_which_a_run_is_at_work_takes_no_second_one(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], processes: int
) -> None:
    main([*words, "--pairs", "2"])  # what a second run could go on with, or replace
    endless = ["--pairs", "1000000000", "--report-every", "1000000000", "--processes", str(processes), "--threads", "1"]
    with running([*words, "--resume", *endless]) as process:
        for more in ([], ["--resume"], ["--force"]):
            said = refused([*words, *more], capsys)
            assert said == f"python -m training: another run is at work in {tmp_path / 'run'}"
        process.kill()
    said = ""
    while "the run is finished" not in said:
        with suppress(SystemExit):  # what the killed process had started ends after its step
            main([*words, "--resume"])
        said = capsys.readouterr().err


def interrupted(words: list[str], number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own that gets a signal when it has told of its progress."""
    with running(words) as process:
        process.send_signal(number)
        _, said = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stderr=said)


@contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own that has told of its progress."""
    command = [sys.executable, "-m", "training", *words]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = ""
        while "pairs of" not in told:
            told += (line := process.stderr.readline())
            assert line, told
        yield process


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "nowhere"], "there is no folder nowhere"),
        (["--data", "docs"], "no <category>/images/<name>.* with <category>/masks/<name>.png in docs"),
        (["--start", "no/where.pth"], "no/where.pth: no such file or folder, nor a hub id"),
        (["--device", "tpu"], "got 'tpu'; this machine has"),
        (["--minutes", "0"], "minutes is 0.0; it must be above 0"),
        (["--report-every", "-1"], "report_every is -1; it must be above 0"),
        (["--batch", "0"], "got '0'; it must be a whole number of at least 1"),
        (["--out", "README.md"], "README.md"),
    ],
)
def test_bad_words_are_refused_with_what_is_allowed(
    words: list[str], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert message in refused([*words, *more], capsys)


def test_what_only_the_processes_of_a_run_find_is_refused_too(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training", *words, "--data", str(tmp_path), "--processes", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no <category>/images/<name>.* with" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_bundled_checkpoint_is_tuned_by_its_name(words: list[str], tmp_path: Path) -> None:
    main([*words, "--start", "bundled", "--pairs", "2"])
    tuned = Snapshot.load(tmp_path / "run" / "snapshot.pt").config
    assert tuned == resolve(BUNDLED).config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.pt"], "No such file or directory: 'nowhere.pt'"),
        (["pyproject.toml"], "pyproject.toml"),
        (["bundled", "--size", "100"], "image_size is (200, 100); it must be"),
        (["bundled", "--out", "README.md"], "README.md"),
    ],
)
def test_an_export_that_cannot_be_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(["--out", str(tmp_path), *words], capsys, export_command)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stamps", "nowhere"], "argument --stamps: there is no folder nowhere"),
        (["--emoji", "nowhere"], "argument --emoji: there is no folder nowhere"),
        ([], "nothing to gather: give --stamps, --emoji or both"),
    ],
)
def test_what_is_not_there_is_not_gathered(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(["--out", str(tmp_path), *words], capsys, gather)
