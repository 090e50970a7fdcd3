"""application/json in memory: a whole body's bytes -> the parts that the same form has as multipart.

A picture is base64 text of many megabytes, and Python's JSON and base64 functions hold the interpreter for as long as
one call of theirs takes: in whatever thread, the event loop would stand still meanwhile. So long strings are cut out of
the body before it is read as JSON, and decoded in pieces.

Base64 may be of either alphabet, with or without its padding, wrapped into lines, and in a `data:` URL; any other
character is refused.
"""

from __future__ import annotations

import json
import secrets
from binascii import a2b_base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from app.errors import MalformedJson
from app.remote import is_url
from app.routes.multipart import MOST_PARTS, MOST_TEXT_BYTES, Part

JSON_FIELDS: Final = frozenset({"labels"})
"""Form fields whose text is JSON itself; in a JSON body they may be given as such."""

_LONG_BYTES: Final = 1024
_MOST_QUOTES: Final = 100_000
_MOST_BACKSLASHES: Final = 100
_MOST_NUMBER_CHARACTERS: Final = 100
_PIECE_BYTES: Final = 256 * 1024
_LONGEST_ESCAPE: Final = len(rb"\u002B")
_MOST_DATA_PREFIX_BYTES: Final = 256
_STANDARD_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")
_SPACES: Final = b" \t\r\n"


class _Number(str):
    """A number as it was written, which is what a form would have."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Body:
    """A body whose long strings are somewhere else.

    Args:
        short: JSON text with a token in the place of each long string.
        long: what stands between the quotes, escapes and all, by token.
    """

    short: bytes
    long: dict[str, memoryview] = field(default_factory=dict)

    def text(self, value: str) -> str:
        """A string of the body, whole."""
        raw = self.long.get(value)
        if raw is None:
            return value
        if len(raw) > MOST_TEXT_BYTES:
            raise ValueError(f"a text has more than {MOST_TEXT_BYTES} bytes")
        return _unescaped(bytes(raw))


def parse(body: bytes, pictures: frozenset[str]) -> list[Part]:
    """The parts of `body`, in order: texts, and files for pictures in base64.

    Args:
        body: a JSON object. A list is a repeated field, null is an absent one, numbers and booleans are their texts.
        pictures: the names of the fields that are pictures; their URLs stay texts.

    Raises:
        MalformedJson: it is no JSON object, or a value is of the wrong kind; the member `field` says whose.
    """
    try:
        cut = _cut(body)
        members = _loaded(cut)
    except json.JSONDecodeError as error:
        # Places in the shortened text would only mislead.
        raise _malformed(str(error) if len(cut.short) == len(body) else error.msg) from error
    except RecursionError as error:
        raise _malformed("it is nested too deeply") from error
    except ValueError as error:
        raise _malformed(str(error)) from error
    parts: list[Part] = []
    for name, value in members.items():
        for place, one in _values(name, value):
            if len(parts) == MOST_PARTS:
                raise _malformed(f"it has more than {MOST_PARTS} values")
            try:
                parts.append(_picture(name, one, cut) if name in pictures else _text(name, one, cut))
            except (ValueError, RecursionError) as error:
                raise MalformedJson(f"{place}: {error}", field=place) from error
    return parts


def _cut(body: bytes) -> _Body:
    """Take the long strings out of a body."""
    view = memoryview(body)
    nonce = secrets.token_hex(16)  # nobody can write a token without knowing it
    long: dict[str, memoryview] = {}
    kept: list[bytes | memoryview] = []
    done = 0
    for start, end in _strings(body):
        if end - start > _LONG_BYTES:
            token = f"{nonce}{len(long)}"
            long[token] = view[start:end]
            kept += [view[done:start], token.encode()]
            done = end
    if sum(map(len, kept)) + len(body) - done > MOST_TEXT_BYTES:
        raise ValueError(f"without its long strings it has more than {MOST_TEXT_BYTES} bytes")
    return _Body(b"".join([*kept, view[done:]]), long)


def _strings(body: bytes) -> Iterator[tuple[int, int]]:
    """From where to where each string of a JSON text goes, between its quotes; one without an end is left out."""
    quotes = 0
    start = None
    at = body.find(b'"')
    while at >= 0:
        quotes += 1
        if quotes > _MOST_QUOTES:
            raise ValueError(f"it has more than {_MOST_QUOTES} quotes")
        if start is None:
            start = at + 1
        elif not _is_escaped(body, start, at):
            yield start, at
            start = None
        at = body.find(b'"', at + 1)


def _is_escaped(body: bytes, start: int, at: int) -> bool:
    """Whether an odd number of backslashes stands before a quote: the others escape each other."""
    before = body[max(start, at - _MOST_BACKSLASHES) : at]
    backslashes = len(before) - len(before.rstrip(b"\\"))
    if backslashes == _MOST_BACKSLASHES:
        raise ValueError(f"it has {_MOST_BACKSLASHES} or more backslashes in a row")
    return backslashes % 2 == 1


def _loaded(body: _Body) -> dict[str, Any]:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = {}
        for name, value in pairs:
            if name in body.long:
                raise ValueError(f"a name has more than {_LONG_BYTES} bytes")
            name.encode()  # half a surrogate pair is no text
            if name in found:
                raise ValueError(f"the name {name[:80]!r} is there twice")
            found[name] = value
        return found

    loaded = json.loads(
        body.short.decode(),
        object_pairs_hook=members,
        parse_int=_number,
        parse_float=_number,
        parse_constant=_no_number,
    )
    if not isinstance(loaded, dict):
        raise ValueError("allowed is an object whose names are the form's fields")
    return loaded


def _number(text: str) -> _Number:
    if len(text) > _MOST_NUMBER_CHARACTERS:
        raise ValueError(f"a number has {len(text)} characters; allowed are {_MOST_NUMBER_CHARACTERS}")
    return _Number(text)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _values(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Each value of a field, with the field's name for a problem: one of several has its index."""
    if value is None:
        return
    if isinstance(value, list) and name not in JSON_FIELDS:
        yield from ((f"{name[:80]}[{index}]", one) for index, one in enumerate(value))
    else:
        yield name[:80], value


def _text(name: str, value: Any, body: _Body) -> Part:
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        text = body.text(value)
    elif name in JSON_FIELDS:
        text = json.dumps(_plain(value, body), ensure_ascii=False, allow_nan=False)
    else:
        raise ValueError(f"got {_kind(value)}; allowed are a string, a number, true and false, and a list of them")
    content = text.encode()
    if len(content) > MOST_TEXT_BYTES:
        raise ValueError(f"a text has more than {MOST_TEXT_BYTES} bytes")
    return Part(name, None, content)


def _plain(value: Any, body: _Body) -> Any:
    """JSON within JSON as `json` would have read it."""
    if isinstance(value, list):
        return [_plain(one, body) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one, body) for name, one in value.items()}
    if isinstance(value, _Number):
        return json.loads(value)
    return body.text(value) if isinstance(value, str) else value


def _picture(name: str, value: Any, body: _Body) -> Part:
    if not isinstance(value, str) or isinstance(value, _Number):
        raise ValueError(f"got {_kind(value)}; allowed is a picture as base64 text or by URL")
    raw = body.long.get(value)
    text, is_raw = (memoryview(value.encode()), False) if raw is None else (raw, True)
    if is_url(bytes(text[:32]).replace(b"\\/", b"/").decode("latin-1")):
        return Part(name, None, body.text(value).encode())
    if bytes(text[:5]).lower() == b"data:":
        prefix, comma, _ = bytes(text[:_MOST_DATA_PREFIX_BYTES]).partition(b",")
        words = (_unescaped(prefix) if is_raw else prefix.decode()).lower()
        if not comma or not words.endswith(";base64"):
            raise ValueError("got a data: URL that is not base64; allowed is data:image/png;base64,...")
        text = text[len(prefix) + 1 :]
    try:
        content = b"".join(_decoded(text, is_raw))
    except ValueError as error:
        raise ValueError(f"is neither base64 nor a URL ({error})") from error
    return Part(name, "picture", content)


def _decoded(text: memoryview, is_raw: bool) -> Iterator[bytes]:
    """Base64 -> bytes, piece by piece.

    Args:
        text: ASCII.
        is_raw: it is as between the quotes: with JSON's escapes, which some write for "/", "+" and "=".
    """
    rest = b""
    is_padded = False
    for piece in _pieces(text, is_raw):
        letters = rest + piece.translate(_STANDARD_ALPHABET)
        if is_padded and letters:
            raise ValueError("there is more behind its padding")
        whole = letters[: len(letters) & ~3]
        rest = letters[len(whole) :]
        is_padded = is_padded or whole.endswith(b"=")
        yield _bytes(whole)
    if rest:
        if is_padded or len(rest) == 1:
            raise ValueError("its length is not that of base64")
        yield _bytes(rest + b"=" * (4 - len(rest)))


def _bytes(letters: bytes) -> bytes:
    if letters.endswith(b"==="):  # Python takes four of them behind whole groups of letters
        raise ValueError("it has too much padding")
    return a2b_base64(letters, strict_mode=True)


def _pieces(text: memoryview, is_raw: bool) -> Iterator[bytes]:
    """The text without JSON's escapes and without spaces and line ends."""
    start = 0
    while start < len(text):
        piece = bytes(text[start : start + _PIECE_BYTES])
        if not is_raw:
            yield piece.translate(None, _SPACES)
        elif b"\\" in piece:
            # An escape stays whole. One in the last piece of all is whole already, or wrong.
            is_last = start + len(piece) == len(text)
            cut = -1 if is_last else piece.find(b"\\", len(piece) - _LONGEST_ESCAPE + 1)
            piece = piece if cut < 0 else piece[:cut]
            yield _unescaped(piece).encode("ascii").translate(None, _SPACES)
        else:
            yield piece.replace(b" ", b"")  # JSON has line ends only as escapes
        start += len(piece)


def _unescaped(raw: bytes) -> str:
    """What a string's text between its quotes means."""
    text: str = json.loads(b'"%b"' % raw)
    return text


def _kind(value: Any) -> str:
    if isinstance(value, _Number):
        return "a number"
    return {bool: "true or false", dict: "an object", list: "a list"}.get(type(value), "null")


def _malformed(why: str) -> MalformedJson:
    return MalformedJson(f"the body cannot be read as a form in JSON: {why}")
