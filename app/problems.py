"""Problems as HTTP answers: `application/problem+json`, whatever raised them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app import logs
from app.errors import (
    CONTENT_TYPE,
    PROBLEMS,
    InternalProblem,
    InvalidRequest,
    MalformedMultipart,
    MethodNotAllowed,
    NotFound,
    Problem,
)
from app.schemas import ProblemBody

CLIENT_LEFT: Final = 499
"""Nobody reads it; logs and metrics do."""
INSTANCE_PREFIX: Final = "urn:seggpt:request:"


def problem_response(problem: Problem) -> Response:
    """The answer to a request that met `problem`."""
    instance = INSTANCE_PREFIX + (logs.request_id.get() or "unknown")
    return JSONResponse(problem.to_body(instance), problem.status, headers=problem.headers, media_type=CONTENT_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Make every failure of `app` a problem answer."""
    app.add_exception_handler(Problem, _from_problem)
    app.add_exception_handler(RequestValidationError, _from_validation)
    app.add_exception_handler(HTTPException, _from_http)
    app.add_exception_handler(ClientDisconnect, _from_leaving)


def documented(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these problem types, each with an example."""
    responses: dict[int | str, dict[str, Any]] = {}
    for slug in slugs:
        problem = PROBLEMS[slug]
        example = {
            "type": f"urn:seggpt:problem:{slug}",
            "title": problem.title,
            "status": problem.status,
            "detail": " ".join((problem.__doc__ or problem.title).split()),
            "instance": f"{INSTANCE_PREFIX}4f1c9a",
        }
        content = responses.setdefault(
            problem.status,
            {"model": ProblemBody, "description": "", "content": {CONTENT_TYPE: {"examples": {}}}},
        )
        content["description"] = "; ".join(filter(None, (content["description"], problem.title)))
        content["content"][CONTENT_TYPE]["examples"][slug] = {"summary": problem.title, "value": example}
    return responses


def _from_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    request.state.problem = error.slug
    return problem_response(error)


def _from_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [_fault(one) for one in error.errors()]
    return _from_problem(request, InvalidRequest("; ".join(faults), errors=faults))


def _fault(error: Mapping[str, Any]) -> str:
    place: Sequence[Any] = error["loc"]
    field = ".".join(str(part) for part in place if part != "body") or "body"
    got = error.get("input")
    # A picture's bytes say nothing to a reader, and a missing field has no value.
    shown = f", got {got!r}" if isinstance(got, str | int | float) and len(repr(got)) <= 80 else ""
    return f"{field}: {error['msg']}{shown}"


def _from_leaving(request: Request, error: Exception) -> Response:
    del request, error
    return Response(status_code=CLIENT_LEFT)


def _from_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Problem):  # FastAPI wraps what reading the body raises
        return _from_problem(request, error.__cause__)
    if isinstance(error.__cause__, ClientDisconnect):
        return _from_leaving(request, error.__cause__)
    method, path = request.method, request.url.path
    problem: Problem
    if error.status_code == NotFound.status:
        problem = NotFound(f"got {method} {path}; /docs lists what is there")
    elif error.status_code == MethodNotAllowed.status:
        allowed = dict(error.headers or {})
        allow = allowed.get("Allow", "another")
        problem = MethodNotAllowed(f"got {method} {path}; allowed is {allow}", headers=allowed)
    elif error.status_code == MalformedMultipart.status:
        problem = MalformedMultipart(f"the body is not well-formed multipart/form-data: {error.detail}")
    else:
        problem = InternalProblem(f"unexpected: {error.status_code} {error.detail}")
    return _from_problem(request, problem)
