"""How a batch's images are answered: as lines of JSON, or as one zip file. Bytes in the order of sending."""

from __future__ import annotations

import json
import re
import zipfile
from base64 import b64encode
from dataclasses import dataclass, field
from io import RawIOBase
from typing import Any, Final, Protocol

from app import logs
from app.errors import Problem
from app.problems import INSTANCE_PREFIX
from app.routes.formats import NDJSON, ZIP

_UNSAFE: Final = re.compile(r"[^\w.-]+")
_MOST_STEM_CHARACTERS: Final = 80
_READABLE: Final = 0o644 << 16
_ERRORS: Final = "errors.ndjson"


@dataclass
class Counts:
    """What became of a batch's images.

    Args:
        images: that came.
        failed: of those that were answered.
    """

    images: int = 0
    failed: int = 0


class Answers(Protocol):
    """One format. What its methods return is to be sent in that very order."""

    media_type: str

    def succeed(self, index: int, name: str | None, answer: bytes) -> bytes:
        """One image's answer."""

    def fail(self, index: int, name: str | None, problem: Problem) -> bytes:
        """Why one image has none."""

    def end(self, counts: Counts, problem: Problem | None) -> bytes:
        """The last bytes; `problem` is why there are no more images than were answered."""


@dataclass
class Lines:
    """application/x-ndjson.

    Args:
        is_json: the answers are JSON themselves; else PNGs.
    """

    is_json: bool
    media_type: str = NDJSON

    def succeed(self, index: int, name: str | None, answer: bytes) -> bytes:
        """{"index", "name", "status", "segmentation" or "png"}."""
        head = json.dumps({"index": index, "name": name, "status": 200}).encode()
        value = b'"segmentation": ' + answer if self.is_json else b'"png": "' + b64encode(answer) + b'"'
        return head[:-1] + b", " + value + b"}\n"

    def fail(self, index: int, name: str | None, problem: Problem) -> bytes:
        """{"index", "name", "status", "problem"}."""
        return failure_line(index, name, problem)

    def end(self, counts: Counts, problem: Problem | None) -> bytes:
        """{"done", "images", "failed"}: without it the connection was cut."""
        return last_line(counts, problem)


@dataclass
class Archive:
    """application/zip: the PNGs as they are, and why there are no others in a file of lines."""

    media_type: str = ZIP
    _errors: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._written = _Written()
        self._zip = zipfile.ZipFile(self._written, "w", zipfile.ZIP_STORED)

    def succeed(self, index: int, name: str | None, answer: bytes) -> bytes:
        """The bytes of one entry."""
        self._add(entry_name(index, name), answer)
        return self._written.take()

    def fail(self, index: int, name: str | None, problem: Problem) -> bytes:
        """Nothing now; the reasons are the last entry."""
        self._errors.append(failure_line(index, name, problem))
        return b""

    def end(self, counts: Counts, problem: Problem | None) -> bytes:
        """The table of contents, without which no program opens a zip file that was cut."""
        if self._errors or problem is not None:
            self._add(_ERRORS, b"".join([*self._errors, last_line(counts, problem)]))
        self._zip.close()
        return self._written.take()

    def _add(self, name: str, content: bytes) -> None:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = _READABLE
        self._zip.writestr(entry, content)


class _Written(RawIOBase):
    """What `zipfile` writes to: it cannot be sought in, so sizes and checksums follow each entry's content."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Keep a copy."""
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def entry_name(index: int, name: str | None) -> str:
    """A name that is safe to unpack anywhere and of which there is only one: "0001-cat.png" of "pets/cat.jpg"."""
    file = (name or "").replace("\\", "/").rpartition("/")[2]
    stem = file.rpartition(".")[0] or file
    safe = _UNSAFE.sub("_", stem).strip("._-")[:_MOST_STEM_CHARACTERS]
    return f"{index + 1:04d}-{safe or 'image'}.png"


def failure_line(index: int, name: str | None, problem: Problem) -> bytes:
    """One image's problem, with the members that it has as an answer of its own."""
    members = {"index": index, "name": name, "status": problem.status, "problem": _body(problem, f"#{index}")}
    return json.dumps(members).encode() + b"\n"


def last_line(counts: Counts, problem: Problem | None) -> bytes:
    """How it ended; with a problem when not every image of the request was looked at."""
    members: dict[str, Any] = {"done": problem is None, "images": counts.images, "failed": counts.failed}
    if problem is not None:
        members |= {"status": problem.status, "problem": _body(problem, "")}
    return json.dumps(members).encode() + b"\n"


def _body(problem: Problem, fragment: str) -> dict[str, Any]:
    return problem.to_body(f"{INSTANCE_PREFIX}{logs.request_id.get() or 'unknown'}{fragment}")
