"""Requests whose form is read into memory: what FastAPI is given instead of Starlette's own form reading.

Starlette parses piece by piece and writes files above 1 MB to disk; here a body's bytes are bounded before they are
read, and each picture must be in memory for decoding anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from io import BytesIO
from typing import Any

from fastapi import Request, Response, UploadFile
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, Headers

from app.errors import UnsupportedMediaType
from app.routes.multipart import Part, boundary_of, parse


class MemoryFile(UploadFile):
    """An uploaded file whose bytes are there already."""

    def __init__(self, part: Part) -> None:
        headers = Headers({"content-type": part.content_type})
        super().__init__(BytesIO(), size=len(part.content), filename=part.filename, headers=headers)
        self.content = part.content

    async def read(self, size: int = -1) -> bytes:
        """The whole file; there is no reading in pieces."""
        assert size < 0, "a file in memory is read as a whole"
        return self.content

    async def close(self) -> None:
        """Nothing to close."""


class FormRequest(Request):
    """A request whose `form` reads multipart bodies only, in memory."""

    _parsed: FormData | None = None

    async def form(self, **limits: Any) -> FormData:  # type: ignore[override]  # awaited here, never a context manager
        """The form.

        Raises:
            UnsupportedMediaType: the body is something else.
            MalformedMultipart: the body cannot be parsed.
        """
        del limits  # bytes are counted while they stream in; parts have the parser's own limits
        if self._parsed is None:
            content_type = self.headers.get("content-type", "")
            if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
                raise UnsupportedMediaType(f"got content type {content_type[:80]!r}; allowed is multipart/form-data")
            boundary = boundary_of(content_type)
            parts = parse(await self.body(), boundary)
            self._parsed = FormData([(part.name, _value(part)) for part in parts])
        return self._parsed


class FormRoute(APIRoute):
    """A route that gets a `FormRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given the other kind of request."""
        handle = super().get_route_handler()

        async def handle_form(request: Request) -> Response:
            return await handle(FormRequest(request.scope, request.receive))

        return handle_form


def _value(part: Part) -> MemoryFile | str:
    return part.content.decode("utf-8", "replace") if part.filename is None else MemoryFile(part)
