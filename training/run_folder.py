"""What a run writes in its folder: its snapshot, its log, its sample pictures."""

from __future__ import annotations

import csv
import fcntl
import math
import os
import weakref
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Literal

from training.snapshot import Snapshot

LOG_COLUMNS = ("pairs", "seconds", "size", "loss", "learning_rate", "held_out_iou")
Existing = Literal["refuse", "resume", "replace"]  # what to do about a run that the folder holds


class _Lock:
    """A file that a run holds, with all processes that are started with this, until the last has let go or ended."""

    def __init__(self, path: Path) -> None:
        """Take it; the file is made if it is not there, and stays.

        Raises:
            BlockingIOError: another run holds it.
        """
        self._hold(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another run is at work in {path.parent}") from None

    def _hold(self, file: int) -> None:
        self._file = file
        self.release = weakref.finalize(self, os.close, file)

    def __getstate__(self) -> Any:
        """A process that is started gets the open file itself: opened anew it would be another one's lock."""
        return DupFd(self._file)

    def __setstate__(self, handed: Any) -> None:
        self._hold(handed.detach())


class RunFolder:
    """A run's folder, held against other runs until it is closed or forgotten."""

    def __init__(self, folder: Path, existing: Existing = "refuse") -> None:
        """Make the folder if it is not there; a run that is to be replaced stays until the first `keep`.

        Raises:
            BlockingIOError: another run is at work in it.
            FileExistsError: it holds a run, which is neither to be resumed nor to be replaced; or it is a file.
            FileNotFoundError: it holds no snapshot to resume.
        """
        self.snapshot, self._log = folder / "snapshot.pt", folder / "log.csv"
        self._folder, self._existing = folder, existing
        if existing == "resume" and not self.snapshot.is_file():
            raise FileNotFoundError(f"there is no {self.snapshot} to go on with")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _Lock(folder / "lock")
        if existing == "refuse" and (self.snapshot.exists() or self._log.exists()):
            self.close()
            raise FileExistsError(f"{folder} holds a run; --resume goes on with it, --force replaces it")

    def close(self) -> None:
        """Let other runs in, once the processes that this one was handed to have ended."""
        self._lock.release()

    def resumed(self) -> Snapshot | None:
        """Where to go on; None begins a new run.

        Raises:
            ValueError: the file is no snapshot.
        """
        return Snapshot.load(self.snapshot) if self._existing == "resume" else None

    def keep(self, snapshot: Snapshot) -> None:
        """Write a snapshot; the first one removes the run that is replaced."""
        if self._existing == "replace":
            for path in (self._log, *self._folder.glob("samples_*.png")):
                path.unlink(missing_ok=True)
            self._existing = "resume"
        snapshot.save(self.snapshot)

    def samples(self, pairs: int) -> Path:
        """Where the sample pictures of this moment belong."""
        return self._folder / f"samples_{pairs:09d}.png"

    def log(self, pairs: int, seconds: float, size: int, loss: float, rate: float, score: float) -> None:
        """Add a line to the log; the values of LOG_COLUMNS, a loss of NaN is left empty."""
        is_new = not self._log.exists()
        with self._log.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(LOG_COLUMNS)
            writer.writerow(
                [
                    pairs,
                    f"{seconds:.0f}",
                    size,
                    "" if math.isnan(loss) else f"{loss:.6f}",
                    f"{rate:.6f}",
                    f"{score:.4f}",
                ]
            )
