"""Measurements in processes of their own: how they are started, and under which settings of the allocator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from app.worker.channel import WORKER_SETTINGS
from benchmarks.report import ROOT

DEFAULT: Mapping[str, str] = {}
# What the service gives its workers: large blocks stay with the process and lie in large pages, so that no forward has
# them mapped, zeroed and unmapped again; and OpenMP's threads do not spin for long.
TUNED: Mapping[str, str] = WORKER_SETTINGS
MALLOCS = {"default malloc": DEFAULT, "tuned malloc": TUNED}


def in_child(malloc: str, *arguments: str) -> dict[str, Any]:
    """Run `benchmarks.measure` in a new process under one of MALLOCS and give its result.

    Raises:
        SystemExit: it failed; what it said on stderr has been shown.
    """
    environment = {name: value for name, value in os.environ.items() if name not in WORKER_SETTINGS}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", *arguments],
        cwd=ROOT,
        env={**environment, **MALLOCS[malloc]},
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"a measurement failed: {' '.join(arguments)}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
