"""Requests whose form is read into memory: what FastAPI is given instead of Starlette's own form reading.

Starlette parses piece by piece and writes files above 1 MB to disk; here a body's bytes are bounded before they are
read, and each picture must be in memory for decoding anyway. A form comes as multipart or as JSON with the same names,
and a picture as its bytes or by URL: routes see files.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from io import BytesIO
from typing import Any, Final

import anyio
from fastapi import Request, Response, UploadFile
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, Headers

from app.errors import DeadlineExceeded, InvalidRequest, UnsupportedMediaType
from app.remote import Allowance, is_url
from app.routes import json_form
from app.routes.multipart import Part, boundary_of, parse
from app.routes.openapi import json_body
from app.service import Service

PICTURES: Final = frozenset({"image", "prompt_image", "prompt_mask", "tuned"})
"""The fields that are pictures, or learned ones: base64 in JSON, and may be given by URL."""

_REPEATED: Final = frozenset({"prompt_image", "prompt_mask"})
_FETCHED_AT_ONCE: Final = 4
_SMALL_BODY_BYTES: Final = 16 * 1024


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
    """A request whose `form` reads multipart and JSON bodies, in memory, and fetches pictures given by URL."""

    _parsed: FormData | None = None

    async def form(self, **limits: Any) -> FormData:  # type: ignore[override]  # awaited here, never a context manager
        """The form.

        Raises:
            UnsupportedMediaType: the body is neither multipart nor JSON.
            MalformedMultipart: the body cannot be parsed.
            MalformedJson: the body is no JSON object, or a value in it is of the wrong kind.
            InvalidRequest: more pictures by URL than the largest request has pictures.
            UrlNotAllowed: a URL that must not be fetched; all are refused unless `SEGGPT_URL_HOSTS` is set.
            UrlUnreachable: a URL that gave no picture.
            TooManyBytesInFlight: what was fetched is more than there is room for.
            DeadlineExceeded: the deadline came while pictures were fetched.
        """
        del limits  # bytes are counted while they stream in; parts have the parser's own limits
        if self._parsed is None:
            parts = await self._fetched(await self._parts())
            self._parsed = FormData([(part.name, _value(part)) for part in parts])
        return self._parsed

    async def _parts(self) -> list[Part]:
        content_type = self.headers.get("content-type", "")
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            boundary = boundary_of(content_type)
            return parse(await self.body(), boundary)
        if kind == "application/json":
            body = await self.body()
            if len(body) <= _SMALL_BODY_BYTES:
                return json_form.parse(body, PICTURES)  # faster than a thread is found
            return await asyncio.to_thread(json_form.parse, body, PICTURES)
        raise UnsupportedMediaType(
            f"got content type {content_type[:80]!r}; allowed are multipart/form-data and application/json"
        )

    async def _fetched(self, parts: list[Part]) -> list[Part]:
        """`parts` with files in the place of URLs."""
        wanted = {
            index: field
            for index, field in enumerate(_fields(parts))
            if parts[index].name in PICTURES and parts[index].filename is None and is_url(_text(parts[index]))
        }
        if not wanted:
            return parts
        service: Service = self.app.state.service
        settings = service.settings
        most = 2 * settings.max_examples + 1
        if len(wanted) > most:
            raise InvalidRequest(f"got {len(wanted)} pictures by URL; allowed are {most}")
        state = self.scope.get("state", {})
        sent_bytes = sum(len(part.content) for part in parts)
        allowance = Allowance(settings.max_body_bytes - sent_bytes, state.get("hold"))
        slots = asyncio.Semaphore(_FETCHED_AT_ONCE)

        async def fetch(index: int, field: str) -> None:
            async with slots:
                content = await service.fetcher.fetch(_text(parts[index]), field, allowance)
            fetched[index] = Part(parts[index].name, "picture", content)

        fetched = list(parts)
        try:
            with anyio.fail_after(state["arrived"] + settings.deadline_s - time.monotonic()):
                async with anyio.create_task_group() as group:
                    for index, field in wanted.items():
                        group.start_soon(fetch, index, field)
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed while pictures were fetched") from error
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None  # the first that failed; it ended the others
        return fetched


class FormRoute(APIRoute):
    """A route that gets a `FormRequest`, and whose form is documented as JSON too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.openapi_extra = {**json_body(self, PICTURES), **(self.openapi_extra or {})}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given the other kind of request."""
        handle = super().get_route_handler()

        async def handle_form(request: Request) -> Response:
            return await handle(FormRequest(request.scope, request.receive))

        return handle_form


def _fields(parts: Sequence[Part]) -> list[str]:
    """What problems call each part: a field that may be repeated has an index."""
    seen: Counter[str] = Counter()
    fields = []
    for part in parts:
        fields.append(f"{part.name}[{seen[part.name]}]" if part.name in _REPEATED else part.name)
        seen[part.name] += 1
    return fields


def _text(part: Part) -> str:
    return part.content.decode("utf-8", "replace")


def _value(part: Part) -> MemoryFile | str:
    return _text(part) if part.filename is None else MemoryFile(part)
