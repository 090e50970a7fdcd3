"""Batches beside other requests: memory, room in the queue, clients that leave, a service that ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.app.batches import END, PATH, TYPE, Field, Sender, body, by_index, example, image, lines, part, post
from tests.app.conftest import RunningServer, disc, encoded, form, picture, running_server


def test_single_requests_beside_a_batch_are_answered_promptly(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, queue_pairs=32) as server:
        server.wait_until_ready()
        content = body(*example(), *(image(seed) for seed in range(600)))
        singles = 0
        with ThreadPoolExecutor(2) as clients:
            batches = [clients.submit(post, server, content) for _ in range(2)]
            while not all(batch.done() for batch in batches):
                answer = server.client.post("/v1/segment", files=form(3))
                assert answer.status_code == 200, answer.text
                singles += 1
            taken = [len(by_index(batch.result())) for batch in batches]
        assert taken == [600, 600]
        # Had they waited for the batches' images before them, one or two would have been answered.
        assert singles > 5


def test_images_of_an_accepted_batch_wait_for_room_in_the_queue(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, queue_pairs=2, max_examples=2) as server:
        server.wait_until_ready()
        content = body(*example(), *(image(seed) for seed in range(20)))
        with ThreadPoolExecutor(3) as clients:
            answers = list(clients.map(lambda _: post(server, content), range(3)))
        for answer in answers:
            assert {item["status"] for item in by_index(answer)} == {200}


def test_a_large_batch_is_never_in_memory(tiny_folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    heavy = encoded(Image.fromarray(noise), "BMP")
    assert len(heavy) > 1_000_000

    def sent() -> Iterator[bytes]:
        yield from (part(*field) for field in example())
        for index in range(300):
            yield part("image", f"{index}.bmp", heavy)
        yield END

    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        server.wait_until_ready()
        lines(post(server, body(*example(), *([("image", "a.bmp", heavy)] * 40))))
        before = resident_bytes(server)
        answer = post(server, sent())
        assert len(by_index(answer)) == 300
        assert peak_bytes(server) - before < 100_000_000, "300 images have 324 MB"


def test_answers_that_nobody_reads_yet_do_not_fill_memory_nor_stop_the_reading(
    tiny_folder: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    heavy = encoded(Image.fromarray(noise), "JPEG", quality=90)
    count = 100
    content = body(*example(), ("output", None, b"overlay"), *([("image", "a.jpg", heavy)] * count))
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        server.wait_until_ready()
        before = resident_bytes(server)
        # httpx sends everything before it reads anything.
        answer = post(server, content)
        assert len(answer.content) > 60_000_000
        assert len(by_index(answer)) == count
        assert len({item["png"] for item in by_index(answer)}) == 1
        assert peak_bytes(server) - before < 150_000_000


def test_the_work_of_a_client_that_left_is_dropped(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        wait_until_warm(server)
        before = server.metric("seggpt_batch_pairs_sum")
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        with Sender(server) as sender:
            sender.send(*example(), *map(image, range(12)))
            sender.send_raw(b"--frontier\r\n")  # tells that the twelfth has ended
            while server.metric("seggpt_queue_pairs") + server.metric("seggpt_running_pairs") < 12:
                time.sleep(0.01)
        while server.metric("seggpt_queue_pairs"):
            time.sleep(0.01)
        os.kill(worker, signal.SIGCONT)
        while server.metric("seggpt_running_pairs") or server.metric("seggpt_bytes_in_flight"):
            time.sleep(0.01)
        assert server.metric("seggpt_batch_pairs_sum") - before <= 8
        assert len(by_index(post(server, body(*example(), image(0))))) == 1
        assert "Traceback" not in server.log.read_text()


def test_images_that_have_come_and_not_begun_are_dropped_too(tiny_folder: Path, tmp_path: Path) -> None:
    shown, mask = encoded(picture(0, (6, 8))), encoded(disc((6, 8)))
    fields: list[Field] = [("prompt_image", "p.png", shown), ("prompt_mask", "m.png", mask)]
    whole = body(*fields, *(("image", "a.png", shown) for _ in range(60)))
    assert len(whole) < 30_000, "it comes in one piece"
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        wait_until_warm(server)
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0)) as connection:
            head = f"POST {PATH} HTTP/1.1\r\nHost: test\r\nContent-Type: {TYPE['Content-Type']}\r\n"
            connection.sendall(f"{head}Content-Length: {len(whole)}\r\n\r\n".encode() + whole)
            while not server.metric("seggpt_queue_pairs"):
                time.sleep(0.01)
        while server.metric("seggpt_queue_pairs") or server.metric("seggpt_bytes_in_flight"):
            time.sleep(0.01)
        os.kill(worker, signal.SIGCONT)
        assert server.client.post("/v1/segment", files=form(0)).status_code == 200
        assert "Traceback" not in server.log.read_text()


def test_sigterm_finishes_the_images_that_were_accepted_and_refuses_the_others(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        wait_until_warm(server)
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGSTOP)  # so that the images are surely unanswered when the signal comes
        with Sender(server) as sender:
            sender.send(*example(), *map(image, range(4)))
            sender.send_raw(b"--frontier\r\n")
            server.wait_until_held(total=4)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            sender.send_raw(body(image(4), image(5)).removeprefix(b"--frontier\r\n"))
            time.sleep(0.3)
            os.kill(worker, signal.SIGCONT)
            *items, last = [sender.read_line() for _ in range(7)]
        items.sort(key=lambda item: item["index"])
        assert [item["status"] for item in items] == [200] * 4 + [503] * 2
        assert items[5]["problem"]["type"] == "urn:seggpt:problem:draining"
        assert last == {"done": True, "images": 6, "failed": 2}
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log.read_text()


def test_a_batch_that_is_still_being_sent_when_the_time_for_draining_is_over_is_told_so(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, drain_s=1) as server:
        server.wait_until_ready()
        with Sender(server) as sender:
            sender.send(*example(), image(0))
            sender.send_raw(part(*image(1))[:100])
            assert sender.read_line()["status"] == 200
            server.process.send_signal(signal.SIGTERM)
            last = sender.read_line()
            assert (last["done"], last["images"], last["status"]) == (False, 1, 503)
            assert last["problem"]["type"] == "urn:seggpt:problem:draining"
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log.read_text()


def wait_until_warm(server: RunningServer) -> None:
    """Until the worker uses its largest batch: before, fewer images of a batch are let in at a time."""
    server.wait_until_ready()
    while worker_of(server)["max_batch_pairs"] < 8:
        # A size that a busy machine made look too slow is tried again after some real batches.
        assert server.client.post("/v1/segment", files=form(0)).status_code == 200


def worker_of(server: RunningServer) -> dict[str, Any]:
    worker: dict[str, Any] = server.client.get("/v1/models").json()["models"][0]["workers"][0]
    return worker


def resident_bytes(server: RunningServer) -> int:
    return _status(server, "VmRSS")


def peak_bytes(server: RunningServer) -> int:
    return _status(server, "VmHWM")


def _status(server: RunningServer, name: str) -> int:
    (kilobytes,) = re.findall(rf"{name}:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    return int(kilobytes) * 1024
