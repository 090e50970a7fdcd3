"""Many clients at once, workers killed under them, and a service that ends while it works."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.app.conftest import RunningServer, decoded, form, running_server

CLIENTS = 16
REQUESTS_EACH = 3


def ask(server: RunningServer, seed: int, examples: int) -> httpx.Response:
    data = {"embedding_type": "semantic" if seed % 2 else "instance"}
    return httpx.post(f"{server.url}/v1/segment", files=form(seed, examples), data=data, timeout=120)


def address_of(server: RunningServer) -> tuple[str, int]:
    url = httpx.URL(server.url)
    assert url.port is not None
    return url.host, url.port


def raw(request: httpx.Request) -> bytes:
    """The bytes of a request, for clients that leave in the middle of it."""
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST {request.url.path} HTTP/1.1\r\n{head}\r\n".encode() + request.read()


def questions() -> list[tuple[int, int]]:
    """(seed, examples) of every request: all different, with 1, 2 or 5 examples."""
    return [(seed, (1, 1, 2, 5)[seed % 4]) for seed in range(CLIENTS * REQUESTS_EACH)]


@pytest.fixture(scope="module")
def solo(server: RunningServer) -> list[np.ndarray]:
    """The answer that each request gets when it is alone."""
    return [decoded(ask(server, *question)) for question in questions()]


def test_sixteen_clients_each_get_their_own_answer_and_share_batches(
    server: RunningServer, solo: list[np.ndarray]
) -> None:
    pairs, batches = server.metric("seggpt_batch_pairs_sum"), server.metric("seggpt_batches_total")
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda question: ask(server, *question), questions()))
    for answer, wanted in zip(answers, solo, strict=True):
        assert np.array_equal(decoded(answer), wanted)
    assert len({answer.content for answer in answers}) == len(answers)
    mean = (server.metric("seggpt_batch_pairs_sum") - pairs) / (server.metric("seggpt_batches_total") - batches)
    single = sum(examples for _, examples in questions()) / len(questions())
    assert mean > single, "no two requests shared a batch"


def test_a_killed_worker_costs_no_client_its_answer(tiny_folder: Path, solo: list[np.ndarray], tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        server.wait_until_ready()
        (first_pid,) = server.worker_pids()
        killed = threading.Event()

        def client(question: tuple[int, int]) -> httpx.Response:
            answer = ask(server, *question)
            if not killed.is_set():  # the first answer is there: the worker is in the middle of the others
                killed.set()
                os.kill(first_pid, signal.SIGKILL)
            return answer

        with ThreadPoolExecutor(CLIENTS) as clients:
            answers = list(clients.map(client, questions()))
        for answer, wanted in zip(answers, solo, strict=True):
            assert np.array_equal(decoded(answer), wanted)
        server.wait_until_ready()
        assert server.metric("seggpt_worker_restarts_total") == 1
        (second_pid,) = server.worker_pids()
        assert second_pid != first_pid
        assert np.array_equal(decoded(ask(server, *questions()[3])), solo[3])


def test_readiness_tells_that_the_worker_is_being_replaced(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        server.wait_until_ready()
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        seen = set()
        while 200 not in seen or 503 not in seen:
            seen.add(server.client.get("/health/ready").status_code)
        assert server.client.get("/health/live").status_code == 200
        assert server.client.get("/health/startup").status_code == 200
        server.wait_until_ready()


def test_sigterm_finishes_what_was_accepted(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        server.wait_until_ready()
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGSTOP)  # so that the requests are surely unanswered when the signal comes
        with ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(ask, server, seed, 1) for seed in range(4)]
            server.wait_until_held(total=4)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{server.url}/health/ready")
            os.kill(worker, signal.SIGCONT)
            for seed, answer in enumerate(answers):
                assert decoded(answer.result()).shape == (90, 120), seed
        assert server.process.wait(60) == 0
        assert not Path(f"/proc/{worker}").exists()


def test_what_cannot_be_finished_in_time_is_told_so(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, drain_s=1) as server:
        server.wait_until_ready()
        os.kill(server.worker_pids()[0], signal.SIGSTOP)
        with ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(ask, server, seed, 1) for seed in range(4)]
            server.wait_until_held(total=4)
            server.process.send_signal(signal.SIGTERM)
            for answer in answers:
                assert answer.result().status_code == 503
                assert answer.result().json()["type"] == "urn:seggpt:problem:draining"
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log.read_text()


def test_a_full_queue_is_refused_with_retry_after(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, queue_pairs=4, max_examples=2) as server:
        server.wait_until_ready()
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(2) as clients:
            held = [clients.submit(ask, server, seed, 2) for seed in (0, 1)]
            server.wait_until_held(total=4)
            refused = ask(server, 2, 1)
            assert refused.status_code == 429
            assert refused.json()["type"] == "urn:seggpt:problem:queue-full"
            assert int(refused.headers["retry-after"]) >= 1
            os.kill(worker, signal.SIGCONT)
            assert [answer.result().status_code for answer in held] == [200, 200]


def test_a_deadline_is_kept_and_leaves_room_again(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, deadline_s=1.0) as server:
        server.wait_until_ready()
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        late = ask(server, 0, 1)
        assert late.status_code == 504
        assert late.json()["type"] == "urn:seggpt:problem:deadline-exceeded"
        os.kill(worker, signal.SIGCONT)
        assert decoded(ask(server, 1, 1)).shape == (90, 120)


def test_the_work_of_a_client_that_left_is_dropped(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        server.wait_until_ready()
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        for seed in range(3):
            request = httpx.Request("POST", f"{server.url}/v1/segment", files=form(seed))
            with socket.create_connection(address_of(server)) as client:
                client.sendall(raw(request))
                server.wait_until_held(running=1, queued=min(seed, 1))
            server.wait_until_held(running=1, queued=0)
        os.kill(worker, signal.SIGCONT)
        assert decoded(ask(server, 4, 1)).shape == (90, 120)
        # The one that the worker held when it was stopped, and the new one: the other two were never run.
        assert server.metric("seggpt_batch_pairs_sum") == 2


def test_bodies_together_hold_no_more_bytes_than_allowed(tiny_folder: Path, tmp_path: Path) -> None:
    limits = {"max_body_bytes": 2_000_000, "max_bytes_in_flight": 2_000_000}
    with running_server(tmp_path / "log", checkpoint=tiny_folder, **limits) as server:
        server.wait_until_ready()
        with socket.create_connection(address_of(server)) as stalled:
            stalled.sendall(
                b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=a\r\n"
                b"Content-Length: 1999000\r\n\r\n"
                b'--a\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + b"x" * 1_990_000
            )
            while server.metric("seggpt_bytes_in_flight") < 1_900_000:
                time.sleep(0.01)
            refused = ask(server, 0, 2)
            assert refused.status_code == 429
            assert refused.json()["type"] == "urn:seggpt:problem:too-many-bytes-in-flight"
            assert int(refused.headers["retry-after"]) >= 1
        while server.metric("seggpt_bytes_in_flight") > 0:
            time.sleep(0.01)
        assert ask(server, 0, 2).status_code == 200
