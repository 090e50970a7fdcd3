"""What can go wrong, as users of the client see it.

SegGptError
├── ProblemError                the service refused or failed: slug, status, title, detail, field
│   ├── RefusedError            4xx: the caller can mend it; sending the same again cannot help
│   │   ├── NotFoundError       404
│   │   └── NameTakenError      409
│   ├── BusyError               429, 503: tried again already, until the time limit
│   └── FailedError             other 5xx
├── UnreachableError            no connection, or it was lost: tried again already, until the time limit
├── TimeLimitError              no answer in time
├── UnexpectedAnswerError       whatever answered is not this service, or not this version of it
└── PictureError                a picture cannot be read or sent; nothing was asked
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import httpx

_TYPE_PREFIX: Final = "urn:seggpt:problem:"
_STANDARD_MEMBERS: Final = frozenset({"type", "title", "status", "detail", "instance", "field"})
_SHOWN_CHARACTERS: Final = 200


class SegGptError(Exception):
    """The base of all that this client raises on purpose."""


class ProblemError(SegGptError):
    """The service answered with a problem (RFC 9457).

    Attributes:
        slug: its stable kind, such as "mask-aspect" (docs/errors.md); "about:blank" if a proxy answered instead.
        status: the HTTP status code.
        title: the kind in words.
        detail: what was got and what is allowed, this time.
        field: the form field that it is about, such as "prompt_mask[0]"; None if it is about none.
        members: further members of the answer.
        instance: URI of this occurrence; it has the request id, under which the service's log tells more.
        retry_after_s: seconds after which trying again may help; None if the service did not say.
    """

    def __init__(
        self,
        slug: str,
        status: int,
        title: str,
        detail: str,
        *,
        field: str | None = None,
        members: Mapping[str, Any] | None = None,
        instance: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{detail} ({status} {slug})")
        self.slug = slug
        self.status = status
        self.title = title
        self.detail = detail
        self.field = field
        self.members = dict(members or {})
        self.instance = instance
        self.retry_after_s = retry_after_s


class RefusedError(ProblemError):
    """The caller can mend it; sending the same again cannot help."""


class NotFoundError(RefusedError):
    """There is no such prompt, or no such path."""


class NameTakenError(RefusedError):
    """Another prompt has this name."""


class BusyError(ProblemError):
    """The service has no room or no worker now."""


class FailedError(ProblemError):
    """The service failed, or did not answer before its own deadline."""


class UnreachableError(SegGptError):
    """There is no connection, or it was lost."""


class TimeLimitError(SegGptError):
    """No answer came in time."""


class UnexpectedAnswerError(SegGptError):
    """What came is not what the service answers."""


class PictureError(SegGptError):
    """A picture cannot be read or sent."""


def problem_error(status: int, body: bytes | Mapping[str, Any], retry_after: str | None = None) -> ProblemError:
    """The error for an answer of status 400 or more.

    Args:
        status: HTTP's.
        body: the answer's bytes or its parsed JSON; anything is taken.
        retry_after: the header's value.
    """
    members = body if isinstance(body, Mapping) else _object(body)
    kind = str(members.get("type", "about:blank")).removeprefix(_TYPE_PREFIX)
    field = members.get("field")
    return _class_of(status)(
        kind,
        status,
        str(members.get("title", _phrase(status))),
        str(members.get("detail", _shown(body))),
        field=None if field is None else str(field),
        members={name: value for name, value in members.items() if name not in _STANDARD_MEMBERS},
        instance=members.get("instance"),
        retry_after_s=_seconds(retry_after),
    )


@contextmanager
def transport_errors() -> Iterator[None]:
    """Raise httpx's errors as ours.

    Raises:
        UnreachableError: no connection, or it was lost; trying again may help.
        TimeLimitError: connected, and nothing came in time.
        UnexpectedAnswerError: what came is no HTTP that can be read.
    """
    try:
        yield
    except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
        raise TimeLimitError(f"no answer in time from {_address(error)}") from error
    except httpx.TransportError as error:
        raise UnreachableError(f"{_address(error)}: {error or type(error).__name__}") from error
    except httpx.DecodingError as error:
        raise UnexpectedAnswerError(f"{_address(error)}: {error}") from error


def _address(error: httpx.RequestError) -> str:
    url = error.request.url
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace').rpartition('@')[2]}"  # never a password


def _class_of(status: int) -> type[ProblemError]:
    known: dict[int, type[ProblemError]] = {404: NotFoundError, 409: NameTakenError, 429: BusyError, 503: BusyError}
    return known.get(status, RefusedError if status < 500 else FailedError)


def _object(body: bytes) -> dict[str, Any]:
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}


def _shown(body: bytes | Mapping[str, Any]) -> str:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    return " ".join(text.split())[:_SHOWN_CHARACTERS] or "the answer was empty"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP status {status}"


def _seconds(retry_after: str | None) -> float | None:
    """Of either form that HTTP allows: seconds, or a date."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
