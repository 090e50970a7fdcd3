"""Where the answers of `seggpt segment` go: into a folder, a file for each picture, or into one COCO file.

Neither replaces what it did not write itself: the journal beside it knows which files these are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.client import Png, Segmentation
from app.commands import coco
from app.commands.inputs import Input, InputsError
from app.commands.journal import Claims, Journal, write_whole

_JOURNAL: Final = "seggpt-journal.jsonl"
_COCO_JOURNAL: Final = ".journal"


@dataclass(frozen=True, slots=True)
class Job:
    """One picture, its output, and what told at the start that it is still the same."""

    input: Input
    output: str
    state: Mapping[str, Any]


class Folder:
    """An output for each picture.

    Args:
        path: made if it is not there.
        format: "json", a kind of picture, or None for the service's choice.

    Raises:
        InputsError: the path is no folder.
    """

    def __init__(self, path: Path, format: str | None) -> None:  # noqa: A002 - what users call it
        if path.exists() and not path.is_dir():
            raise InputsError(f"--out {path}: is no folder")
        self._path = path
        self.kind = format or "default"
        self.is_json = format == "json"
        self.suffix = ".json" if self.is_json else ".png"
        self.journal = path / _JOURNAL

    def claims(self, jobs: Sequence[Job]) -> Claims:
        """Which files will be written beside the journal: an output about each picture."""
        return {job.output: [job.input.key] for job in jobs}

    def is_done(self, job: Job, journal: Journal) -> bool:
        """Whether the picture has its output."""
        record = journal.finished(job.input)
        if record is None or record["output"] != job.output:
            return False
        return os.path.isfile(f"{self._path}/{job.output}")  # noqa: PTH113 - pathlib would take seconds for 100,000

    def keep(self, job: Job, answer: Png | Segmentation, journal: Journal) -> None:
        """Write it."""
        content = json.dumps(answer.body).encode() if isinstance(answer, Segmentation) else answer
        write_whole(self._path / job.output, content)
        journal.add(job.input, job.state, output=job.output)

    def finish(self, jobs: Sequence[Job], journal: Journal) -> None:
        """Nothing is left to be done."""


class CocoFile:
    """One file about all pictures, written when all have been asked about; until then answers are in the journal.

    Args:
        path: of the file.

    Raises:
        InputsError: the path is a folder.
    """

    kind = "coco"
    is_json = True
    suffix = ".json"

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise InputsError(f"--coco {path}: is a folder, should be a file")
        self._path = path
        self.journal = path.with_name(path.name + _COCO_JOURNAL)

    def claims(self, jobs: Sequence[Job]) -> Claims:
        """Which files will be written beside the journal: one about all pictures."""
        return {self._path.name: [job.input.key for job in jobs]}

    def is_done(self, job: Job, journal: Journal) -> bool:
        """Whether the journal has the picture's answer."""
        return journal.finished(job.input) is not None

    def keep(self, job: Job, answer: Png | Segmentation, journal: Journal) -> None:
        """Note it."""
        assert isinstance(answer, Segmentation)
        journal.add(job.input, job.state, segmentation=coco.compact(answer.body))

    def finish(self, jobs: Sequence[Job], journal: Journal) -> None:
        """Write the file."""
        records = ((job, journal.finished(job.input)) for job in jobs)
        answers = ((job.input.name, record["segmentation"]) for job, record in records if record is not None)
        write_whole(self._path, coco.assemble(answers))
