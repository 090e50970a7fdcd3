"""A real server on loopback that does to its clients what a test wrote down: answer, refuse, hang up, say nothing."""

from __future__ import annotations

import re
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

HANG_UP = b""
SILENCE = None


@dataclass
class Asked:
    """A request that came: its moment, its first line, its body (with the frames of chunks still in it)."""

    moment: float
    line: str
    body: bytes

    @property
    def files(self) -> list[str]:
        """The names of the files in its form."""
        return re.findall(r'filename="([^"]*)"', self.body.decode("latin-1"))


def answer(
    status: int, body: bytes = b"", content_type: str = "application/json", *, cut: bool = False, **headers: str
) -> bytes:
    """The bytes of an answer; with `cut` it promises more than comes."""
    lines = [f"HTTP/1.1 {status} Any", f"Content-Type: {content_type}", f"Content-Length: {len(body) + 100 * cut}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


@dataclass
class ScriptedServer:
    """Does one thing for each request, in turn: send bytes, hang up (no bytes), or stay silent (None)."""

    script: list[bytes | None]
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.close()
        for connection in self._open:
            connection.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        steps = iter(self.script)
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.settimeout(10)
            self.asked.append(_read(connection))
            step = next(steps, answer(599, b"the script is over"))
            if step is SILENCE:
                self._open.append(connection)
                continue
            connection.sendall(step)
            connection.close()


def _read(connection: socket.socket) -> Asked:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    is_chunked = b"chunked" in head.lower()
    while (is_chunked and not body.endswith(b"0\r\n\r\n")) or (length and len(body) < int(length[1])):
        body += connection.recv(65536)
    return Asked(time.monotonic(), head.split(b"\r\n")[0].decode(), body)
