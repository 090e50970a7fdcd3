"""What a run has finished, on disk: an append-only file of JSON lines, each there for good before the next begins.

The first line says what was asked for: only the same question may go on where another run stopped. Others say which
files will be written, and for which picture, before any is: what lies there and was not claimed is not replaced. A line
that a killed process left half written is cut off; what it was about is done again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Self

from app.commands.inputs import Input

_FORMAT: Final = "seggpt-journal"
_CLAIMS: Final = "outputs"


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
        self._claims: dict[str, str] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
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

    @property
    def inputs(self) -> Collection[str]:
        """The keys of all finished pictures."""
        return self._records.keys()

    def finished(self, one: Input) -> Mapping[str, Any] | None:
        """The record of a picture, if it is done and has not changed since."""
        record, now = self._records.get(key(one)), state(one)
        if record is None or not now or any(record[name] != value for name, value in now.items()):
            return None
        return record

    def check(self, claims: Mapping[str, str]) -> None:
        """Refuse to replace what is not this command's, or another picture's.

        Args:
            claims: names of files beside the journal, each with the key of the input whose answer it is to have.

        Raises:
            JournalError: there is such a file.
        """
        for name, owner in claims.items():
            path = self._path.parent / name
            if self._claims.get(name) != owner and path.exists():
                whose = f"the output of {self._claims[name]}" if name in self._claims else "no output of this command"
                raise JournalError(f"{path} is there, and is {whose}; write somewhere else, or replace it with --force")

    def begin(self, question: Mapping[str, Any], claims: Mapping[str, str], *, anew: bool) -> None:
        """Note what is asked, and which files will be written; on disk when this returns.

        Args:
            question: all that the answers depend on, as JSON has it.
            claims: as for `check`; the record of another input that had one of these files is forgotten.
            anew: whether to forget what is finished.

        Raises:
            JournalError: there are answers to another question, and not `anew`.
        """
        question = json.loads(json.dumps(question))  # so that a tuple equals the list that was written
        if question != self._question and self._records and not anew:
            asked = self._question or {}
            named = sorted(name for name in {*asked, *question} if asked.get(name) != question.get(name))
            raise JournalError(
                f"{self._path}: what is there was asked for with other {', '.join(named)}; "
                "write somewhere else, or do all of it again with --again"
            )
        if question != self._question or anew:
            self._records.clear()
            self._file.truncate(0)
            self._write({_FORMAT: 1, "question": question}, *([{_CLAIMS: self._claims}] if self._claims else []))
        if new := {name: owner for name, owner in claims.items() if self._claims.get(name) != owner}:
            self._write({_CLAIMS: new})
            self._take({_CLAIMS: new})

    def add(self, one: Input, state: Mapping[str, Any], **members: Any) -> None:
        """Note that a picture is done; on disk when this returns.

        Args:
            one: the picture.
            state: what `state` said before it was sent, so that one that changes meanwhile is done again.
            members: of the record.
        """
        record = {"input": key(one), **state, **members}
        self._write(record)
        self._take(record)

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        lines = content[:whole].splitlines()
        if not lines:
            return
        try:
            head, *others = (json.loads(line) for line in lines)
            if head[_FORMAT] != 1:
                raise ValueError(head[_FORMAT])
            self._question = dict(head["question"])
            for line in others:
                self._take(line)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise JournalError(f"{self._path} is no journal of this command") from error

    def _take(self, line: dict[str, Any]) -> None:
        if _CLAIMS in line:
            lost = {name for name, owner in line[_CLAIMS].items() if self._claims.get(name, owner) != owner}
            self._claims.update(line[_CLAIMS])
            if lost:
                self._records = {one: record for one, record in self._records.items() if record["output"] not in lost}
        else:
            self._records[line["input"]] = line

    def _write(self, *lines: Mapping[str, Any]) -> None:
        self._file.write(b"".join(json.dumps(line, ensure_ascii=True).encode() + b"\n" for line in lines))
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


def key(one: Input) -> str:
    """What a picture is called in journals."""
    return os.fsdecode(one.path.resolve())


def state(one: Input) -> Mapping[str, Any]:
    """What tells that a picture is still the same; empty if it is not there."""
    try:
        now = one.path.stat()
    except OSError:
        return {}
    return {"bytes": now.st_size, "mtime_ns": now.st_mtime_ns}
