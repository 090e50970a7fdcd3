"""Which of a route's formats a client wants, from its `Accept` header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import Request

from app.errors import NotAcceptable

PNG: Final = "image/png"
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
ZIP: Final = "application/zip"


def chosen(request: Request, offered: Sequence[str]) -> str:
    """The offered media type that the client likes best; among equals the first.

    Raises:
        NotAcceptable: it accepts none of them.
    """
    header = ",".join(request.headers.getlist("accept")).strip()
    ranges = [_parsed(entry) for entry in header.split(",") if entry.strip()] or [("*/*", 1.0)]
    best = max(offered, key=lambda kind: _quality(kind, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"got Accept: {header[:120]}; this route answers in {', '.join(offered)}")
    return best


def _quality(kind: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality of the most specific range that covers `kind`; 0 if none does."""
    for wanted in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        found = [quality for name, quality in ranges if name == wanted]
        if found:
            return max(found)
    return 0.0


def _parsed(entry: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in entry.split(";"))
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return name, quality
