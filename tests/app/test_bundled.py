"""The checkpoint in the repository: whole, small, and served by default to a newcomer who gets the right mask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from model.checkpoint import BUNDLED
from tests.app.conftest import ROOT, RunningServer, decoded, encoded, running_server

EXAMPLES = ROOT / "examples"
LARGEST_BYTES = 16_000_000


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("bundled") / "log") as running:
        running.wait_until_ready()
        yield running


def iou(got: np.ndarray, wanted: np.ndarray) -> float:
    return float((got & wanted).sum() / (got | wanted).sum())


def quick_start(image: bytes | None = None) -> dict[str, bytes]:
    """The README's curl line, with another input image if one is given."""
    return {
        "image": image or (EXAMPLES / "image.jpg").read_bytes(),
        "prompt_image": (EXAMPLES / "prompt_image.jpg").read_bytes(),
        "prompt_mask": (EXAMPLES / "prompt_mask.png").read_bytes(),
    }


def test_its_files_are_those_of_the_checksums() -> None:
    for line in (BUNDLED / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((BUNDLED / name).read_bytes()).hexdigest() == digest, name
    assert (BUNDLED / "model.safetensors").stat().st_size <= LARGEST_BYTES
    assert "## How well it does" in (BUNDLED / "README.md").read_text()


def test_the_quick_start_marks_the_right_object(bundled: RunningServer) -> None:
    got = decoded(bundled.client.post("/v1/segment", files=quick_start())) > 127
    wanted = np.asarray(Image.open(EXAMPLES / "image_mask.png").convert("L")) > 127
    prompt = np.asarray(Image.open(EXAMPLES / "prompt_mask.png").convert("L").resize(wanted.T.shape)) > 127
    assert iou(got, wanted) > 0.7
    assert iou(got, wanted) > iou(prompt, wanted) + 0.3, "no better than a copy of the prompt mask"


def test_sixteen_clients_each_get_their_own_answer(bundled: RunningServer) -> None:
    scene = Image.open(EXAMPLES / "image.jpg")
    size = scene.size
    images = [encoded(scene.rotate(5 * turn, Image.Resampling.BICUBIC).resize(size), "JPEG") for turn in range(16)]

    def ask(image: bytes) -> httpx.Response:
        return httpx.post(f"{bundled.url}/v1/segment", files=quick_start(image), timeout=120)

    alone = [decoded(ask(image)) for image in images]
    pairs, batches = bundled.metric("seggpt_batch_pairs_sum"), bundled.metric("seggpt_batches_total")
    with ThreadPoolExecutor(16) as clients:
        together = [decoded(answer) for answer in clients.map(ask, images)]
    for got, wanted in zip(together, alone, strict=True):
        assert np.array_equal(got, wanted)
    assert len({answer.tobytes() for answer in together}) == 16
    mean = (bundled.metric("seggpt_batch_pairs_sum") - pairs) / (bundled.metric("seggpt_batches_total") - batches)
    assert mean > 1, "no two requests shared a batch"


def test_it_says_what_it_is(bundled: RunningServer) -> None:
    (model,) = bundled.client.get("/v1/models").json()["models"]
    assert model["checkpoint"] == "bundled"
    assert 1_000_000 < model["parameters"] < 8_000_000
