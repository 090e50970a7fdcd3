"""The service on a GPU, beside what the bare model does there: one setting of it, its clients on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks import servers
from benchmarks.client import Seen, closed_loop, fetch, open_loop
from benchmarks.doors import register, registered
from benchmarks.report import Spread, ratios
from benchmarks.service import checked

SIZE, LOADS = (480, 640), (0.5, 0.8)
RATES_HEAD = ("pairs at most", "clients", "answers/s", "bare model, images/s", "over bare", "p50, ms", "p99, ms")
LOADS_HEAD = ("pairs at most", "offered/s", "answered/s", "p50, ms", "p99, ms", "refused")
_LOOKS, _LOOK_S = 150, 0.2  # at what is warm: half a minute of them


async def served(
    checkpoint: Path, pairs: int, clients: int, bare_per_s: Callable[[], float], rounds: int, seconds: float
) -> tuple[list[str], list[list[str]]]:
    """Start the service, and measure it in turn with the bare model, then at loads below its capacity.

    Args:
        checkpoint: a folder; registered prompts go into it too.
        pairs: of its largest batch.
        clients: that ask all the time.
        bare_per_s: measures the bare model, images per second.
        rounds: of both in turn.
        seconds: of a short measurement; capacity takes five times as long, a load eight times.

    Returns:
        A row under RATES_HEAD, and one per load under LOADS_HEAD.
    """
    settings = {
        "SEGGPT_DTYPE": "bfloat16",
        "SEGGPT_MAX_BATCH_PAIRS": str(pairs),
        "SEGGPT_QUEUE_PAIRS": "256",
        "SEGGPT_PROMPTS": str(checkpoint / "prompts"),
    }
    async with servers.ours(str(checkpoint), settings) as server:
        request = registered(SIZE, await register(server.port, SIZE))
        warm = str(await _warmed_up(server.port, pairs))
        seen = checked(await closed_loop(servers.HOST, server.port, request, clients, seconds))
        answered, bare = [], []
        for _ in range(rounds):
            with server.paused():
                bare.append(bare_per_s())
            seen = checked(await closed_loop(servers.HOST, server.port, request, clients, 5 * seconds))
            answered.append(seen.answers_per_s)
        rates = [Spread(tuple(values)).text(1) for values in (answered, bare)]
        row = [warm, str(clients), *rates, ratios(answered, bare).text(), *_quantiles(seen)]
        later = []
        for share in LOADS:
            offered = share * Spread(tuple(answered)).median
            seen = checked(await open_loop(servers.HOST, server.port, request, offered, 8 * seconds, seed=1))
            rate = f"{seen.answers_per_s:.1f}"
            later.append([warm, f"{offered:.1f}", rate, *_quantiles(seen), str(seen.refused)])
    return row, later


def _quantiles(seen: Seen) -> list[str]:
    return [f"{seen.quantile_ms(share):.0f}" for share in (0.5, 0.99)]


async def _warmed_up(port: int, pairs: int) -> int:
    """Wait until batches of `pairs` are warm, or no longer: pairs of the largest that is."""
    for _ in range(_LOOKS):
        if (largest := await _largest_batch(port)) >= pairs:
            break
        await asyncio.sleep(_LOOK_S)  # the worker is another process: nothing here can be waited for
    return largest


async def _largest_batch(port: int) -> int:
    _, models = await fetch(servers.HOST, port, "/v1/models")
    return min(int(worker["max_batch_pairs"]) for worker in json.loads(models)["models"][0]["workers"])
