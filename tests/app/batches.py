"""Batches as clients send them: whole, or bit by bit."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from typing import Any

import httpx

from tests.app.conftest import RunningServer, encoded, form, picture

PATH = "/v1/segment/batch"
TYPE = {"Content-Type": "multipart/form-data; boundary=frontier"}
END = b"--frontier--\r\n"
Field = tuple[str, str | None, bytes]


def part(name: str, filename: str | None, content: bytes) -> bytes:
    head = f'--frontier\r\nContent-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"'
    return f"{head}\r\n\r\n".encode() + content + b"\r\n"


def example(seed: int = 0) -> list[Field]:
    return [(name, file, content) for name, (file, content, _) in form(seed)[1:]]


def image(seed: int, name: str | None = None) -> Field:
    return ("image", name or f"{seed}.png", encoded(picture(seed, (60 + seed % 7, 80))))


def body(*fields: Field) -> bytes:
    return b"".join(part(*field) for field in fields) + END


def post(
    server: RunningServer, content: bytes | Iterable[bytes], accept: str = "*/*", **options: Any
) -> httpx.Response:
    headers = {**TYPE, "Accept": accept}
    return httpx.post(server.url + PATH, content=content, headers=headers, timeout=120, **options)


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def by_index(answer: httpx.Response) -> list[dict[str, Any]]:
    *items, last = lines(answer)
    assert last == {"done": True, "images": len(items), "failed": sum(item["status"] != 200 for item in items)}
    items.sort(key=lambda item: item["index"])
    assert [item["index"] for item in items] == list(range(len(items)))
    return items


class Sender:
    """A client that sends its batch bit by bit, in chunks, and reads lines in between."""

    def __init__(self, server: RunningServer) -> None:
        url = httpx.URL(server.url)
        self._connection = http.client.HTTPConnection(url.host, url.port, timeout=60)
        self._answer: http.client.HTTPResponse | None = None

    def __enter__(self) -> Sender:
        self._connection.putrequest("POST", PATH)
        self._connection.putheader("Content-Type", TYPE["Content-Type"])
        self._connection.putheader("Transfer-Encoding", "chunked")
        self._connection.endheaders()
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()
        if self._answer is not None:
            self._answer.close()

    def send(self, *fields: Field) -> None:
        self.send_raw(b"".join(part(*field) for field in fields))

    def send_raw(self, data: bytes) -> None:
        self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))
        if data.endswith(END):
            self._connection.send(b"0\r\n\r\n")

    def read_line(self) -> dict[str, Any]:
        if self._answer is None:
            self._answer = self._connection.getresponse()
            assert self._answer.status == 200
        line: dict[str, Any] = json.loads(self._answer.readline())
        return line
