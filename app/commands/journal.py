"""What a run has finished, on disk: an append-only file of JSON lines, each there for good before the next begins.

The first line says what was asked for: only the same question may go on where another run stopped. A line that a
killed process left half written is cut off; what it was about is done again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from app.commands.inputs import Input

_FORMAT: Final = "seggpt-journal"


class JournalError(Exception):
    """Another run is at work there, or another question was asked."""


class Journal:
    """An open journal, held against other processes. Use it in a `with`.

    Args:
        path: made if it is not there.
        question: all that the answers depend on, as JSON has it.
        anew: whether to forget what is there.

    Raises:
        JournalError: another process holds it; or it is of another question, and not `anew`.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, question: Mapping[str, Any], *, anew: bool) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if anew:
                self._file.truncate(0)
            self._records = {one["input"]: one for one in self._begin(question)}
        except BlockingIOError as error:
            self._file.close()
            raise JournalError(f"{path}: another run is writing there") from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def finished(self, one: Input) -> Mapping[str, Any] | None:
        """The record of a picture, if it is done and has not changed since."""
        record, now = self._records.get(_key(one)), state(one)
        if record is None or not now or any(record[name] != value for name, value in now.items()):
            return None
        return record

    def add(self, one: Input, state: Mapping[str, Any], **members: Any) -> None:
        """Note that a picture is done; on disk when this returns.

        Args:
            one: the picture.
            state: what `state` said before it was sent, so that one that changes meanwhile is done again.
            members: of the record.
        """
        record = {"input": _key(one), **state, **members}
        self._write(record)
        self._records[record["input"]] = record

    def _begin(self, question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        lines = content[:whole].splitlines()
        if not lines:
            self._write({_FORMAT: 1, "question": dict(question)})
            return
        try:
            head, *records = (json.loads(line) for line in lines)
            asked = head[_FORMAT] == 1 and head["question"]
        except (ValueError, LookupError, TypeError) as error:
            raise JournalError(f"{self._path} is no journal of this command") from error
        # Through JSON, so that a tuple equals the list that was written.
        if asked != json.loads(json.dumps(question)):
            named = sorted(name for name in {*asked, *question} if asked.get(name) != question.get(name))
            raise JournalError(
                f"{self._path}: what is there was asked for with other {', '.join(named)}; "
                "write somewhere else, or forget it with --again"
            )
        yield from records

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=True).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _key(one: Input) -> str:
    return os.fsdecode(one.path.resolve())


def state(one: Input) -> Mapping[str, Any]:
    """What tells that a picture is still the same; empty if it is not there."""
    try:
        now = one.path.stat()
    except OSError:
        return {}
    return {"bytes": now.st_size, "mtime_ns": now.st_mtime_ns}
