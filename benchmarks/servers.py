"""The servers that are measured, each started as its users start it, on a free port of loopback."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from benchmarks.client import fetch
from benchmarks.peer import Setting
from benchmarks.report import ROOT, cores

HOST = "127.0.0.1"
_SETTLING_S = 3.0


@dataclass(frozen=True)
class Server:
    """A running server: its port, and the leader of its processes' session."""

    port: int
    pid: int

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it while others are measured: some servers keep looking at their queues when they have nothing to do."""
        os.killpg(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.pid, signal.SIGCONT)


@asynccontextmanager
async def ours(checkpoint: str, settings: Mapping[str, str]) -> AsyncIterator[Server]:
    """Our service with its defaults, but for `settings` (SEGGPT_* variables)."""
    port = _free_port()
    as_served = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # by `make serve` and in the Dockerfile
    environment = {**as_served, **os.environ, "SEGGPT_CHECKPOINT": checkpoint, **settings, "SEGGPT_PORT": str(port)}
    async with _running([sys.executable, "-m", "app"], environment, port, "/health/ready") as server:
        await asyncio.sleep(_SETTLING_S)  # the larger batches warm up behind readiness
        yield server


@asynccontextmanager
async def peer(setting: Setting) -> AsyncIterator[Server]:
    """LitServe around transformers with the bundled checkpoint."""
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.peer", f"--port={port}", f"--cores={cores()}", *setting.arguments()]
    async with _running(command, os.environ, port, "/health") as server:
        yield server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _running(
    command: Sequence[str], environment: Mapping[str, str], port: int, probe: str
) -> AsyncIterator[Server]:
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = _start(command, environment, file)
        try:
            while True:
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} ended:\n{log.read_text()}")
                try:
                    if (await fetch(HOST, port, probe))[0] == 200:
                        break
                except OSError:
                    pass
                await asyncio.sleep(0.1)
            yield Server(port, process.pid)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
            _end(process)


def _start(command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """In a session of its own, so that what it starts ends with it; logging as it does by default."""
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, and SIGKILL to whatever of its session is left."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
