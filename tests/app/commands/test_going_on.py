"""`seggpt segment`: interrupted, killed, gone on with."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.app.commands.command_line import (
    JOURNAL,
    files,
    many,
    records,
    seggpt,
    start,
    wait_for_lines,
)
from tests.app.conftest import picture


def test_what_is_finished_is_not_done_again_unless_it_changed_or_is_asked_for(
    at: list[str], pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    seggpt("segment", pictures, "--out", out, *at)
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    _, error = seggpt("segment", pictures, "--out", out, *at)
    assert "6/6" in error
    assert before == {name: (out / name).stat().st_mtime_ns for name in files(out)}
    (out / "a.png").unlink()
    picture(77).save(pictures / "deep" / "d.tiff")
    seggpt("segment", pictures, "--out", out, *at)
    changed = {name for name in files(out) if (out / name).stat().st_mtime_ns != before[name]}
    assert changed == {"a.png", "deep/d.png"}
    assert len(records(out / JOURNAL)) == 6
    seggpt("segment", pictures, "--out", out, "--again", *at)
    assert all((out / name).stat().st_mtime_ns != before[name] for name in before)


def test_another_question_is_not_mixed_with_what_is_there(at: list[str], pictures: Path, tmp_path: Path) -> None:
    seggpt("segment", pictures, "--out", tmp_path, *at)
    _, error = seggpt("segment", pictures, "--out", tmp_path, "--threshold", "0.9", *at, status=2)
    assert "other threshold" in error
    assert "--again" in error


def test_a_line_that_was_half_written_counts_as_none(at: list[str], pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seggpt("segment", pictures, "--out", out, *at)
    whole = (out / JOURNAL).read_bytes()
    (out / JOURNAL).write_bytes(whole[:-20])
    seggpt("segment", pictures, "--out", out, *at)
    inputs = [record["input"] for record in records(out / JOURNAL)]
    assert len(inputs) == len(set(inputs)) == 6


@pytest.mark.parametrize("where", ["out", "all.json"])
def test_doing_all_again_does_not_make_the_journal_grow(
    at: list[str], pictures: Path, tmp_path: Path, where: str
) -> None:
    option = "--out" if where == "out" else "--coco"
    journal = tmp_path / ("out/" + JOURNAL if where == "out" else "all.json.journal")
    words = ["segment", pictures, option, tmp_path / where, *at]
    seggpt(*words)
    first = journal.read_bytes()
    # As a process leaves it that is killed while it writes the journal anew.
    journal.with_name(f".{journal.name}.part").write_bytes(first[:100])
    for _ in range(3):
        seggpt(*words, "--again")
        assert sorted(journal.read_bytes().splitlines()) == sorted(first.splitlines())
    seggpt(*words, "--threshold", "0.4", "--again")
    assert len(journal.read_bytes().splitlines()) == len(first.splitlines())
    (pictures / "a.png").unlink()
    _, error = seggpt(*words, "--threshold", "0.4", status=0 if where == "out" else 2)
    assert ("is about" in error) == (where != "out")
    assert len(records(journal)) == 6
    assert [path.name for path in journal.parent.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_is_gone_on_with_and_loses_and_repeats_nothing(
    at: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    out, journal = tmp_path / "out", tmp_path / "out" / JOURNAL
    words = ["segment", many(tmp_path / "in", 60), "--out", out, "--images-per-call", "4", *at]
    kept: list[object] = []
    for lines in (5, 25):
        process = start(*words)
        wait_for_lines(journal, lines, process)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130, error
            assert "interrupted; the same command goes on from here" in error
        assert "Traceback" not in error
        done = [record["input"] for record in records(journal)]
        assert done[: len(kept)] == kept
        assert lines <= len(done) < 60
        kept = done
        for record in records(journal):
            with Image.open(out / str(record["output"])) as image:
                image.load()
    _, error = seggpt(*words)
    assert "60/60" in error
    inputs = [record["input"] for record in records(journal)]
    assert inputs[: len(kept)] == kept
    assert len(inputs) == len(set(inputs)) == 60
    left = [name for name in files(out) if not name.endswith(".part")]
    assert left == [f"{index:04d}.png" for index in range(60)]
    assert number == signal.SIGKILL or left == files(out)


@pytest.mark.slow
def test_a_thousand_pictures_survive_ctrl_c_with_progress_shown(at: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["segment", many(tmp_path / "in", 1000, (240, 320)), "--out", out, *at]
    process = start(*words)
    wait_for_lines(out / JOURNAL, 300, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = [record["input"] for record in records(out / JOURNAL)]
    assert 300 <= len(kept) < 1000
    assert f"{len(kept)}/1000" in error
    _, error = seggpt(*words)
    assert f"{len(kept)}/1000" in error
    assert "1000/1000" in error
    inputs = [record["input"] for record in records(out / JOURNAL)]
    assert inputs[: len(kept)] == kept
    assert len(inputs) == len(set(inputs)) == 1000
    assert files(out) == [f"{index:04d}.png" for index in range(1000)]


def test_an_interrupted_coco_run_is_gone_on_with_too(
    at: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "all.json"
    words = ["segment", many(tmp_path / "in", 30), "--coco", whole, "--images-per-call", "4", *at]
    process = start(*words)
    wait_for_lines(tmp_path / "all.json.journal", 5, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not whole.exists()
    seggpt(*words)
    coco = COCO(str(whole))
    capsys.readouterr()
    assert [image["file_name"] for image in coco.imgs.values()] == [f"{index:04d}.jpg" for index in range(30)]
    assert len(records(tmp_path / "all.json.journal")) == 30


def test_two_runs_do_not_write_to_one_place(at: list[str], tmp_path: Path) -> None:
    words = ["segment", many(tmp_path / "in", 20), "--out", tmp_path / "out", "--images-per-call", "4", *at]
    process = start(*words)
    wait_for_lines(tmp_path / "out" / JOURNAL, 1, process)
    process.send_signal(signal.SIGSTOP)
    try:
        _, error = seggpt(*words, status=2)
    finally:
        process.send_signal(signal.SIGCONT)
    assert "another run is writing there" in error
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(files(tmp_path / "out")) == 20
