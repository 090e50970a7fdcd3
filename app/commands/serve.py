"""`seggpt serve`, also `python -m app`: run the service in the foreground until it is told to end."""

from __future__ import annotations

import argparse
import gc
import logging
import math
import os
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn

from app import logs
from app.main import create_app
from app.service import Service
from app.settings import SettingsError, load_settings, misspelt_variables

logger = logging.getLogger(__name__)

_LAST_ANSWERS_S = 5
_WRONG_USAGE = 2
_FAILED = 1


class _Server(uvicorn.Server):
    """uvicorn, telling the service of SIGTERM at once, so that open connections get nothing new accepted."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. What exists by now lives as long as the process: no collection need walk it again."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End cleanly; a second Ctrl-C ends at once.

        Not uvicorn's own handler: that one raises the signal again at the end, so that a clean end would look to an
        orchestrator like a death, and to a person at a terminal like a traceback.
        """
        del frame
        self._service.drain()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of settings that people change by hand; docs/settings.md has all, as environment variables."""
    parser.add_argument("--host", help="address to listen on (SEGGPT_HOST)")
    parser.add_argument("--port", help="TCP port to listen on (SEGGPT_PORT)")
    parser.add_argument("--checkpoint", help="folder, file, hub id or bundled (SEGGPT_CHECKPOINT)")
    parser.add_argument("--devices", help="such as cpu or cuda:0,cuda:1 (SEGGPT_DEVICES)")
    parser.add_argument("--dtype", help="precision of the network (SEGGPT_DTYPE)")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end with the process at the other end of standard input"
    )


def run(options: argparse.Namespace) -> int:
    """Serve. 0 after a clean end, 1 if the service could not answer at all, 2 if a setting is wrong."""
    given = {name: getattr(options, name) for name in ("host", "port", "checkpoint", "devices", "dtype")}
    try:
        settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return _WRONG_USAGE
    logs.configure(settings.log_format, settings.log_level)
    for got, meant in misspelt_variables(os.environ):
        logger.warning("%s is no setting and is ignored; did you mean %s?", got, meant)
    try:
        app = create_app(settings)
    except SettingsError as error:  # what only opening can tell: no package for the prompt store's kind of storage
        sys.stderr.write(f"{error}\n")
        return _WRONG_USAGE
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # app.access writes its own, with stage times
        server_header=False,
        # Unlike httptools it bounds headers, reads on where an upgrade is offered, and sends HTTP/1.0 no chunks.
        http="h11",
        # The service itself answers what it cannot finish in time; uvicorn would only cut connections.
        timeout_graceful_shutdown=math.ceil(settings.drain_s) + _LAST_ANSWERS_S,
    )
    if options.until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        _Server(config, service).run()
    except SystemExit:  # uvicorn's, with a status of its own, where it cannot listen
        return _FAILED
    return _FAILED if service.failure is not None else 0


def _end_with_stdin() -> None:
    """Whoever started this process holds the other end, and lets go of it however it dies."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
