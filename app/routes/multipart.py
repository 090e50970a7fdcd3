"""multipart/form-data in memory: a whole body's bytes -> its parts, by python-multipart's parser.

How many bytes a body may have is settled before (`app.middleware`), so nothing is spooled to disk, and the parser gets
the body in one piece, in which it finds boundaries at memory speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import MalformedMultipart

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_PARTS: Final = 1000
MOST_TEXT_BYTES: Final = 1024 * 1024


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
        MalformedMultipart: it is no form, has no end, a part without a name, or more or longer parts than are allowed.
    """
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise _malformed(str(error)) from error
    if not reader.is_complete:
        raise _malformed("its last boundary is missing")
    return reader.parts


class _Reader:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._content: list[bytes] = []

    def callbacks(self) -> MultipartCallbacks:
        """What the parser calls, by its names."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def _begin(self) -> None:
        if len(self.parts) == MOST_PARTS:
            raise _malformed(f"it has more than {MOST_PARTS} parts")
        self._headers, self._content = {}, []

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise _malformed('the Content-Disposition header field "name" must be provided')
        filename = options.get(b"filename")
        content = b"".join(self._content)
        if filename is None and len(content) > MOST_TEXT_BYTES:
            raise _malformed(f"a text field has more than {MOST_TEXT_BYTES} bytes")
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        name, file = _text(options[b"name"]), None if filename is None else _text(filename)
        self.parts.append(Part(name, file, content, content_type))

    def _complete(self) -> None:
        self.is_complete = True


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _malformed(why: str) -> MalformedMultipart:
    return MalformedMultipart(f"the body is not well-formed multipart/form-data: {why}")
