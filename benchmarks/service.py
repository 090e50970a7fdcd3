"""`python -m benchmarks service`: the service beside the bare model and beside LitServe around transformers.

Capacity: bare model, ours and the peer in turn, in one run, so that what the machine does meanwhile hits all alike;
whoever's turn it is not is stopped, since some servers keep looking at their queues when they have nothing to do.
Bare: the network alone, in as many processes as the service has workers and with their threads and allocator settings,
prepared as they prepare it, pictures already in memory, the prompt's mask stream computed before, at the fastest batch
size. The servers: 16 clients
on loopback, multipart with JPEGs of 640x480 and a PNG mask in, PNG masks out; the same requests and the same client for
both. Then the latency over the offered load, from a tenth of each one's own capacity to one fifth more than it.

By default all requests have one example and many input images; `--new-prompts` gives each request its own example.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from app.worker.channel import WORKER_SETTINGS, child_environment
from benchmarks import servers
from benchmarks.bare import Bare
from benchmarks.bodies import requests
from benchmarks.client import Request, Seen, closed_loop, fetch, open_loop
from benchmarks.peer import NATIVE, TRIED, Setting
from benchmarks.report import RESULTS, Spread, Table, ratios, store, this_machine
from benchmarks.servers import Server

LOADS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
OURS, PEER = "ours", "LitServe + transformers"
# The fastest of `peer.TRIED` on the machines of docs/performance.md, in the precision that this one computes in.
PEER_SETTING = Setting(4, 0.05, NATIVE, 2)


@dataclass(frozen=True)
class Point:
    """What one system's clients saw at one offered load."""

    system: str
    offered_per_s: float
    p50_ms: float
    p99_ms: float
    answered_per_s: float
    refused: int


def checked(seen: Seen) -> Seen:
    """The same, if every request was answered or refused."""
    if seen.failures:
        raise SystemExit(f"{len(seen.failures)} requests failed; the first: {seen.failures[0]}")
    return seen


@contextmanager
def only(running: dict[str, Server], name: str) -> Iterator[int]:
    """Pause all servers but one, whose port this gives; 0 if `name` is none of them."""
    with ExitStack() as paused:
        for other, server in running.items():
            if other != name:
                paused.enter_context(server.paused())
        yield running[name].port if name in running else 0


async def capacities(
    bare: Bare, running: dict[str, Server], request: Request, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Rates per second of every system in every round, and the latencies of a client that is alone, in ms."""
    rates: dict[str, list[float]] = {"bare": [], **{name: [] for name in running}}
    for name in running:
        with only(running, name) as port:
            checked(await closed_loop(servers.HOST, port, request, options.clients, 1.0))
    with only(running, "bare"):
        bare.tune(options.seconds / 4)
    for _ in range(options.rounds):
        with only(running, "bare"):
            rates["bare"].append(bare.rate(options.seconds))
        for name in running:
            with only(running, name) as port:
                seen = checked(await closed_loop(servers.HOST, port, request, options.clients, options.seconds))
            rates[name].append(seen.answers_per_s)
    alone: dict[str, list[float]] = {}
    for name in running:
        with only(running, name) as port:
            seen = checked(await closed_loop(servers.HOST, port, request, 1, options.seconds))
        alone[name] = [1000 * latency for latency in seen.latencies_s]
    return rates, alone


async def curve(
    running: dict[str, Server], rates: dict[str, list[float]], request: Request, options: argparse.Namespace
) -> list[Point]:
    """Latencies over offered load, the systems in turn."""
    points = []
    for share in LOADS:
        for name in running:
            offered = share * Spread(tuple(rates[name])).median
            with only(running, name) as port:
                seen = checked(await open_loop(servers.HOST, port, request, offered, options.load_seconds, seed=1))
            points.append(
                Point(name, offered, seen.quantile_ms(0.5), seen.quantile_ms(0.99), seen.answers_per_s, seen.refused)
            )
    return points


async def tuned_peer(request: Request, options: argparse.Namespace) -> Setting:
    """The fastest of TRIED."""
    rates = {}
    for setting in TRIED:
        async with servers.peer(setting) as server:
            checked(await closed_loop(servers.HOST, server.port, request, options.clients, 1.0))
            seen = checked(await closed_loop(servers.HOST, server.port, request, options.clients, options.seconds))
        rates[setting] = seen.answers_per_s
        print(f"  {setting}: {seen.answers_per_s:.1f}/s", flush=True)
    return max(rates, key=lambda setting: rates[setting])


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it goes to disk."""
    request = requests(tuple(options.size), servers.HOST, new_prompts=options.new_prompts)
    setting = await tuned_peer(request, options) if options.tune_peer else PEER_SETTING
    bare = Bare(options.checkpoint, options.dtype, not options.new_prompts)
    async with AsyncExitStack() as stack:
        running = {
            OURS: await stack.enter_async_context(servers.ours(options.checkpoint, {"SEGGPT_DTYPE": options.dtype}))
        }
        if not options.no_peer:
            running[PEER] = await stack.enter_async_context(servers.peer(setting))
        rates, alone = await capacities(bare, running, request, options)
        points = [] if options.no_load else await curve(running, rates, request, options)
        _, models = await fetch(servers.HOST, running[OURS].port, "/v1/models")
    return {
        "machine": this_machine().to_dict(),
        "mode": asdict(bare.mode),
        "bare": {"batch": bare.fastest, "processes": bare.processes, "threads": bare.threads},
        "workers": json.loads(models)["models"][0]["workers"],
        "peer": None if options.no_peer else asdict(setting),
        "per_s": rates,
        "alone_ms": {name: Spread(tuple(latencies)).median for name, latencies in alone.items()},
        "load": [asdict(point) for point in points],
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """What is printed and written into the documents."""
    rates = result["per_s"]
    rows = []
    for name, values in rates.items():
        over_bare = ratios(values, rates["bare"]).text() if name != "bare" else ""
        alone = f"{result['alone_ms'][name]:.0f}" if name in result["alone_ms"] else ""
        rows.append([name, Spread(tuple(values)).text(1), over_bare, alone])
    found = [Table(["system", "images per second", "over the bare model", "p50 of one client, ms"], rows)]
    if PEER in rates:
        found.append(
            Table(["ours over the peer", "ratio"], [["answers per second", ratios(rates[OURS], rates[PEER]).text()]])
        )
    if result["load"]:
        points = [Point(**row) for row in result["load"]]
        found.append(
            Table(
                ["system", "offered/s", "answered/s", "p50, ms", "p99, ms", "refused"],
                [
                    [
                        p.system,
                        f"{p.offered_per_s:.1f}",
                        f"{p.answered_per_s:.1f}",
                        f"{p.p50_ms:.0f}",
                        f"{p.p99_ms:.0f}",
                        str(p.refused),
                    ]
                    for p in points
                ],
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks service", description=__doc__)
    parser.add_argument("--checkpoint", default="bundled", help="as SEGGPT_CHECKPOINT; the peer has the bundled one")
    parser.add_argument("--dtype", default="auto", help="as SEGGPT_DTYPE, for ours and for the bare model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement of capacity")
    parser.add_argument("--load-seconds", type=float, default=8.0, help="of each offered load")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--new-prompts", action="store_true", help="an example of its own for every request")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--no-load", action="store_true", help="capacity only")
    parser.add_argument("--tune-peer", action="store_true", help="try the peer's settings first and take the fastest")
    parser.add_argument("--json", type=Path, default=RESULTS / "service.json", help="where the result goes")
    options = parser.parse_args(arguments)
    if not WORKER_SETTINGS.keys() <= os.environ.keys():
        # It is read when a process starts: the bare model's must start with what the worker's starts with.
        own = sys.argv[2:] if arguments is None else arguments
        command = [sys.executable, "-m", "benchmarks", "service", *own]
        return subprocess.run(command, env=child_environment(), check=False).returncode
    result = uvloop.run(measure(options))
    print(this_machine().line())
    print(f"ours: {result['mode']}; bare: {result['bare']}; peer: {result['peer']}")
    for table in tables(result):
        print(f"\n{table.text()}")
    print(f"\n{store(options.json.stem, result, options.json.parent)}")
    return 0
