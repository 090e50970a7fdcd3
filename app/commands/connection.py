"""The service that a command asks: a running one by its address, or one of its own for as long as the command runs.

Its own is `python -m app` on a free port of loopback, so that both ways give the same answers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

import app
from app.client import Client, SegGptError, UnreachableError

_POLL_S: Final = 0.1
_END_S: Final = 15
_LOCAL_LIMIT_S: Final = 1800
_PORT_TRIES: Final = 3
_LONGEST_S: Final = 7 * 24 * 3600  # sockets know bounds, too, though later ones
# What suits one user who waits; the environment wins.
_LOCAL_SETTINGS: Final = {
    "SEGGPT_LOG_FORMAT": "text",
    "SEGGPT_LOG_LEVEL": "warning",
    "SEGGPT_DEADLINE_S": str(_LOCAL_LIMIT_S),
}


class ServiceEndedError(SegGptError):
    """The command's own service ended before it could answer; it has said why on stderr."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which service."""
    group = parser.add_argument_group("service", "a running one, or without --url one of this command's own")
    group.add_argument("--url", help="address of a running service, such as http://127.0.0.1:8000")
    group.add_argument("--checkpoint", help="own service: folder, file, hub id or bundled (SEGGPT_CHECKPOINT)")
    group.add_argument("--devices", help="own service: such as cpu or cuda:0 (SEGGPT_DEVICES)")
    group.add_argument("--dtype", help="own service: precision of the network (SEGGPT_DTYPE)")
    group.add_argument("--timeout", type=_seconds, metavar="S", help="seconds to wait for an answer")


def check(options: argparse.Namespace) -> None:
    """Refuse what contradicts itself.

    Raises:
        ValueError: it does, or the address is none.
        OSError: the environment names certificates that cannot be read.
    """
    own = [f"--{name}" for name in ("checkpoint", "devices", "dtype") if getattr(options, name) is not None]
    if options.url is not None:
        if own:
            raise ValueError(f"{' and '.join(own)}: a running service (--url) has its own")
        Client(options.url).close()


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[Client]:
    """A client of a service that can answer.

    Raises:
        SegGptError: there is none.
    """
    if options.url is not None:
        timeout_s = options.timeout or 120
        with Client(options.url, timeout_s=timeout_s, limit_s=max(300, 2 * timeout_s)) as client:
            client.health()  # asks once: a wrong address is told at once, a service that only starts is waited for
            yield client
        return
    timeout_s = options.timeout or _LOCAL_LIMIT_S
    with (
        _own_service(options) as url,
        # Proxies of the environment lead nowhere from here.
        httpx.Client(trust_env=False) as http,
        Client(url, timeout_s=timeout_s, limit_s=max(_LOCAL_LIMIT_S, timeout_s), http=http) as client,
    ):
        yield client


@contextmanager
def _own_service(options: argparse.Namespace) -> Iterator[str]:
    environment = {**_LOCAL_SETTINGS, **os.environ, "SEGGPT_HOST": "127.0.0.1", "SEGGPT_DRAIN_S": "0"}
    # This `app`, not one that happens to lie in the user's folder.
    here = str(Path(app.__file__ or "").parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    environment["PYTHONSAFEPATH"] = "1"
    for name in ("checkpoint", "devices", "dtype"):
        if (value := getattr(options, name)) is not None:
            environment[f"SEGGPT_{name.upper()}"] = value
    for _ in range(_PORT_TRIES):
        environment["SEGGPT_PORT"] = str(port := _free_port())
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "--until-stdin-closes"],
            env=environment,
            stdin=subprocess.PIPE,  # however this process dies, the service sees its end
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the service
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if _is_ready(process, url):
                yield url
                return
        finally:
            _end(process)
        if not _is_taken(port):
            break  # it did not end for want of the port
    raise ServiceEndedError(f"the service ended with status {process.returncode} before it could answer")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_ready(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until it can answer; False if it ended. A first start downloads its checkpoint, so there is no limit."""
    with httpx.Client(trust_env=False) as http, Client(url, timeout_s=5, limit_s=5, http=http) as client:
        while process.poll() is None:
            with contextlib.suppress(UnreachableError):
                # Asked again whether it lives: whoever answers when it has ended is somebody else on its port.
                if client.health().ok and process.poll() is None:
                    return True
            time.sleep(_POLL_S)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    except KeyboardInterrupt:  # a second Ctrl-C
        process.kill()
        process.wait()
        raise


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"got {text}, allowed are more than 0 and at most {_LONGEST_S} seconds")
    return seconds
