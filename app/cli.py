"""`python -m app`: run the service in the foreground until it is told to end."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End cleanly; a second Ctrl-C ends at once.

        Not uvicorn's own handler: that one raises the signal again at the end, so that a clean end would look to an
        orchestrator like a death, and to a person at a terminal like a traceback.
        """
        del frame
        self._service.drain()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def main() -> int:
    """Serve. 0 after a clean end, 1 if the service could not answer at all, 2 if a setting is wrong."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return _WRONG_USAGE
    logs.configure(settings.log_format, settings.log_level)
    for got, meant in misspelt_variables(os.environ):
        logger.warning("%s is no setting and is ignored; did you mean %s?", got, meant)
    app = create_app(settings)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # app.access writes its own, with stage times
        server_header=False,
        # The service itself answers what it cannot finish in time; uvicorn would only cut connections.
        timeout_graceful_shutdown=math.ceil(settings.drain_s) + _LAST_ANSWERS_S,
    )
    _Server(config, service).run()
    return _FAILED if service.failure is not None else 0
