"""multipart/form-data in memory: bytes -> parts, by python-multipart's parser.

The bytes come as a whole body or in pieces; how many a body may have is settled before (`app.middleware`,
`app.routes.streaming`), so nothing is spooled to disk. In one piece the parser finds boundaries at memory speed.
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
        is_dropped: it had more bytes than one file may have, so `content` is empty.
    """

    name: str
    filename: str | None
    content: bytes
    content_type: str = ""
    is_dropped: bool = False


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
    parser = FormParser(boundary)
    parser.write(body)
    parser.close()
    return parser.take()


class FormParser:
    """Reads a form piece by piece.

    Args:
        boundary: what separates the parts.
        most_parts: more are refused.
        most_file_bytes: a longer file is dropped while it is read, and the others go on; None allows all.

    Raises:
        MalformedMultipart: `boundary` is too long.
    """

    def __init__(self, boundary: bytes, *, most_parts: int = MOST_PARTS, most_file_bytes: int | None = None) -> None:
        self._most_parts = most_parts
        self._most_file_bytes = most_file_bytes
        self._finished: list[Part] = []
        self._begun = 0
        self._is_complete = False
        self._headers: dict[bytes, bytes] = {}
        self._header = self._value = b""
        self._name = self._content_type = ""
        self._filename: str | None = None
        self._content: bytes | bytearray = b""
        self._is_dropped = False
        self.pending_bytes = 0
        """Bytes held of the part that has begun and not ended."""
        try:
            self._parser = MultipartParser(boundary, self._callbacks())
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def write(self, data: bytes) -> None:
        """Read on. When it raises, the parts before the fault can still be taken.

        Raises:
            MalformedMultipart: it is no form, has a part without a name, or more or longer parts than are allowed.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def take(self) -> list[Part]:
        """The parts that ended since the last time, in order."""
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """Nothing more comes.

        Raises:
            MalformedMultipart: the form has no end.
        """
        if not self._is_complete:
            raise _malformed("its last boundary is missing")

    def drop(self) -> None:
        """Give up the content of the part that has begun."""
        self._is_dropped = True
        self._content, self.pending_bytes = b"", 0

    def _callbacks(self) -> MultipartCallbacks:
        """What the parser calls, by its names."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def _begin(self) -> None:
        if self._begun == self._most_parts:
            raise _malformed(f"it has more than {self._most_parts} parts")
        self._begun += 1
        self._headers, self._content = {}, b""
        self._is_dropped, self.pending_bytes = False, 0

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise _malformed('the Content-Disposition header field "name" must be provided')
        filename = options.get(b"filename")
        self._name, self._filename = _text(options[b"name"]), None if filename is None else _text(filename)
        self._content_type = self._headers.get(b"content-type", b"").decode("latin-1")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_dropped:
            return
        self.pending_bytes += end - start
        if self._filename is None and self.pending_bytes > MOST_TEXT_BYTES:
            raise _malformed(f"a text field has more than {MOST_TEXT_BYTES} bytes")
        if self._most_file_bytes is not None and self.pending_bytes > self._most_file_bytes:
            self.drop()
        elif not self._content:
            self._content = data[start:end]  # all of it when the body comes in one piece, and never copied again
        else:
            self._content = self._content if isinstance(self._content, bytearray) else bytearray(self._content)
            self._content += data[start:end]

    def _end(self) -> None:
        content = bytes(self._content)
        self._content, self.pending_bytes = b"", 0
        self._finished.append(Part(self._name, self._filename, content, self._content_type, self._is_dropped))

    def _complete(self) -> None:
        self._is_complete = True


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _malformed(why: str) -> MalformedMultipart:
    return MalformedMultipart(f"the body is not well-formed multipart/form-data: {why}")
