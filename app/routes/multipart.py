"""multipart/form-data in memory: a whole body's bytes -> its parts.

How many bytes a body may have is settled before (`app.middleware`), so nothing is spooled to disk and nothing parsed
piece by piece: finding a boundary in a whole body runs at memory speed. Source: RFC 7578, RFC 2046 section 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from python_multipart.multipart import parse_options_header

from app.errors import MalformedMultipart

MOST_PARTS: Final = 1000
MOST_HEADER_BYTES: Final = 8192
MOST_TEXT_BYTES: Final = 1024 * 1024

_LINE_END: Final = b"\r\n"
_BLANK: Final = b" \t"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form.

    Args:
        name: the form field.
        filename: None for a text field.
        content: its bytes.
        content_type: what the part says of itself, or "".
    """

    name: str
    filename: str | None
    content: bytes
    content_type: str = ""


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type header names.

    Raises:
        MalformedMultipart: it names none.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise _malformed("the Content-Type header names no boundary")
    return boundary


def parse(body: bytes, boundary: bytes) -> list[Part]:
    """The parts of `body`, in order.

    Raises:
        MalformedMultipart: no boundary, no end, a part without a name, or more or longer parts than are allowed.
    """
    delimiter = b"--" + boundary
    position = 0 if body.startswith(delimiter) else body.find(_LINE_END + delimiter) + len(_LINE_END)
    if position < len(_LINE_END) and not body.startswith(delimiter):
        raise _malformed("the boundary is nowhere in the body")
    parts: list[Part] = []
    position += len(delimiter)
    while body[position : position + 2] != b"--":
        start = body.find(_LINE_END, position)
        if start < 0 or body[position:start].strip(_BLANK):
            raise _malformed("a boundary is followed by something else than a line's end")
        if len(parts) == MOST_PARTS:
            raise _malformed(f"it has more than {MOST_PARTS} parts")
        end = _end_of_part(body, start, delimiter)
        parts.append(_part(body, start, end))
        position = end + len(_LINE_END) + len(delimiter)
    return parts


def _end_of_part(body: bytes, start: int, delimiter: bytes) -> int:
    """Where the line end before the next boundary stands; only a boundary that ends its line is one."""
    end = start
    while True:
        end = body.find(_LINE_END + delimiter, end)
        if end < 0:
            raise _malformed("its last part has no end")
        after = end + len(_LINE_END) + len(delimiter)
        if body[after : after + 1] in (b"-", b"\r", b" ", b"\t"):
            return end
        end = after


def _part(body: bytes, start: int, end: int) -> Part:
    """The part whose headers begin with the line end at `start` and whose content ends at `end`."""
    headers_end = body.find(_LINE_END * 2, start, end + len(_LINE_END))
    if headers_end < 0:
        raise _malformed("a part has no empty line behind its headers")
    if headers_end - start > MOST_HEADER_BYTES:
        raise _malformed(f"a part has more than {MOST_HEADER_BYTES} bytes of headers")
    disposition = content_type = b""
    for line in body[start + len(_LINE_END) : headers_end].split(_LINE_END):
        header, colon, value = line.partition(b":")
        if line and not colon:
            raise _malformed("a part has a header without a colon")
        kind = header.strip().lower()
        if kind == b"content-disposition":
            disposition = value.strip()
        elif kind == b"content-type":
            content_type = value.strip()
    _, options = parse_options_header(disposition)
    if b"name" not in options:
        raise _malformed('the Content-Disposition header field "name" must be provided')
    filename = options.get(b"filename")
    content = body[headers_end + 2 * len(_LINE_END) : end]
    if filename is None and len(content) > MOST_TEXT_BYTES:
        raise _malformed(f"a text field has more than {MOST_TEXT_BYTES} bytes")
    return Part(
        _text(options[b"name"]),
        None if filename is None else _text(filename),
        content,
        content_type.decode("latin-1"),
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _malformed(why: str) -> MalformedMultipart:
    return MalformedMultipart(f"the body is not well-formed multipart/form-data: {why}")
