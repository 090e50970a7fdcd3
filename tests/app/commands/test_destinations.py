"""`seggpt segment`: what lies where it writes, and is not its own, is not lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from model.checkpoint import load, resolve, save
from tests.app.commands.command_line import (
    JOURNAL,
    command,
    environment,
    expected,
    files,
    many,
    own,
    records,
    seggpt,
    start,
    wait_for_lines,
)
from tests.app.conftest import RunningServer, picture, running_server


def test_files_of_others_are_replaced_only_by_force(at: list[str], pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"drawn by hand")
    _, error = seggpt("segment", pictures, "--out", out, *at, status=2)
    assert f"{out / 'a.png'} is there, and is no output of this command" in error
    assert (out / "a.png").read_bytes() == b"drawn by hand"
    seggpt("segment", pictures, "--out", out, "--force", *at)
    with Image.open(out / "a.png") as mask:
        mask.load()
    seggpt("segment", pictures, "--out", out, "--again", *at)
    _, error = seggpt("segment", pictures, "--coco", out / "a.png", *at, status=2)
    assert "--force" in error


def test_the_example_s_own_files_are_never_replaced(at: list[str], shown: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(3).save(tmp_path / "in" / "mask.jpg")
    mask = Path(shown[3])
    before = mask.read_bytes()
    _, error = seggpt("segment", tmp_path / "in", "--out", mask.parent, "--force", *at, status=2)
    assert f"{mask} is read, and an output would replace it" in error
    assert mask.read_bytes() == before


def test_two_folders_with_the_same_names_do_not_share_outputs(
    at: list[str], shown: list[str], server: RunningServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for index, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        picture(index).save(tmp_path / name / "a.png")
    first, second = (tmp_path / name / "a.png" for name in ("first", "second"))
    seggpt("segment", first.parent, "--out", out, *at)
    _, error = seggpt("segment", second.parent, "--out", out, *at, status=2)
    assert f"is about {first}, which this command does not name" in error
    assert (out / "a.png").read_bytes() == expected(server.url, shown, first)
    seggpt("segment", second.parent, "--out", out, "--force", *at)
    assert (out / "a.png").read_bytes() == expected(server.url, shown, second)
    _, error = seggpt("segment", first.parent, "--out", out, *at, status=2)
    assert f"is about {second}, which" in error
    seggpt("segment", first.parent, "--out", out, "--force", *at)
    assert (out / "a.png").read_bytes() == expected(server.url, shown, first)


@pytest.mark.parametrize("words", [[], ["--again"]])
def test_a_coco_file_loses_no_pictures_unless_forced(
    at: list[str], pictures: Path, tmp_path: Path, words: list[str]
) -> None:
    file = tmp_path / "all.json"
    seggpt("segment", pictures, "--coco", file, *at)
    before = file.read_bytes()
    _, error = seggpt("segment", pictures / "deep", "--coco", file, *words, *at, status=2)
    assert f"is about {pictures / 'a.png'} and 2 more pictures, which" in error
    (pictures / "a.png").unlink()
    _, error = seggpt("segment", pictures, "--coco", file, *words, *at, status=2)
    assert f"is about {pictures / 'a.png'}, which" in error
    assert file.read_bytes() == before
    for force in (["--force"], []):
        seggpt("segment", pictures / "deep", "--coco", file, *force, *words, *at)
        assert len(json.loads(file.read_bytes())["images"]) == 3


def test_a_coco_file_loses_no_pictures_after_an_again_that_was_killed(at: list[str], tmp_path: Path) -> None:
    file, pictures = tmp_path / "all.json", many(tmp_path / "in", 20)
    seggpt("segment", pictures, "--coco", file, *at)
    process = start("segment", pictures, "--coco", file, "--again", "--images-per-call", "1", *at)
    while b'"again"' not in (tmp_path / "all.json.journal").read_bytes():
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=60)
    _, error = seggpt("segment", pictures / "0000.jpg", "--coco", file, *at, status=2)
    assert "and 18 more pictures" in error
    assert len(json.loads(file.read_bytes())["images"]) == 20


@pytest.mark.parametrize("content", [b"notes without an end", b"line one\nline two", b'{"seggpt-journal": 2}\nx'])
def test_a_file_that_is_no_journal_stays_as_it_is(
    at: list[str], pictures: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "all.json.journal").write_bytes(content)
    _, error = seggpt("segment", pictures, "--coco", tmp_path / "all.json", "--force", *at, status=2)
    assert "is no journal of this command" in error
    assert (tmp_path / "all.json.journal").read_bytes() == content


def test_again_is_about_the_pictures_that_are_named(at: list[str], pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seggpt("segment", pictures, "--out", out, *at)
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    seggpt("segment", pictures / "a.png", "--out", out, "--again", *at)
    seggpt("segment", pictures, "--out", out, *at)
    assert {name for name in files(out) if (out / name).stat().st_mtime_ns != before[name]} == {"a.png"}


def test_a_refused_run_leaves_no_journal(at: list[str], pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"drawn by hand")
    seggpt("segment", pictures, "--out", tmp_path / "out", *at, status=2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_a_service_that_only_starts_is_asked_for_its_weights_until_it_knows_them(
    shown: list[str], pictures: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, devices="cpu") as server:
        server.wait_until_ready("live")
        for _ in range(2):
            seggpt("segment", pictures / "a.png", "--out", tmp_path / "out", *shown, "--url", server.url)


def test_what_cannot_be_written_to_is_said_at_once(pictures: Path, shown: list[str], tmp_path: Path) -> None:
    # Nobody is at the address: it was not asked.
    at = [*shown, "--url", "http://127.0.0.1:1"]
    _, error = seggpt("segment", pictures, "--coco", tmp_path, *at, status=2)
    assert error == f"seggpt segment: --coco {tmp_path}: is a folder, should be a file\n"
    _, error = seggpt("segment", pictures, "--out", shown[1], *at, status=2)
    assert error == f"seggpt segment: --out {shown[1]}: is no folder\n"


def test_answers_of_other_weights_are_not_taken_for_done(
    shown: list[str], pictures: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    weights = shutil.copytree(tiny_folder, tmp_path / "weights")
    settings = own(weights, tmp_path)
    words = ["segment", pictures / "a.png", "--out", tmp_path / "out", *shown]
    seggpt(*words, **settings)
    trained = load(resolve(weights))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01)
    save(trained, weights)
    _, error = seggpt(*words, status=2, **settings)
    assert "other models" in error
    seggpt(*words, "--again", **settings)


def test_what_cannot_be_written_whole_leaves_nothing_and_is_gone_on_with(at: list[str], tmp_path: Path) -> None:
    words = ["segment", many(tmp_path / "in", 2), "--out", tmp_path / "out", "--format", "overlay", *at]
    limited = command(*words)
    limited[3] = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); {limited[3]}"
    done = subprocess.run(limited, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "seggpt segment: [Errno 27] File too large"
    assert files(tmp_path / "out") == []
    seggpt(*words)
    assert files(tmp_path / "out") == ["0000.png", "0001.png"]


def test_a_refused_option_leaves_nothing_behind(at: list[str], pictures: Path, tmp_path: Path) -> None:
    words = ["segment", pictures, "--out", tmp_path / "out", *at]
    _, error = seggpt(*words, "--threshold", "5", status=1)
    assert "threshold" in error
    seggpt(*words, "--threshold", "0.5")
    assert len(files(tmp_path / "out")) == 6


def test_what_goes_on_from_an_interrupted_again_is_told(at: list[str], tmp_path: Path) -> None:
    words = ["segment", many(tmp_path / "in", 30), "--out", tmp_path / "out", "--images-per-call", "4", *at]
    journal = tmp_path / "out" / JOURNAL
    process = start(*words, "--again")
    wait_for_lines(journal, 5, process)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert "without --again, the same command goes on from here" in error
    kept = records(journal)
    seggpt(*words)
    assert records(journal)[: len(kept)] == kept
