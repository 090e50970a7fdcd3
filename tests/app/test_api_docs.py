"""Every command of docs/api.md does what the page says, against a live server with the bundled checkpoint."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from model.checkpoint import BUNDLED, fingerprint, resolve
from model.tuned_prompt import TunedPrompt
from tests.app.conftest import ROOT, running_server

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
PAGE = (ROOT / "docs/api.md").read_text()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the repository's root in which all commands have run, in the page's order."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "README.md").symlink_to(ROOT / "README.md")
    bundled = resolve(BUNDLED)
    pixels = torch.randint(256, (1, *bundled.config.half_size, 3), generator=torch.Generator().manual_seed(0))
    learned = pixels.to(torch.uint8)
    TunedPrompt(learned, learned, "mini", fingerprint(bundled), 0, 0).save(folder / "tuned.safetensors")
    with running_server(folder / "log", checkpoint="bundled") as server:
        server.wait_until_ready()
        for number, block in enumerate(BLOCKS):
            script = block.replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl -sS ")
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, check=False, timeout=60
            )
            assert done.returncode == 0, (block, done.stderr.decode())
            (folder / f"out{number}").write_bytes(done.stdout)
    return folder


def block(text: str) -> int:
    """The number of the one block with this text."""
    (number,) = (number for number, each in enumerate(BLOCKS) if text in each)
    return number


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_mask_and_its_segments_are_the_same_pixels(results: Path) -> None:
    body = json.loads((results / "segments.json").read_text())
    mask = pixels(results / "mask.png")
    assert (body["height"], body["width"]) == mask.shape == pixels(ROOT / "examples/image.jpg").shape[:2]
    assert body["segments"]
    shown = sum(coco.decode(segment["rle"]).astype(int) for segment in body["segments"])
    assert shown.max() == 1
    assert (mask[shown > 0] == 255).all()
    assert all(segment["area"] >= 100 for segment in body["segments"])


def test_the_pictures_are_what_the_page_says(results: Path) -> None:
    soft = pixels(results / "soft.png")
    assert (soft.ndim, pixels(results / "overlay.png").ndim) == (2, 3)
    assert set(np.unique(pixels(results / "classes.png"))) == {0, 7}
    assert (np.where(pixels(results / "classes.png") > 0, 255, 0) == np.where(soft > 127, 255, 0)).all()
    assert pixels(results / "tiled.png").shape == pixels(results / "mask.png").shape
    assert 'tiles;desc="' in (results / "headers.txt").read_text()


def test_prompts_are_registered_listed_renamed_and_forgotten(results: Path) -> None:
    prompt = json.loads((results / "prompt.json").read_text())
    assert (prompt["name"], prompt["examples"], prompt["state"]) == ("thing", 1, "ok")
    assert pixels(results / "preview.png").ndim == 3
    told = (results / f"out{block('name=thing')}").read_text()
    assert told.count(prompt["id"]) == 3
    assert '"my thing"' in told
    merged = (results / f"out{block('name=other')}").read_text()
    body = json.loads(merged[merged.index('{"height"') :])
    assert [label["name"] for label in body["labels"]] == ["my thing", "other"]


def test_a_tuned_prompt_is_registered_and_used(results: Path) -> None:
    prompt = json.loads((results / "learned.json").read_text())
    assert (prompt["name"], prompt["mask_kind"]) == ("learned", "tuned")
    assert pixels(results / "learned.png").shape == pixels(results / "mask.png").shape


def test_a_batch_answers_for_each_image_and_a_bad_one_fails_alone(results: Path) -> None:
    out = results / f"out{block('application/zip')}"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    *images, last = lines
    assert last["done"] is True
    assert {line["name"]: line["status"] for line in images} == {
        "image.jpg": 200,
        "prompt_image.jpg": 200,
        "README.md": 415,
    }
    with zipfile.ZipFile(results / "masks.zip") as archive:
        assert archive.testzip() is None
        assert len([name for name in archive.namelist() if name.endswith(".png")]) == 2


def test_the_failure_is_the_one_that_the_page_shows(results: Path) -> None:
    problem = json.loads((results / f"out{len(BLOCKS) - 1}").read_text())
    shown = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[-1])
    assert {**problem, "instance": ""} == {**shown, "instance": ""}


def test_every_route_and_every_field_is_on_the_page(results: Path) -> None:
    described = json.loads((ROOT / "docs/openapi.json").read_text())
    for path, methods in described["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in PAGE, path
    for field in described["components"]["schemas"]["Body_segment"]["properties"]:
        assert f"| `{field}` |" in PAGE, field
    for field in described["components"]["schemas"]["Body_register_prompt"]["properties"]:
        assert f"`{field}`" in PAGE, field
