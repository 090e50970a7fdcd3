"""How much of the bare model's rate the whole service reaches: bare and service in turn, in one run.

Bare: the network alone in this process, float32, all cores, pictures already in memory as tensors, at the batch size
that is fastest. Service: a server process with its worker, clients on loopback that send JPEGs and a PNG mask and read
PNG masks.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from model.checkpoint import BUNDLED, load, resolve
from model.seggpt import SegGptForImageSegmentation

BOUNDARY = "benchmark"
BATCHES = (1, 2, 4, 8)


@dataclass
class Spread:
    """Figures of several rounds."""

    values: list[float]

    def __str__(self) -> str:
        return f"{statistics.median(self.values):8.2f}   ({min(self.values):.2f} to {max(self.values):.2f})"


@dataclass
class Load:
    """What clients saw in one round."""

    answers_per_s: float
    latencies_s: list[float]
    mean_batch_pairs: float


def bare_rate(model: SegGptForImageSegmentation, pairs: int, seconds: float) -> float:
    """Images per second of the network alone, `pairs` at a time."""
    height, width = model.config.half_size
    pictures = torch.randn(3, pairs, 3, height, width)
    done = 0
    start = time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - start < seconds:
            model(pictures[0], pictures[1], pictures[2], answer_only=True)
            done += pairs
    return done / (time.perf_counter() - start)


def request_body(seed: int, size: tuple[int, int]) -> bytes:
    """One multipart request, encoded once: a JPEG input image, a JPEG prompt image, a PNG mask."""
    random = np.random.default_rng(seed)

    def jpeg() -> bytes:
        coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        buffer = BytesIO()
        coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    rows, columns = np.mgrid[: size[0], : size[1]]
    disc = np.hypot(rows - size[0] / 2, columns - size[1] / 2) < min(size) / 3
    mask = BytesIO()
    Image.fromarray(disc.astype(np.uint8) * 255).save(mask, "PNG")
    parts = b""
    for name, content in (("image", jpeg()), ("prompt_image", jpeg()), ("prompt_mask", mask.getvalue())):
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'
        parts += head.encode() + content + b"\r\n"
    return parts + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def running_service(checkpoint: str, log: Path) -> Iterator[str]:
    """A server with its worker on a free port; gives its URL when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"SEGGPT_PORT": str(port), "SEGGPT_CHECKPOINT": checkpoint, "SEGGPT_LOG_LEVEL": "warning"}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "app"], env={**os.environ, **settings}, stderr=file)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"the server ended:\n{log.read_text()}")
            try:
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        time.sleep(2)  # the larger buckets warm up behind readiness
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def batch_counts(url: str) -> tuple[float, float]:
    """(pairs, batches) so far."""
    lines = dict(line.split(" ") for line in httpx.get(f"{url}/metrics").text.splitlines() if line[0] != "#")
    return float(lines["seggpt_batch_pairs_sum"]), float(lines["seggpt_batches_total"])


def load_service(url: str, bodies: list[bytes], clients: int, seconds: float) -> Load:
    """Keep `clients` requests open for `seconds`, each client sending its next as soon as it has its answer."""
    end = time.perf_counter() + seconds
    latencies: list[float] = []
    failures: list[str] = []

    def client(index: int) -> None:
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        with httpx.Client(base_url=url, timeout=300, headers=headers) as session:
            while time.perf_counter() < end:
                start = time.perf_counter()
                answer = session.post("/v1/segment", content=bodies[index % len(bodies)])
                if answer.status_code != 200:
                    failures.append(answer.text)
                    return
                latencies.append(time.perf_counter() - start)

    pairs, batches = batch_counts(url)
    start = time.perf_counter()
    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"a request failed: {failures[0]}")
    elapsed = time.perf_counter() - start
    pairs_now, batches_now = batch_counts(url)
    return Load(len(latencies) / elapsed, latencies, (pairs_now - pairs) / (batches_now - batches))


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--checkpoint", default="bundled", help="as SEGGPT_CHECKPOINT")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    source = BUNDLED if options.checkpoint == "bundled" else options.checkpoint
    model = load(resolve(source), dtype=torch.float32)
    bodies = [request_body(seed, tuple(options.size)) for seed in range(options.clients)]
    log = Path("/tmp") / f"benchmark-{os.getpid()}.log"
    with running_service(options.checkpoint, log) as url:
        fastest = max(BATCHES, key=lambda pairs: bare_rate(model, pairs, options.seconds / 4))
        bare, loads = [], []
        for _ in range(options.rounds):
            bare.append(bare_rate(model, fastest, options.seconds))
            loads.append(load_service(url, bodies, options.clients, options.seconds))
        single = load_service(url, bodies, 1, options.seconds)
    latencies = sorted(latency for load in loads for latency in load.latencies_s)
    print(f"{datetime.now(UTC):%Y-%m-%d}  {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"python -m benchmarks {shlex.join(sys.argv[1:])}".rstrip())
    print(f"bare model, images/s, batches of {fastest}:    {Spread(bare)}")
    print(f"service, answers/s, {options.clients} clients:       {Spread([load.answers_per_s for load in loads])}")
    ratios = [load.answers_per_s / rate for load, rate in zip(loads, bare, strict=True)]
    print(f"service / bare, pair by pair:         {Spread(ratios)}")
    print(f"mean pairs per batch:                 {Spread([load.mean_batch_pairs for load in loads])}")
    print(f"latency, {options.clients} clients, ms: p50 {1000 * latencies[len(latencies) // 2]:.0f}", end="")
    print(f", p99 {1000 * latencies[int(len(latencies) * 0.99)]:.0f}")
    print(f"latency, 1 client, ms:   p50 {1000 * statistics.median(single.latencies_s):.0f}")
    log.unlink()
    return 0
