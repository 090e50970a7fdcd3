"""`GET /`: the playground, a static page for trying the service; what it loads lies beside it in `app/static`.

The page has no build step and takes nothing from outside: its Content-Security-Policy lets the browser load scripts,
styles and data from this service alone, and run nothing that stands inline. Files are revalidated on every visit
(ETag), so that a new release of the service is a new page at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

STATIC: Final = Path(__file__).parents[1] / "static"
_POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",  # blob: what a person chose, before it is sent
    "connect-src": "'self' blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "; ".join(f"{directive} {sources}" for directive, sources in _POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_METHODS: Final = ["GET", "HEAD"]
_files: Final = StaticFiles(directory=STATIC)

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=_METHODS)
async def playground(request: Request) -> Response:
    """The page itself."""
    return await _file("index.html", request)


@router.api_route("/static/{name}", methods=_METHODS)
async def static(name: str, request: Request) -> Response:
    """One of the files that the page loads.

    Raises:
        HTTPException: 404, there is no such file.
    """
    return await _file(name, request)


async def _file(name: str, request: Request) -> Response:
    response = await _files.get_response(name, request.scope)
    response.headers.update(_HEADERS)
    return response
