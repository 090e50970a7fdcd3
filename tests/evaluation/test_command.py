"""`python -m evaluation`, from words to table and page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from evaluation.command import main
from model.checkpoint import BUNDLED
from model.inference import native_precision
from tests.evaluation import trees
from tests.evaluation.test_report import Page

ROOT = Path(__file__).parents[2]


def rows(text: str) -> list[list[str]]:
    """Cells of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_a_folder_is_judged_in_one_command(plain: Path, checkpoint: Path, tmp_path: Path):
    page = tmp_path / "report.html"
    command = [sys.executable, "-m", "evaluation", "folder", "--data", plain, "--checkpoint", checkpoint]
    done = subprocess.run([*command, "--report", page], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row[:5] for row in rows(done.stdout)] == [
        ["things", "1", "2", "7", metric] for metric in ("mIoU", "FB-IoU", "pair IoU")
    ]
    assert "How well tiny does on things" in Page(page.read_text()).text


def test_the_bundled_checkpoint_has_a_name(plain: Path, capsys):
    tables = []
    for words in ([], ["--checkpoint", "bundled"], ["--checkpoint", str(BUNDLED)]):
        main(["folder", "--data", str(plain), *words])
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] == tables[2]


def test_fss_is_judged_with_several_numbers_of_examples(checkpoint: Path, tmp_path: Path, capsys):
    root = trees.fss1000(tmp_path, ["cup", "leaf"], 4)
    (tmp_path / "test.txt").write_text("cup\nleaf\n")
    curve, page = tmp_path / "curve.svg", tmp_path / "report.html"
    main(
        [
            *("fss1000", "--data", str(root), "--checkpoint", str(checkpoint), "--split", str(tmp_path / "test.txt")),
            *("--examples", "1,3", "--curve", str(curve), "--report", str(page)),
        ]
    )
    assert [row[1] for row in rows(capsys.readouterr().out)] == ["1"] * 3 + ["3"] * 3
    assert ElementTree.fromstring(curve.read_text()).tag == "{http://www.w3.org/2000/svg}svg"
    assert "Over the number of examples" in Page(page.read_text()).text


def test_pascal_and_coco_are_judged_by_folds(voc: Path, coco: Path, checkpoint: Path, capsys):
    for words in (["pascal5i", "--data", str(voc), "--shots", "2"], ["coco20i", "--data", str(coco), "--shots", "1"]):
        main([*words, "--fold", "all", "--episodes", "2", "--checkpoint", str(checkpoint)])
        table = rows(capsys.readouterr().out)
        sets = list(dict.fromkeys(row[0] for row in table))
        assert [name.split()[-1] for name in sets] == ["0", "1", "2", "3", "folds"]
        main([*words, "--fold", "2", "--episodes", "2", "--checkpoint", str(checkpoint)])
        assert {row[0].split()[-1] for row in rows(capsys.readouterr().out)} == {"2"}


def test_the_same_seed_gives_the_same_table(plain: Path, checkpoint: Path, capsys):
    tables = []
    for seed in ("0", "0", "5"):
        main(["folder", "--data", str(plain), "--checkpoint", str(checkpoint), "--seed", seed])
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] != tables[2]


@pytest.mark.skipif(native_precision(torch.device("cpu")) != "bfloat16", reason="this CPU does not compute in bfloat16")
def test_half_precision_gives_nearly_the_same(plain: Path, checkpoint: Path, capsys):
    scores = []
    for dtype in ("float32", "bfloat16"):
        main(["folder", "--data", str(plain), "--checkpoint", str(checkpoint), "--dtype", dtype])
        scores.append(float(rows(capsys.readouterr().out)[0][5].split()[0]))
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "no photo of the held-out set in nowhere/clothing/images"),
        (["folder", "--data", "nowhere"], "there is no folder nowhere"),
        (["fss1000", "--data", "nowhere"], "there is no folder nowhere"),
        (["coco20i", "--data", "nowhere", "--fold", "7"], "got '7'; it must be 0, 1, 2, 3 or all"),
        (["pascal5i", "--data", "nowhere", "--examples", "0"], "got '0'; it must be a whole number of at least 1"),
        (["pascal5i", "--data", "nowhere", "--examples", "2,2"], "got '2,2'; each number may come once"),
        (["folder", "--data", "nowhere", "--dtype", "float8"], "invalid choice: 'float8'"),
        (["folder"], "the following arguments are required: --data"),
        (["imagenet", "--data", "nowhere"], "invalid choice: 'imagenet'"),
        (["folder", "--data", ".", "--checkpoint", "no/where.pth"], "no such file or folder"),
        (["--curve", "x.svg", "--data", "nowhere"], "several numbers of examples"),
        (["folder", "--data", ".", "--report", "no/where.html"], "cannot write no/where.html: No such file"),
        (["folder", "--data", ".", "--report", "tests"], "cannot write tests: Is a directory"),
        (
            ["fss1000", "--data", ".", "--examples", "1,2", "--curve", "/proc/a.svg"],
            "cannot write /proc/a.svg",
        ),
        (["folder", "--data", ".", "--device", "tpu"], "got 'tpu'; this machine has"),
        (["folder", "--data", ".", "--device", "cuda:99"], "got 'cuda:99'; this machine has"),
    ],
)
def test_bad_words_are_refused_with_what_is_allowed(words: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
