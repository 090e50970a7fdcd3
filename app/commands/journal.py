"""What a run has finished, on disk: a file of JSON lines, each there for good before the next begins.

A head says what was asked for: only the same question may go on where another run stopped; another one begins with a
head of its own, which ends what was finished before. Other lines say which files will be written, and about which
pictures, before any is: what lies there otherwise is not replaced. A line that a killed process left half written is
cut off; what it was about is done again. Lines are only added, until a run ends: then they are written anew without
those that later ones made void, so that doing all again does not make the file grow.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from app.commands.inputs import Input

_FORMAT: Final = "seggpt-journal"
_CLAIMS: Final = "outputs"
_AGAIN: Final = "again"
_BEGINNING: Final = f'{{"{_FORMAT}": '.encode()

Claims = Mapping[str, Sequence[str]]
"""Names of files beside the journal, each with the keys of the pictures that it is about."""


class JournalError(Exception):
    """Another run is at work there, or another question was asked."""


class Journal:
    """An open journal, held against other processes. Use it in a `with`: look into it, then `begin`, then `add`.

    Args:
        path: made if it is not there.

    Raises:
        JournalError: another process holds it, or it is something else.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._question: dict[str, Any] | None = None
        self._records: dict[str, dict[str, Any]] = {}
        self._claims: dict[str, list[str]] = {}
        self._has_void_lines = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _held(path)
        try:
            self._whole_bytes = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._file.tell():  # opening made it, and no question was asked
            self._path.unlink()
        self._file.close()

    def finished(self, one: Input) -> Mapping[str, Any] | None:
        """The record of a picture, if it is done and has not changed since."""
        record = self._records.get(one.key)
        if record is None:
            return None
        now = state(one)
        if not now or any(record[name] != value for name, value in now.items()):
            return None
        return record

    def check(self, claims: Claims) -> None:
        """Refuse to replace what is not this command's, or is also about other pictures.

        Raises:
            JournalError: there is such a file.
        """
        folder = str(self._path.parent)
        for name, about in claims.items():
            path = f"{folder}/{name}"
            if not os.path.exists(path):  # noqa: PTH110 - pathlib would take seconds for 100,000
                continue
            if name not in self._claims:
                raise JournalError(
                    f"{path} is there, and is no output of this command; "
                    "write somewhere else, or replace it with --force"
                )
            if others := sorted(set(self._claims[name]).difference(about)):
                more = f" and {len(others) - 1} more pictures" if others[1:] else ""
                raise JournalError(
                    f"{path} is about {others[0]}{more}, which this command does not name; "
                    "write somewhere else, or let go of that with --force"
                )

    def begin(self, question: Mapping[str, Any], claims: Claims, *, again: Collection[str]) -> None:
        """Note what is asked, and which files will be written; on disk when this returns.

        Args:
            question: all that the answers depend on, as JSON has it.
            claims: records of other pictures that had one of these files are forgotten.
            again: keys of finished pictures that are to be forgotten; with some, the question may be another one.

        Raises:
            JournalError: there are answers to another question, and none are to be forgotten.
        """
        question = json.loads(json.dumps(question))  # so that a tuple equals the list that was written
        asked = self._question or {}
        if question != asked and self._records and not again:
            named = sorted(name for name in {*asked, *question} if asked.get(name) != question.get(name))
            raise JournalError(
                f"{self._path}: what is there was asked for with other {', '.join(named)}; "
                "write somewhere else, or do all of it again with --again"
            )
        self._file.truncate(self._whole_bytes)
        if question != asked:
            self._write({_FORMAT: 1, "question": question})
        elif again:
            self._write({_AGAIN: list(again)})
        if new := {name: list(about) for name, about in claims.items() if self._claims.get(name) != list(about)}:
            self._write({_CLAIMS: new})

    def add(self, one: Input, state: Mapping[str, Any], **members: Any) -> None:
        """Note that a picture is done; on disk when this returns.

        Args:
            one: the picture.
            state: what `state` said before it was sent, so that one that changes meanwhile is done again.
            members: of the record.
        """
        self._write({"input": one.key, **state, **members})

    def compact(self) -> None:
        """Drop lines that later ones made void, if there are any.

        A whole file replaces the old one, and is held before it does: neither a kill nor another run comes between.

        Raises:
            OSError: it cannot be written; the journal is as it was.
        """
        if not self._has_void_lines:
            return
        path = self._path.resolve()  # a linked journal stays one
        part = _part(path)
        file = part.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(_encoded({_FORMAT: 1, "question": self._question}))
            file.write(_encoded({_CLAIMS: self._claims}))
            file.writelines(map(_encoded, self._records.values()))
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        self._file.close()
        self._file, self._has_void_lines = file, False

    def _read(self) -> int:
        """Take all whole lines; how many bytes they have."""
        self._file.seek(0)
        content = self._file.read()
        whole, beginning = content.rfind(b"\n") + 1, content[: len(_BEGINNING)]
        try:
            if not _BEGINNING.startswith(beginning):
                raise ValueError(beginning)
            for line in content[:whole].splitlines():
                self._take(json.loads(line))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise JournalError(f"{self._path} is no journal of this command") from error
        return whole

    def _take(self, line: Mapping[str, Any]) -> None:
        if _FORMAT in line:
            if line[_FORMAT] != 1:
                raise ValueError(line[_FORMAT])
            self._has_void_lines = self._has_void_lines or self._question is not None
            self._question = dict(line["question"])
            self._records.clear()
        elif _AGAIN in line:
            self._has_void_lines = True
            for one in line[_AGAIN]:
                self._records.pop(one, None)
        elif _CLAIMS in line:
            taken = {
                name for name, about in line[_CLAIMS].items() if set(self._claims.get(name, about)).difference(about)
            }
            self._has_void_lines = self._has_void_lines or not self._claims.keys().isdisjoint(line[_CLAIMS])
            self._claims.update(line[_CLAIMS])
            self._records = {one: record for one, record in self._records.items() if record.get("output") not in taken}
        else:
            self._has_void_lines = self._has_void_lines or line["input"] in self._records
            self._records[line["input"]] = dict(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(_encoded(line))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._take(line)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)  # on a full disk it would take what little is left
        raise


def state(one: Input) -> Mapping[str, Any]:
    """What tells that a picture is still the same; empty if it is not there."""
    try:
        now = os.stat(one.path)  # noqa: PTH116 - pathlib would take seconds for 100,000
    except OSError:
        return {}
    return {"bytes": now.st_size, "mtime_ns": now.st_mtime_ns}


def _held(path: Path) -> BinaryIO:
    """The file at the path, made if it is not there, held against other processes.

    Raises:
        JournalError: another process holds it.
    """
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except BlockingIOError as error:
            file.close()
            raise JournalError(f"{path}: another run is writing there") from error
        except BaseException:
            file.close()
            raise
        file.close()  # a run that has just ended replaced or removed it


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=True).encode() + b"\n"


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
