"""`seggpt info`: what a checkpoint is, without loading it, or what a running service has loaded."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Any, Final

from app.client import Client, SegGptError

_FAILED: Final = 1
_WRONG_USAGE: Final = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One of the two."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("checkpoint", nargs="?", default="bundled", help="folder, file, hub id or bundled, the default")
    which.add_argument("--url", help="address of a running service")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """0 when it is told, 1 when it cannot be, 2 for wrong usage."""
    try:
        facts = _checkpoint(options.checkpoint) if options.url is None else _service(options.url)
    except (SegGptError, OSError) as error:
        return _say(error, _FAILED)
    except ValueError as error:
        return _say(error, _WRONG_USAGE)
    if options.json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        sys.stdout.writelines(f"{name}: {_shown(value)}\n" for name, value in facts.items())
    return 0


def _service(url: str) -> dict[str, Any]:
    with Client(url, timeout_s=10, limit_s=10) as client:
        health = client.health()
        facts: dict[str, Any] = {"service": url, "ready": health.ok, "detail": health.detail}
        for model in client.models():
            facts |= asdict(model)
        return facts


def _checkpoint(source: str) -> dict[str, Any]:
    # By name, since it brings torch along: who asks a service does not wait for that.
    checkpoints = import_module("model.checkpoint")
    try:
        found = checkpoints.resolve(source)
    except checkpoints.CheckpointError as error:
        raise OSError(str(error)) from error
    height, width = found.config.half_size
    return {
        "checkpoint": found.source,
        "revision": found.revision,
        "fingerprint": checkpoints.fingerprint(found),
        "weights": str(found.weights),
        "layout": found.layout,
        "bytes": found.weights.stat().st_size,
        "parameters": found.parameters,
        "picture_size": [height, width],
        "patch_size": found.config.patch_size,
        "layers": found.config.num_hidden_layers,
        "hidden_size": found.config.hidden_size,
    }


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(_shown(one) for one in value) if value and isinstance(value[0], Mapping) else _size(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items() if one is not None)
    return "-" if value is None else str(value)


def _size(value: Any) -> str:
    return "x".join(str(side) for side in value)


def _say(what: object, status: int) -> int:
    sys.stderr.write(f"seggpt info: {what}\n")
    return status
