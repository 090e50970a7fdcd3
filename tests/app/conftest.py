"""A tiny checkpoint, and real servers on loopback with real worker processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from model.config import SegGptConfig
from model.seggpt import SegGptForImageSegmentation
from tests.model.conftest import draw_weights

ROOT = Path(__file__).parents[2]
TINY = SegGptConfig(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    mlp_dim=64,
    image_size=(96, 64),  # pictures of 48x64: neither square nor 448
    patch_size=8,
    pretrain_image_size=32,
    decoder_hidden_size=8,
    merge_index=1,
    intermediate_hidden_state_indices=(1, 2),
)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with weights as large as trained ones, so that different pictures give different answers."""
    model = SegGptForImageSegmentation(TINY)
    draw_weights(model, seed=0)
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    return folder


class RunningServer:
    """`python -m app` as a user starts it, with its log in a file."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log
        self.client = httpx.Client(base_url=url, timeout=120)

    def wait_until_ready(self, probe: str = "ready") -> None:
        """The test's own timeout is the limit."""
        while self.process.poll() is None:
            try:
                if self.client.get(f"/health/{probe}").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        pytest.fail(f"the server ended with status {self.process.returncode}:\n{self.log.read_text()}")

    def worker_pids(self) -> list[int]:
        """Child processes of the server that run `app.worker`."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"app.worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def metric(self, name: str) -> float:
        """The value of one sample line of /metrics, e.g. `seggpt_batches_total`."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        pytest.fail(f"/metrics has no {name}")

    def wait_until_held(self, queued: int | None = None, running: int | None = None, total: int | None = None) -> None:
        """Wait until that many pairs are queued, held by workers, or either; how they share out is a matter of luck."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            waiting, held = self.metric("seggpt_queue_pairs"), self.metric("seggpt_running_pairs")
            wanted = ((queued, waiting), (running, held), (total, waiting + held))
            if all(number in (None, now) for number, now in wanted):
                return
            time.sleep(0.01)
        pytest.fail(f"{waiting} pairs wait and {held} run; wanted {queued} and {running}, {total} together")


@contextmanager
def running_server(log: Path, **settings: object) -> Iterator[RunningServer]:
    """Start a server on a free port of loopback and end it with SIGTERM, as an orchestrator does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEGGPT_")}
    # float32 by name: what "auto" takes depends on the machine, and the oracles compute in float32.
    environment |= {"SEGGPT_PORT": str(port), "SEGGPT_DEVICES": "cpu", "SEGGPT_DTYPE": "float32"}
    environment["SEGGPT_PROMPTS"] = str(log.with_name("prompts"))  # never the home of whoever runs the tests
    environment |= {f"SEGGPT_{name.upper()}": str(value) for name, value in settings.items()}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "app"], cwd=ROOT, env=environment, stderr=file)
    server = RunningServer(process, f"http://127.0.0.1:{port}", log)
    try:
        yield server
    finally:
        server.client.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


@pytest.fixture(scope="session")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server with the tiny checkpoint for all tests that leave it as it was."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server(log, checkpoint=tiny_folder, max_image_pixels=2_000_000, max_body_bytes=4_000_000) as running:
        running.wait_until_ready()
        yield running


def picture(seed: int, size: tuple[int, int] = (90, 120)) -> Image.Image:
    """A smooth RGB picture of (height, width), drawn from a seed."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC)


def disc(size: tuple[int, int] = (90, 120), centre: tuple[float, float] = (0.5, 0.5)) -> Image.Image:
    """An "L" mask of (height, width): a disc of 255 on 0, its centre in shares of the size."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside = np.hypot(rows - centre[0] * size[0], columns - centre[1] * size[1]) < min(size) / 3
    return Image.fromarray(inside.astype(np.uint8) * 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def form(
    seed: int = 0, examples: int = 1, size: tuple[int, int] = (90, 120)
) -> list[tuple[str, tuple[str, bytes, str]]]:
    """The files of one well-formed request, drawn from a seed."""
    files = [("image", ("image.png", encoded(picture(seed, size)), "image/png"))]
    for index in range(examples):
        shown = picture(1000 + 17 * seed + index)
        mask = disc(centre=(0.3 + 0.1 * (index % 4), 0.5))
        files.append(("prompt_image", (f"{index}.png", encoded(shown), "image/png")))
        files.append(("prompt_mask", (f"{index}.png", encoded(mask), "image/png")))
    return files


def decoded(answer: httpx.Response) -> np.ndarray:
    """The pixels of a PNG answer."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    image = Image.open(BytesIO(answer.content))
    image.load()
    assert image.format == "PNG"
    return np.asarray(image)
