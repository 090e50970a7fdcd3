"""What clients do to a connection: offered upgrades, huge headers, old versions, uploads that stall or break off."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from tests.app.conftest import RunningServer, form, running_server

# The image last, as batches want it.
GOOD = httpx.Request("POST", "http://service/v1/segment", files=[*form()[1:], *form()[:1]])
BODY = GOOD.read()
TYPE = f"Content-Type: {GOOD.headers['content-type']}"


def connected(server: RunningServer) -> socket.socket:
    address = httpx.URL(server.url)
    return socket.create_connection((address.host, address.port), timeout=60)


def head(*lines: str, path: str = "/v1/segment", version: str = "1.1", length: int = len(BODY)) -> bytes:
    """The head of a POST."""
    every = (f"POST {path} HTTP/{version}", "Host: service", TYPE, f"Content-Length: {length}", *lines)
    return "\r\n".join(every).encode() + b"\r\n\r\n"


def answer(connection: socket.socket) -> tuple[int, str, bytes]:
    """Status, head and body of an answer, read to the connection's end or the declared length."""
    got = b""
    while piece := connection.recv(65536):
        got += piece
        start, mark, body = got.partition(b"\r\n\r\n")
        declared = re.search(rb"content-length: (\d+)", start)
        if mark and declared and len(body) >= int(declared[1]):
            break
    start, _, body = got.partition(b"\r\n\r\n")
    return int(start.split()[1]), start.decode().lower(), body


def test_an_offered_upgrade_is_not_taken_and_the_request_answered(server: RunningServer) -> None:
    # What Java's HttpClient and `curl --http2` send at first.
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA")
    with connected(server) as connection:
        connection.sendall(head(*offer) + BODY)
        status, _, body = answer(connection)
    assert status == 200
    assert body.startswith(b"\x89PNG")


def test_a_huge_header_is_refused_and_stops_nobody(server: RunningServer) -> None:
    with connected(server) as connection, contextlib.suppress(OSError):
        connection.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: service\r\nX-Padding: ")
        for _ in range(64):
            connection.sendall(b"a" * 65536)
        assert answer(connection)[0] in (400, 431)
    assert server.client.get("/health/live").status_code == 200


def test_a_client_of_http_1_0_gets_a_batch_without_chunks(server: RunningServer) -> None:
    with connected(server) as connection:
        connection.sendall(head(path="/v1/segment/batch", version="1.0") + BODY)
        status, start, body = answer(connection)
    assert status == 200
    assert "transfer-encoding" not in start
    first, last = (json.loads(line) for line in body.splitlines())
    assert first["index"] == 0
    assert last["images"] == 1


@pytest.mark.parametrize("declared", [True, False])
def test_a_client_that_sends_all_before_it_reads_sees_why_it_was_refused(server: RunningServer, declared: bool) -> None:
    # urllib does so, and asks for the connection to be closed: too early an answer would be lost in a reset.
    for path, kind, size, wanted in (
        ("/v1/segment", "multipart/form-data; boundary=x", 5_000_000, 413),
        ("/v1/segment", "image/jpeg", 3_000_000, 415),
        ("/v1/nowhere", "image/jpeg", 3_000_000, 404),
    ):
        body = b"x" * size
        lines = [f"Content-Length: {size}" if declared else "Transfer-Encoding: chunked"]
        request = [f"POST {path} HTTP/1.1", "Host: service", "Connection: close", f"Content-Type: {kind}", *lines]
        with connected(server) as connection:
            connection.sendall("\r\n".join(request).encode() + b"\r\n\r\n")
            connection.sendall(body if declared else b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
            time.sleep(0.5)
            status, start, _ = answer(connection)
        assert status == wanted, path
        assert "application/problem+json" in start


def test_an_upload_that_stalls_has_until_the_deadline_and_locks_nobody_out(tiny_folder: Path, tmp_path: Path) -> None:
    limits = {"max_body_bytes": len(BODY) + 1000, "max_bytes_in_flight": 3 * len(BODY)}
    with running_server(tmp_path / "log", checkpoint=tiny_folder, deadline_s=3, **limits) as server:
        server.wait_until_ready()
        stalled = [(connected(server), path) for path in ("/v1/segment", "/v1/segment", "/v1/segment/batch")]
        for connection, path in stalled:
            connection.sendall(head(path=path) + BODY[:-10])
        for connection, path in stalled:
            with connection:
                status, start, body = answer(connection)
            assert status == 504, path
            assert json.loads(body)["type"] == "urn:seggpt:problem:deadline-exceeded"
            assert "connection: close" in start
        assert server.client.post("/v1/segment", files=form()).status_code == 200


def test_at_the_end_an_unfinished_upload_is_told_to_come_again(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, drain_s=1) as server:
        server.wait_until_ready()
        paths = ("/v1/segment", "/v1/prompts", "/v1/segment/batch")
        connections = [connected(server) for _ in paths]
        for connection, path in zip(connections, paths, strict=True):
            connection.sendall(head(path=path, length=10_000_000) + BODY[:200])
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        for connection in connections:
            with connection:
                status, _, body = answer(connection)
            assert status == 503
            assert json.loads(body)["type"] == "urn:seggpt:problem:draining"
        assert server.process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_an_upload_that_breaks_off_is_no_fault_of_the_form(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        server.wait_until_ready()
        with connected(server) as connection:
            connection.sendall(head() + BODY[:200])
            time.sleep(0.3)
        deadline = time.monotonic() + 20
        while 'status="499"' not in (text := server.client.get("/metrics").text) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert 'seggpt_requests_total{route="/v1/segment",status="499"} 1.0' in text
    assert "malformed" not in text
