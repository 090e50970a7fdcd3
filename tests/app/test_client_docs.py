"""Commands and examples of docs/client.md, and the README's use of the client, against a live server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from benchmarks.tuning_scene import write
from tests.app.conftest import ROOT, running_server

PAGE = (ROOT / "docs/client.md").read_text()
EXAMPLES = [
    code
    for text in ((ROOT / "README.md").read_text(), PAGE)
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if "from seggpt" in code
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the repository's root in which everything has run, and what it printed: "python0", "sh0", ..."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("examples", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    write(folder / "pictures", 6, seed=0)
    # The command as it is installed, beside the interpreter.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment["SEGGPT_PROMPTS"] = str(folder / "own prompts")

    def run(name: str, command: list[str], text: str, url: str) -> None:
        whole = [*command, text.replace("http://127.0.0.1:8000", url)]
        done = subprocess.run(whole, cwd=folder, env=environment, capture_output=True, check=False, timeout=300)
        assert done.returncode == 0, (text, done.stderr.decode())
        (folder / name).write_bytes(done.stdout)

    with running_server(folder / "log", checkpoint="bundled") as server:
        server.wait_until_ready()
        for number, text in enumerate(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)):
            run(f"sh{number}", ["bash", "-euo", "pipefail", "-c"], text, server.url)
        for number, text in enumerate(EXAMPLES):
            run(f"python{number}", [sys.executable, "-c"], text, server.url)
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_first_command_marks_every_picture_and_keeps_a_journal(results: Path) -> None:
    masks = sorted(path.name for path in (results / "masks").rglob("*.png"))
    assert len(masks) == len(list((ROOT / "examples").glob("*image.jpg")))
    journal = (results / "masks/seggpt-journal.jsonl").read_text()
    assert len(journal.splitlines()) > len(masks)  # and what was asked


def test_the_coco_file_has_objects(results: Path) -> None:
    things = json.loads((results / "things.json").read_text())
    assert len(things["images"]) == len(
        [path for path in (ROOT / "examples").iterdir() if path.suffix in {".jpg", ".png"}]
    )
    assert all(coco.decode(one["segmentation"]).sum() == one["area"] >= 100 for one in things["annotations"])
    assert things["annotations"]


def test_prompts_and_information_are_shown(results: Path) -> None:
    shown = (results / "sh2").read_text()
    assert "monkey" in shown
    assert "seggpt-mini" in shown or "bundled" in shown
    assert pixels(next((results / "found").rglob("*.png"))).shape == pixels(ROOT / "examples/image.jpg").shape


def test_a_prompt_is_tuned_and_registered(results: Path) -> None:
    told, identity = (results / "sh3").read_text().splitlines()
    assert told.startswith("tuned.safetensors: IoU on 2 held-out pictures ")
    assert len(identity) == 32


def test_the_python_examples_print_what_they_found(results: Path) -> None:
    label, area, *_ = (results / "python0").read_text().split()
    assert label == "object"
    assert int(area) > 1000
    *_, kind, last = (results / "python1").read_text().splitlines()
    assert kind == "tuned"
    assert last == "unsupported-image-type 415"
    assert pixels(results / "mask.png").ndim == 2
