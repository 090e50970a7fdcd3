"""`python -m benchmarks stages`: what a request costs, stage by stage, for small and large JPEGs and every output.

Two views. What the service says itself: `Server-Timing` of requests that follow one another, and beside it what the
client waited more than that. And what the steps cost alone, in one thread of this process without a server.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from app.classes import decode
from app.examples import Example, example_key
from app.images import Limits, decode_image, decode_mask
from app.labels import BINARY
from app.masks import encode_mask, encode_overlay, encode_soft
from app.metrics import STAGES
from app.preprocess import mask_to_cell, to_cell
from app.routes.multipart import parse
from benchmarks import servers
from benchmarks.bodies import BOUNDARY, jpeg, mask_png, numbered, segment_request
from benchmarks.client import Connection
from benchmarks.report import RESULTS, Spread, Table, store, this_machine
from model.checkpoint import resolve

SIZES = {"640x480": (480, 640), "1920x1080": (1080, 1920), "4000x3000": (3000, 4000)}
OUTPUTS = {
    "mask": [("output", "mask")],
    "smooth mask": [("output", "mask"), ("upsampling", "bilinear")],
    "soft": [("output", "soft")],
    "overlay": [("output", "overlay")],
}
_FRESH = itertools.count()
_LIMITS = Limits(50_000_000, 16_384)


def timing(answer: bytes) -> dict[str, float]:
    """The milliseconds of an answer's Server-Timing header."""
    _, _, rest = answer.lower().partition(b"server-timing: ")
    entries = rest.partition(b"\r\n")[0].decode().split(", ")
    return {name: float(ms) for name, ms in (entry.split(";dur=") for entry in entries)}


async def served(
    port: int, image: bytes, example: tuple[bytes, bytes], fields: list[tuple[str, str]], times: int
) -> dict[str, list[float]]:
    """Milliseconds of each stage of requests that follow one another, the example known, and then new every time."""
    connection = await Connection.open(servers.HOST, port)
    columns: dict[str, list[float]] = {}
    for number in range(2 * times + 1):
        is_new = number > times
        shown = (numbered(example[0], next(_FRESH)), example[1]) if is_new else example
        request = segment_request(image, [shown], servers.HOST, fields)
        sent = time.perf_counter()
        status, answer = await connection.ask(request)
        waited_ms = (time.perf_counter() - sent) * 1000
        if status != 200:
            raise SystemExit(f"a request failed: {answer[:300]!r}")
        if number == 0:
            continue  # it made the example known
        stages = timing(answer)
        entries = {**stages, "between": stages["total"] - sum(stages[stage] for stage in STAGES), "client": waited_ms}
        for name, ms in entries.items():
            columns.setdefault(f"new {name}" if is_new else name, []).append(ms)
    connection.close()
    return columns


def direct(image: bytes, example: tuple[bytes, bytes], cell: tuple[int, int], times: int) -> dict[str, list[float]]:
    """Milliseconds of each step alone, in one thread."""
    picture, mask = decode_image(image, _LIMITS), decode_mask(example[1], _LIMITS)
    size = (picture.height, picture.width)
    answer = mask_to_cell(mask, cell)[:, :, 0]
    soft = np.random.default_rng(0).integers(0, 256, cell, dtype=np.uint8)
    _, body = segment_request(image, [example], servers.HOST)
    levels = np.repeat(answer[:, :, None], 4, axis=2)
    memory = np.empty((2, *cell, 3), np.uint8)
    pixels = to_cell(picture, cell)

    def copy() -> None:
        memory[:] = pixels

    steps: dict[str, Callable[[], object]] = {
        "parse the form": lambda: parse(body, BOUNDARY.encode()),
        "recognise the example": lambda: example_key(Example(*example), "binary", BINARY),
        "decode the image": lambda: decode_image(image, _LIMITS),
        "resize the image": lambda: to_cell(picture, cell),
        "decode the mask": lambda: decode_mask(example[1], _LIMITS),
        "copy into the cells": copy,
        "encode a mask": lambda: encode_mask(answer, size, 0.5),
        "decode and encode a smooth mask": lambda: encode_mask(decode(levels, BINARY, None, size).index, size, 0.0),
        "encode a soft mask": lambda: encode_soft(soft, size),
        "encode an overlay": lambda: encode_overlay(picture, answer, 0.5),
    }
    return {name: [_ms(step) for _ in range(times)] for name, step in steps.items()}


def _ms(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1000


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it goes to disk: medians and all values' extremes are taken when it is shown."""
    cell = resolve(options.checkpoint).config.half_size
    result: dict[str, Any] = {"machine": this_machine().to_dict(), "served": {}, "direct": {}}
    async with servers.ours(options.checkpoint, {}) as server:
        for name, size in SIZES.items():
            image, example = jpeg(0, size), (jpeg(1, size), mask_png(size))
            for output, fields in OUTPUTS.items():
                columns = await served(server.port, image, example, fields, options.times)
                result["served"][f"{name} {output}"] = columns
            result["direct"][name] = direct(image, example, cell, options.times)
    return result


def tables(result: dict[str, Any]) -> list[Table]:
    """What is printed and written into the documents: milliseconds."""
    names = [*STAGES, "between", "total", "client"]
    rows = []
    for request, columns in result["served"].items():
        for prefix, example in (("", "known"), ("new ", "new")):
            cells = [f"{Spread(tuple(columns[prefix + name])).median:.1f}" for name in names]
            rows.append([f"{request}, {example} example", *cells])
    steps = list(next(iter(result["direct"].values())))
    alone = [[step, *(Spread(tuple(of[step])).text() for of in result["direct"].values())] for step in steps]
    return [Table(["request, ms", *names], rows), Table(["step alone, ms", *result["direct"]], alone)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stages", description=__doc__)
    parser.add_argument("--checkpoint", default="bundled", help="as SEGGPT_CHECKPOINT")
    parser.add_argument("--times", type=int, default=15, help="measurements of each kind")
    parser.add_argument("--json", type=Path, default=RESULTS / "stages.json", help="where the result goes")
    options = parser.parse_args(arguments)
    result = uvloop.run(measure(options))
    print(this_machine().line())
    for table in tables(result):
        print(f"\n{table.text()}")
    print(f"\n{store(options.json.stem, result, options.json.parent)}")
    return 0
