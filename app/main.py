"""Wire the service: settings in, an ASGI application out. Nothing is loaded at import."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.middleware import Guarded, Observed
from app.problems import add_handlers
from app.routes import batch, operations, playground, prompts, segment
from app.routes.gate import Gate
from app.service import Service
from app.settings import Settings, load_settings

VERSION: Final = "0.1.0"
_DESCRIPTION: Final = """\
Show one image with its mask, get the mask of the same thing in any other image: SegGPT
([arXiv:2304.03284](https://arxiv.org/abs/2304.03284)) as a service.

Post an input image with one or more examples to `/v1/segment`; a PNG mask of the input image's size comes back. Every
failure is an `application/problem+json` (RFC 9457) with a stable `type`.
"""


def create_app(settings: Settings | None = None, on_fatal: Callable[[str], None] | None = None) -> FastAPI:
    """The service as an ASGI application; workers start with its lifespan.

    Args:
        settings: every knob; None reads the environment.
        on_fatal: called with one line when the service can never answer; by default the server is asked to end.

    Raises:
        SettingsError: the environment has a value that is not allowed.
    """
    service = Service(settings or load_settings(), on_fatal or _end_server)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPIOffline(  # Swagger's files are served from here: /docs works without the internet
        redoc_url=None,
        title="SegGPT",
        version=VERSION,
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.gate = Gate(lambda: service.pairs_at_once)
    add_handlers(app)
    app.include_router(segment.router)
    app.include_router(prompts.router)
    app.include_router(batch.router)
    app.include_router(operations.router)
    app.include_router(playground.router)
    # The last added is the outermost.
    app.add_middleware(Guarded, service=service, paths={segment.PATH, prompts.PATH}, streamed={batch.PATH})
    app.add_middleware(Observed, service=service)
    return app


def _end_server(message: str) -> None:
    """Every ASGI server ends cleanly on SIGTERM; the line is in the log already."""
    del message
    os.kill(os.getpid(), signal.SIGTERM)
