"""`python -m benchmarks tiles`: small objects in a large picture, found by the plain answer and by tiled ones.

One made picture of 6000x4000 pixels with 30 objects about 100 pixels across, one close-up of another such object as the
example, and the real service. It is asked for the same mask without tiles, with `tile=auto`, and with tiles of a given
size; the mask says which objects were found, the system's books how much memory the processes had at most meanwhile.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray
from PIL import Image

from app.tiles import parse_tile, plan
from benchmarks import servers
from benchmarks.bodies import segment_request
from benchmarks.client import Connection
from benchmarks.report import RESULTS, Spread, Table, store, this_machine
from benchmarks.tile_scene import make, score
from model.checkpoint import resolve

SIZE = (4000, 6000)
OBJECTS, OTHERS = 30, 30
OTHERS_SHOWN = 7
PLAIN = "none"
_DEADLINE_S = 600
_MAX_TILES = 4096


def processes_of(server: int) -> dict[str, tuple[int, ...]]:
    """The process that answers HTTP, and all below it: its workers, in sessions of their own."""
    parents = {int(entry.name): _parent(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    below: list[int] = [server]
    for pid in below:  # it grows on the way
        below += [child for child, parent in parents.items() if parent == pid]
    return {"http": (server,), "workers": tuple(below[1:])}


def _parent(process: Path) -> int | None:
    try:
        # The name, in brackets, may hold anything; after it come state and parent.
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def forget_peak(pid: int) -> None:
    """Let the process's peak of memory begin anew. Source: Linux, proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """The most memory that the process has had since then, shared pages included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


async def ask(
    server: servers.Server, connection: Connection, request: Sequence[bytes]
) -> tuple[NDArray[np.bool_], dict[str, float]]:
    """One mask (H, W), and what it took: seconds, and peak bytes of HTTP process and workers."""
    processes = processes_of(server.pid)
    for pids in processes.values():
        for pid in pids:
            forget_peak(pid)
    started = time.perf_counter()
    status, answer = await connection.ask(request)
    seconds = time.perf_counter() - started
    if status != 200:
        raise SystemExit(f"a request failed: {answer[:600]!r}")
    took = {f"{name}_bytes": float(sum(peak_bytes(pid) for pid in pids)) for name, pids in processes.items()}
    mask = np.asarray(Image.open(BytesIO(answer.partition(b"\r\n\r\n")[2]), formats=("PNG",)))
    return mask > 127, {"seconds": seconds, **took}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it goes to disk."""
    cell = resolve(options.checkpoint).config.half_size
    close_up = parse_tile(options.close_up)
    if close_up == "auto":
        raise SystemExit("--close-up is a size, such as 640x640")
    scene, example = make(SIZE, OBJECTS, OTHERS, options.seed), make(close_up, 1, OTHERS_SHOWN, options.seed + 1)
    image, shown = scene.jpeg(), (example.jpeg(), example.mask_png())
    settings = {"SEGGPT_DEADLINE_S": str(_DEADLINE_S), "SEGGPT_MAX_TILES": str(_MAX_TILES)}
    rows = []
    async with servers.ours(options.checkpoint, settings) as server:
        connection = await Connection.open(servers.HOST, server.port)
        for tile in (PLAIN, *options.tiles):
            fields = [] if tile == PLAIN else [("tile", tile)]
            request = segment_request(image, [shown], servers.HOST, fields)
            took: dict[str, list[float]] = {}
            for _ in range(options.times):
                mask, one = await ask(server, connection, request)
                for name, value in one.items():
                    took.setdefault(name, []).append(value)
            cut = None if tile == PLAIN else plan(SIZE, cell, parse_tile(tile), _MAX_TILES)
            rows.append(
                {
                    "tile": tile,
                    "grid": None if cut is None else cut.grid,
                    "tiles": 1 if cut is None else len(cut.tiles),
                    **vars(score(mask, scene)),
                    **took,
                }
            )
        connection.close()
    return {"machine": this_machine().to_dict(), "cell": cell, "close_up": close_up, "rows": rows}


def tables(result: dict[str, Any]) -> list[Table]:
    """What is printed and written into the documents."""
    head = [
        "tile",
        "tiles",
        "found",
        "parts on other shapes",
        "on the ground",
        "IoU of all",
        "seconds",
        "HTTP process, MB",
        "workers, MB",
    ]
    rows = []
    for row in result["rows"]:
        tiles = "1" if row["grid"] is None else f"{row['grid'][1]} x {row['grid'][0]} = {row['tiles']}"
        memory = [f"{max(row[name]) / 1e6:.0f}" for name in ("http_bytes", "workers_bytes")]
        found = [
            f"{row['found']} of {row['objects']}",
            str(row["on_others"]),
            str(row["on_ground"]),
            f"{row['iou']:.2f}",
        ]
        rows.append([row["tile"], tiles, *found, Spread(tuple(row["seconds"])).text(), *memory])
    return [Table(head, rows)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tiles", description=__doc__)
    parser.add_argument("--checkpoint", default="bundled", help="as SEGGPT_CHECKPOINT")
    parser.add_argument("--tiles", nargs="+", default=["auto", "640x640"], help="values of the field tile")
    parser.add_argument("--close-up", default="640x640", help="the example's size, width x height in pixels")
    parser.add_argument("--times", type=int, default=3, help="requests of each kind")
    parser.add_argument("--seed", type=int, default=1, help="of the scene")
    parser.add_argument("--json", type=Path, default=RESULTS / "tiles.json", help="where the result goes")
    options = parser.parse_args(arguments)
    result = uvloop.run(measure(options))
    print(this_machine().line())
    for table in tables(result):
        print(f"\n{table.text()}")
    print(f"\n{store(options.json.stem, result, options.json.parent)}")
    return 0
