"""`seggpt segment`: what goes in and comes out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from seggpt import Png
from tests.app.commands.command_line import (
    JOURNAL,
    expected,
    files,
    records,
    seggpt,
)
from tests.app.conftest import RunningServer, encoded, picture


def test_a_folder_is_mirrored_and_each_output_is_the_service_s_answer(
    at: list[str], server: RunningServer, shown: list[str], pictures: Path, tmp_path: Path
) -> None:
    out, error = seggpt("segment", pictures, "--out", tmp_path / "out", *at)
    assert out == ""
    assert "6/6" in error
    assert files(tmp_path / "out") == ["a.png", "b.jpg.png", "b.webp.png", "deep/a.png", "deep/d.png", "deep/er/c.png"]
    for name, source in (("a.png", "a.png"), ("b.jpg.png", "b.jpg"), ("deep/er/c.png", "deep/er/c.JPEG")):
        assert (tmp_path / "out" / name).read_bytes() == expected(server.url, shown, pictures / source)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["a.png", "deep/a.png"], None),
        (["a.png", "deep/d.tiff"], ["a.png", "d.png"]),
        (["*.png"], ["a.png"]),
        (["**/*.png"], ["a.png", "deep/a.png"]),
        (["deep/*"], ["a.png", "d.png"]),
        (["deep", "a.png"], None),
        (["deep", "deep/d.tiff"], ["a.png", "d.png", "er/c.png"]),
        (["notes.txt"], ["notes.png"]),
    ],
)
def test_files_folders_and_globs_mean_pictures(
    at: list[str], pictures: Path, tmp_path: Path, words: list[str], wanted: list[str] | None
) -> None:
    status = 2 if wanted is None else int(words == ["notes.txt"])
    _, error = seggpt("segment", *words, "--out", tmp_path / "out", *at, status=status, cwd=pictures)
    if wanted is None:
        assert "2 pictures would have the output a.png" in error
    elif status == 0:
        assert files(tmp_path / "out") == wanted
    else:
        assert "notes.txt: image: got an unknown file type" in error


def test_outputs_within_the_inputs_are_no_inputs(at: list[str], pictures: Path) -> None:
    for _ in range(2):
        seggpt("segment", pictures, "--out", pictures / "masks", *at)
    assert len(files(pictures / "masks")) == 6


def test_no_output_replaces_a_picture(at: list[str], pictures: Path) -> None:
    before = {name: (pictures / name).read_bytes() for name in files(pictures)}
    for words, said in (([pictures], "among the pictures"), ([pictures / "a.png"], "an output would replace it")):
        _, error = seggpt("segment", *words, "--out", pictures, *at, status=2)
        assert said in error
    _, error = seggpt("segment", pictures, "--coco", pictures / "a.png", *at, status=2)
    assert "an output would replace it" in error
    assert {name: (pictures / name).read_bytes() for name in files(pictures)} == before


@pytest.mark.parametrize("kind", ["mask", "soft", "overlay", "index", "colour"])
def test_every_kind_of_picture_can_be_written(
    at: list[str], server: RunningServer, shown: list[str], pictures: Path, tmp_path: Path, kind: str
) -> None:
    seggpt("segment", pictures / "a.png", "--out", tmp_path / "out", "--format", kind, "--threshold", "0.4", *at)
    wanted = expected(server.url, shown, pictures / "a.png", output=kind, threshold=0.4)
    assert (tmp_path / "out" / "a.png").read_bytes() == wanted


def test_json_is_one_file_for_each_picture(at: list[str], pictures: Path, tmp_path: Path) -> None:
    seggpt("segment", pictures, "--out", tmp_path / "out", "--format", "json", "--tolerance", "2", *at)
    body = json.loads((tmp_path / "out" / "deep" / "er" / "c.json").read_text())
    assert (body["height"], body["width"]) == (64, 80)
    assert body["segments"][0]["rle"]["size"] == [64, 80]


def test_several_classes_are_written_as_indices_unless_a_format_is_named(
    server: RunningServer, pictures: Path, tmp_path: Path
) -> None:
    mask = np.zeros((90, 120), np.uint8)
    mask[10:40, 10:50], mask[50:80, 60:110] = 1, 2
    (tmp_path / "mask.png").write_bytes(encoded(Image.fromarray(mask)))
    (tmp_path / "image.png").write_bytes(encoded(picture(1000)))
    example = ["--prompt-image", tmp_path / "image.png", "--prompt-mask", tmp_path / "mask.png"]
    words = [*example, "--mask-kind", "index", "--labels", "cat,dog", "--url", server.url]
    seggpt("segment", pictures / "a.png", "--out", tmp_path / "out", *words)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.mode == "P"
        assert set(np.unique(np.asarray(image))) <= {0, 1, 2}


def test_a_coco_file_loads_in_pycocotools_and_has_the_masks_pixels(
    at: list[str], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seggpt("segment", pictures, "--coco", tmp_path / "all.json", *at)
    seggpt("segment", pictures, "--out", tmp_path / "masks", *at)
    coco = COCO(str(tmp_path / "all.json"))
    capsys.readouterr()
    assert sorted(image["file_name"] for image in coco.imgs.values()) == [
        "a.png",
        "b.jpg",
        "b.webp",
        "deep/a.png",
        "deep/d.tiff",
        "deep/er/c.JPEG",
    ]
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["object"]
    for image in coco.imgs.values():
        name = image["file_name"]
        mask = tmp_path / "masks" / (name + ".png" if name.startswith("b.") else Path(name).with_suffix(".png"))
        pixels = Png(mask.read_bytes()).to_array() > 0
        union = np.zeros(pixels.shape, bool)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            decoded = coco.annToMask(annotation).astype(bool)
            assert annotation["area"] == decoded.sum()
            union |= decoded
        assert (union == pixels).all()
        assert (image["height"], image["width"]) == pixels.shape


def test_bad_pictures_are_named_and_do_not_stop_the_others(at: list[str], pictures: Path, tmp_path: Path) -> None:
    (pictures / "b.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (pictures / "deep" / "a.png").write_bytes(b"")
    _, error = seggpt("segment", pictures, "--out", tmp_path / "out", *at, status=1)
    assert f"{pictures / 'b.jpg'}: image: " in error
    assert f"{pictures / 'deep' / 'a.png'}: image: " in error
    assert "2 of 6 pictures have no answer" in error
    assert len(files(tmp_path / "out")) == 4
    picture(3).save(pictures / "b.jpg")
    picture(4).save(pictures / "deep" / "a.png")
    seggpt("segment", pictures, "--out", tmp_path / "out", *at)
    assert len(files(tmp_path / "out")) == 6
    assert len(records(tmp_path / "out" / JOURNAL)) == 6


def test_links_are_pictures_and_each_picture_is_asked_about_once(at: list[str], tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "in" / "out"
    (folder / "deep").mkdir(parents=True)
    picture(1, (60, 80)).save(tmp_path / "far.png")
    for index, name in enumerate(["a.b.png", "deep/c.png", "deep/d.png"]):
        picture(index, (60, 80)).save(folder / name)
    out.mkdir()
    picture(2, (60, 80)).save(out / "own.png")
    for link, target in {
        "far.jpg": tmp_path / "far.png",  # a picture elsewhere
        "again.png": folder / "deep" / "c.png",  # one that is there anyway
        "output.png": out / "own.png",  # no input
        "linked": folder / "deep",  # a folder, which is not gone into
        "round.png": "round.png",
        "nowhere.png": "nothing",
    }.items():
        (folder / link).symlink_to(target)
    seggpt("segment", "in", "--out", "in/out", *at, cwd=tmp_path)
    assert files(out) == ["a.b.png", "again.png", "deep/d.png", "far.png", "own.png"]
    assert sorted(str(record["input"]) for record in records(out / JOURNAL)) == sorted(
        str(path)
        for path in (folder / "a.b.png", folder / "deep" / "c.png", folder / "deep" / "d.png", tmp_path / "far.png")
    )
    seggpt("segment", "./in//*.*g", "in/linked/*", "--out", "globs", *at, cwd=tmp_path)
    assert files(tmp_path / "globs") == ["a.b.png", "again.png", "d.png", "far.png", "output.png"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "deep").symlink_to(folder / "deep")
    _, error = seggpt("segment", "in", "--out", "other", *at, cwd=tmp_path, status=2)
    assert f"{folder / 'deep' / 'd.png'} is read, and an output would replace it" in error


@pytest.mark.parametrize("words", [["{}", "--out", "out"], ["a.png", "--out", "{}"], ["a.png", "--coco", "{}"]])
def test_words_that_cannot_be_paths_are_one_line(at: list[str], pictures: Path, words: list[str]) -> None:
    before = files(pictures)
    for path, status, said in (("a" * 300, 1, "File name too long"), ("", 2, "got nothing")):
        _, error = seggpt("segment", *(word.format(path) for word in words), *at, status=status, cwd=pictures)
        assert error.splitlines()[-1].startswith("seggpt segment: ")
        assert said in error
    assert files(pictures) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_cannot_be_looked_into_is_said(at: list[str], pictures: Path, tmp_path: Path) -> None:
    (pictures / "deep").chmod(0)
    try:
        _, error = seggpt("segment", pictures, "--out", tmp_path / "out", *at, status=1)
    finally:
        (pictures / "deep").chmod(0o755)
    assert error == f"seggpt segment: [Errno 13] Permission denied: '{pictures / 'deep'}/'\n"


def test_nobody_at_the_address_is_one_line(shown: list[str], pictures: Path, tmp_path: Path) -> None:
    words = [*shown, "--url", "http://127.0.0.1:1", "--timeout", "0.5"]
    _, error = seggpt("segment", pictures, "--out", tmp_path / "out", *words, status=1)
    assert error.splitlines() == ["seggpt segment: http://127.0.0.1:1: [Errno 111] Connection refused"]


@pytest.mark.parametrize("name", ["", ".."])
def test_what_cannot_be_a_prompt_s_name_is_wrong_usage(
    server: RunningServer, pictures: Path, tmp_path: Path, name: str
) -> None:
    words = ["--prompt", name, "--url", server.url]
    _, error = seggpt("segment", pictures, "--out", tmp_path / "out", *words, status=2)
    assert error == f"seggpt segment: got {name!r} for a prompt; allowed are its id and its name\n"


def test_a_prompt_that_is_not_there_is_one_line(server: RunningServer, pictures: Path, tmp_path: Path) -> None:
    words = ["--prompt", "nobody", "--url", server.url]
    _, error = seggpt("segment", pictures, "--out", tmp_path / "out", *words, status=1)
    assert "prompt-not-found" in error
