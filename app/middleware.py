"""What every request passes on its way in and out. Pure ASGI, so that a client's leaving reaches the route.

`Observed` is the outermost: request id, Server-Timing, log line, metrics, and a problem for whatever nobody caught.
`Guarded` stands before the route that reads bodies: it refuses early and counts bytes while they stream in.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Set
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.bodies import BodyBytes, BodyShare
from app.errors import BodyTooLarge, InternalProblem, Problem
from app.metrics import STAGES
from app.problems import problem_response
from app.requests import StageTimes
from app.service import Service
from app.uploads import Upload

_REQUEST_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)

logger = logging.getLogger("app.access")


class Observed:
    """Give every request an id and stage times; log, count, and let nothing escape unanswered."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        given_headers = Headers(scope=scope)
        given = given_headers.get("x-request-id", "")
        identity = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        logs.request_id.set(identity)
        times = StageTimes()
        state = scope.setdefault("state", {})
        state["times"] = times
        arrived = state["arrived"] = time.monotonic()
        upload = state["upload"] = Upload(given_headers, arrived, receive, self._service)
        status = 0

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if status >= HTTPStatus.BAD_REQUEST and headers.get("connection") != "close":
                    await upload.discard()
                headers["X-Request-ID"] = identity
                headers["Server-Timing"] = _server_timing(times, start)
            await send(message)

        try:
            await self._app(scope, upload.receive, send_observed)
        except Exception:  # the last boundary: whatever it was, the client gets an answer and the log the traceback
            logger.exception("a request failed in a way that nobody foresaw")
            if not status:
                problem = InternalProblem("the service failed; its log has the reason under this request id")
                state["problem"] = problem.slug
                await problem_response(problem)(scope, receive, send_observed)
        finally:
            self._record(scope, status, start)

    def _record(self, scope: Scope, status: int, start: float) -> None:
        metrics = self._service.metrics
        state = scope["state"]
        route = getattr(scope.get("route"), "path", None) or state.get("refused") or "unmatched"
        seconds = time.perf_counter() - start
        metrics.requests.labels(route, str(status or "left")).inc()
        if slug := state.get("problem"):
            metrics.rejected.labels(slug).inc()
        times: StageTimes = state["times"]
        if times.ms:
            metrics.request_seconds.observe(seconds)
        level = logging.DEBUG if route.startswith(("/health", "/metrics")) else logging.INFO
        extra: dict[str, object] = {f"{stage}_ms": round(ms, 2) for stage, ms in times.ms.items()}
        if slug:
            extra["problem"] = slug
        extra |= state.get("logged", {})
        logger.log(
            level,
            "%s %s %s in %.1f ms",
            scope["method"],
            scope["path"],
            status or "client left",
            seconds * 1000,
            extra={"method": scope["method"], "path": scope["path"], "status": status, **extra},
        )


def _server_timing(times: StageTimes, start: float) -> str:
    entries = [f"{stage};dur={times.ms.get(stage, 0.0):.2f}" for stage in STAGES]
    if times.tiles:
        entries.append(f'tiles;desc="{times.tiles_done} of {times.tiles}"')
    return ", ".join([*entries, f"total;dur={(time.perf_counter() - start) * 1000:.2f}"])


class Guarded:
    """Before the routes that read pictures: refuse what cannot be served, and bound the bytes that bodies hold.

    Args:
        app: what comes next.
        service: refuses, and has the limits.
        paths: of routes that hold their body as a whole; its bytes are counted while they come in.
        streamed: of routes that read their body as they work on it, and count what they hold of it themselves.
    """

    def __init__(self, app: ASGIApp, service: Service, paths: Set[str], streamed: Set[str] = frozenset()) -> None:
        self._app = app
        self._service = service
        self._paths = paths
        self._streamed = streamed
        self._bodies = BodyBytes(service.settings.max_bytes_in_flight, service.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or (scope["path"] not in self._paths and scope["path"] not in self._streamed)
        ):
            await self._app(scope, receive, send)
            return
        settings = self._service.settings
        is_streamed = scope["path"] in self._streamed
        most = settings.max_batch_bytes if is_streamed else settings.max_body_bytes
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > most:
            await self._refuse(_too_large(int(declared), most), scope, receive, send)
            return
        if (problem := self._service.refusal(patient=is_streamed)) is not None:
            await self._refuse(problem, scope, receive, send)
            return
        upload: Upload = scope["state"]["upload"]
        upload.is_streamed = is_streamed
        share = BodyShare(self._bodies)

        def hold(size: int) -> None:
            share.hold(size)
            if share.held_bytes > settings.max_body_bytes:
                raise _too_large(share.held_bytes, settings.max_body_bytes)
            share.check()

        async def receive_counted() -> Message:
            message = await receive()
            hold(len(message.get("body", b"")))
            return message

        scope["state"]["share"] = share
        scope["state"]["hold"] = hold  # pictures that are fetched by URL count like those that are sent
        try:
            await self._app(scope, receive if is_streamed else receive_counted, send)
        finally:
            share.close()

    async def _refuse(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["problem"] = problem.slug
        scope["state"]["refused"] = scope["path"]  # the router never sees it
        await problem_response(problem)(scope, receive, send)


def _too_large(got: int, allowed: int) -> BodyTooLarge:
    return BodyTooLarge(f"got {got} bytes or more; allowed are {allowed}", limit=allowed)
