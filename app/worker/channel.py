"""The HTTP process's handle on one worker process: start it, talk to it, end it.

Knows processes, sockets and messages; knows nothing of batches, of restarting or of why.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import app
from app.worker.messages import Message, MessageError, decode, encode

# The longest line a worker sends is an error message; a line beyond this is not one of ours.
_LINE_LIMIT_BYTES = 1 << 20
_MOMENT_S = 1.0
WORKER_SETTINGS: Mapping[str, str] = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824"
    ":glibc.malloc.trim_threshold=4294967296",
    "GOMP_SPINCOUNT": "10000",
}
"""What libraries under torch read when a process starts; a worker starts with it, but for what the user set."""
_TUNABLES = "GLIBC_TUNABLES"


class WorkerGoneError(Exception):
    """The worker process has ended or cannot be understood any more."""


class WorkerChannel:
    """A running worker process and the socket to it. Made by `open`, ended by `kill`, always."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, memory_fd: int) -> WorkerChannel:
        """Start `python -m app.worker`.

        Args:
            memory_fd: descriptor of the shared cells, which the child inherits.

        Raises:
            OSError: no process can be started.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "app.worker",
                    f"--socket={theirs.fileno()}",
                    f"--memory={memory_fd}",
                    pass_fds=(theirs.fileno(), memory_fd),
                    stdin=asyncio.subprocess.DEVNULL,
                    # A session of its own: Ctrl-C in a terminal reaches the HTTP process only, which then drains.
                    start_new_session=True,
                    env=child_environment(),
                )
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_LINE_LIMIT_BYTES)
        except BaseException:
            # Whatever happens from here on, a cancellation included: the child sees the end of its socket and exits.
            ours.close()
            raise
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs and its socket is open, as far as is known."""
        return self._process.returncode is None and not self._reader.at_eof()

    async def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            WorkerGoneError: nobody reads any more.
        """
        try:
            self._writer.write(encode(message))
            await self._writer.drain()
        except OSError as error:
            raise WorkerGoneError(await self.obituary()) from error

    async def receive(self) -> Message:
        """Wait for the next message. Cancelling it loses nothing.

        Raises:
            WorkerGoneError: the process has ended, or what it says is not a message.
        """
        try:
            line = await self._reader.readline()
            if line.endswith(b"\n"):
                return decode(line)
        except MessageError as error:
            raise WorkerGoneError(str(error)) from error
        except ValueError as error:  # asyncio's word for a line beyond the limit
            raise WorkerGoneError(f"a line has more than {_LINE_LIMIT_BYTES} bytes") from error
        except OSError:
            pass  # reset: as good as the end
        raise WorkerGoneError(await self.obituary())

    async def obituary(self) -> str:
        """How the process ended, for the log; it is killed if it does not end by itself at once."""
        with contextlib.suppress(TimeoutError):
            # Its socket ends a moment before it does, and killing it then would hide its exit code.
            async with asyncio.timeout(_MOMENT_S):
                await self._process.wait()
        await self.kill()
        code = self._process.returncode
        return f"it was ended by signal {-code}" if code is not None and code < 0 else f"it exited with code {code}"

    async def exited(self) -> None:
        """Wait until the process has ended by itself."""
        await self._process.wait()

    async def kill(self) -> None:
        """End the process now, wait for it, close the socket. Again does nothing.

        When this returns nobody but the HTTP process writes to the cells.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # SIGKILL: it also ends a stopped or hung process
        self._writer.close()
        # Reaping must not be left half done: a cancelled wait would leave a process that still writes to the cells.
        await asyncio.shield(self._process.wait())
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def child_environment() -> dict[str, str]:
    """This process's environment, so that the child finds the same `app` wherever it was imported from.

    And with WORKER_SETTINGS, of which a user's own values stay, each of glibc's by itself, and which other libraries
    ignore. glibc is told to keep memory: a forward allocates the same large blocks again and again, and giving each
    back to the kernel costs the page faults of taking it anew. OpenMP's threads are told to sleep soon after their
    work: by default they spin for milliseconds, on cores that the threads of our kernels and of decoding could use.
    """
    root = str(Path(app.__file__).parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    tunables: dict[str, str] = {}
    for entries in (WORKER_SETTINGS[_TUNABLES], os.environ.get(_TUNABLES, "")):
        tunables |= {entry.partition("=")[0]: entry for entry in entries.split(":") if entry}
    merged = {_TUNABLES: ":".join(tunables.values()), "PYTHONPATH": os.pathsep.join(paths)}
    return {**WORKER_SETTINGS, **os.environ, **merged}
