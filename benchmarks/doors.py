"""`python -m benchmarks doors`: what registered prompts and batch requests save, on one running service.

The same input images (JPEGs of 640x480) in four ways in turn: each with an example of its own, all with the same one
sent along, all with a registered prompt, and many in one batch request. One client alone shows what a request takes, 16
clients show what the service gives; a batch request is one connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import servers
from benchmarks.bodies import BOUNDARY, jpeg, mask_png, requests
from benchmarks.client import Connection, Request, closed_loop
from benchmarks.report import RESULTS, Spread, Table, ratios, store, this_machine
from benchmarks.service import checked

NEW, SENT, REGISTERED, BATCH = "new example each", "same example sent along", "registered prompt", "one batch request"
_PICTURES = 16


def _post(path: str, parts: Sequence[tuple[str, str, bytes]]) -> list[bytes]:
    """A multipart request: (field, file name or nothing, content)."""
    body = b""
    for name, filename, content in parts:
        file = f'; filename="{filename}"' if filename else ""
        body += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
        )
    body += f"--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {servers.HOST}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return [head.encode(), body]


async def register(port: int, size: tuple[int, int]) -> str:
    """Register a made example, and give its id."""
    connection = await Connection.open(servers.HOST, port)
    shown = [("prompt_image", "p.jpg", jpeg(_PICTURES, size)), ("prompt_mask", "m.png", mask_png(size))]
    status, answer = await connection.ask(_post("/v1/prompts", shown))
    connection.close()
    if status not in (200, 201):  # made now, or there already
        raise SystemExit(f"registering failed: {answer[:300]!r}")
    prompt: str = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
    return prompt


def registered(size: tuple[int, int], prompt: str) -> Request:
    """Requests by number: different input images, one registered prompt."""
    images = [jpeg(seed, size) for seed in range(_PICTURES)]
    ready = [_post("/v1/segment", [("image", "i", image), ("prompt", "", prompt.encode())]) for image in images]
    return lambda number: ready[number % _PICTURES]


async def batch(port: int, size: tuple[int, int], prompt: str, images: int) -> float:
    """Images per second of one batch request."""
    pictures = [jpeg(seed, size) for seed in range(_PICTURES)]
    parts = [("prompt", "", prompt.encode()), ("output", "", b"mask")]
    parts += [("image", f"{number}.jpg", pictures[number % _PICTURES]) for number in range(images)]
    started = time.perf_counter()
    status, body = await _whole_answer(port, _post("/v1/segment/batch", parts))
    seconds = time.perf_counter() - started
    last = json.loads(body.splitlines()[-1])
    if status != 200 or last != {"done": True, "images": images, "failed": 0}:
        raise SystemExit(f"the batch failed: {status} {last}")
    return images / seconds


async def _whole_answer(port: int, request: Sequence[bytes]) -> tuple[int, bytes]:
    """Status and body of an answer that comes in chunks."""
    reader, writer = await asyncio.open_connection(servers.HOST, port, limit=2**24)
    writer.writelines(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    writer.close()
    return int(head[9:12]), body


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it goes to disk."""
    size = tuple(options.size)
    rates: dict[str, list[float]] = {NEW: [], SENT: [], REGISTERED: [], BATCH: []}
    alone: dict[str, list[float]] = {NEW: [], SENT: [], REGISTERED: []}
    with tempfile.TemporaryDirectory() as prompts:
        async with servers.ours(options.checkpoint, {"SEGGPT_PROMPTS": prompts}) as server:
            prompt = await register(server.port, size)
            ways = {
                NEW: requests(size, servers.HOST, new_prompts=True),
                SENT: requests(size, servers.HOST, new_prompts=False),
                REGISTERED: registered(size, prompt),
            }
            for round_ in range(-1, options.rounds):  # the first is not counted
                for name, request in ways.items():
                    seconds = options.seconds if round_ >= 0 else 1.0
                    one = checked(await closed_loop(servers.HOST, server.port, request, 1, seconds))
                    all_ = checked(await closed_loop(servers.HOST, server.port, request, options.clients, seconds))
                    if round_ >= 0:
                        alone[name].append(one.quantile_ms(0.5))
                        rates[name].append(all_.answers_per_s)
                rate = await batch(server.port, size, prompt, options.images)
                if round_ >= 0:
                    rates[BATCH].append(rate)
    return {"machine": this_machine().to_dict(), "per_s": rates, "alone_ms": alone, "clients": options.clients}


def tables(result: dict[str, Any]) -> list[Table]:
    """What is printed and written into the documents."""
    rates, alone = result["per_s"], result["alone_ms"]
    rows = [
        [
            name,
            Spread(tuple(values)).text(1),
            ratios(values, rates[NEW]).text(),
            Spread(tuple(alone[name])).text(1) if name in alone else "",
        ]
        for name, values in rates.items()
    ]
    head = [
        "way of asking",
        f"images per second, {result['clients']} clients",
        "over new examples",
        "p50 of one client, ms",
    ]
    return [Table(head, rows)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks doors", description=__doc__)
    parser.add_argument("--checkpoint", default="bundled", help="as SEGGPT_CHECKPOINT")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--images", type=int, default=300, help="of the batch request")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--json", type=Path, default=RESULTS / "doors.json", help="where the result goes")
    options = parser.parse_args(arguments)
    result = uvloop.run(measure(options))
    print(this_machine().line())
    for table in tables(result):
        print(f"\n{table.text()}")
    print(f"\n{store(options.json.stem, result, options.json.parent)}")
    return 0
