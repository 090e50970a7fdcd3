"""Pictures by URL through the whole service: answered as if they had been sent, within the same bounds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.app.conftest import RunningServer, form, running_server
from tests.app.loopback import HOST, fetcher_to, ok, serving
from tests.app.test_bad_input import is_problem

pytestmark = pytest.mark.anyio


def test_pictures_by_url_are_off_unless_hosts_are_named(server: RunningServer) -> None:
    url = "http://127.0.0.1/picture.png"
    answer = server.client.post("/v1/segment", files=form(1)[1:], data={"image": url})
    is_problem(answer, "url-not-allowed", 422, "image: ", "switched off")
    body = {"image": url, "prompt_image": [url], "prompt_mask": [url]}
    answer = server.client.post("/v1/segment", json=body)
    is_problem(answer, "url-not-allowed", 422, "switched off")


def test_a_running_service_does_not_reach_loopback_even_if_its_name_is_allowed(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder, url_hosts="localhost") as running:
        running.wait_until_ready()
        answer = running.client.post("/v1/segment", files=form(1)[1:], data={"image": "http://localhost/a.png"})
        is_problem(answer, "url-not-allowed", 422, "image: localhost has an address that is not public")
        assert answer.json()["field"] == "image"
        assert running.metric("seggpt_bytes_in_flight") == 0


@asynccontextmanager
async def in_process(tiny_folder: Path, **settings: object) -> AsyncIterator[tuple[httpx.AsyncClient, object]]:
    """The service in this very process, so that its fetcher may be one that reaches loopback."""
    chosen = {"checkpoint": str(tiny_folder), "devices": ("cpu",), "dtype": "float32", **settings}
    app = create_app(Settings(**chosen), on_fatal=pytest.fail)
    async with app.router.lifespan_context(app):
        with anyio.fail_after(120):
            while not app.state.service.ready:  # noqa: ASYNC110 - what a load balancer does
                await anyio.sleep(0.05)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as client:
            yield client, app.state.service


async def test_the_answer_to_urls_is_the_answer_to_the_pictures_behind_them(tiny_folder: Path) -> None:
    files = form(3, examples=2)
    contents = [content for _, (_, content, _) in files]

    async def numbered(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(contents[int(head.split()[1][1:])]))
        await writer.drain()

    async with serving(numbered) as loopback, in_process(tiny_folder, max_body_bytes=200_000) as (client, service):
        service.fetcher = fetcher_to(loopback)  # type: ignore[attr-defined]
        urls = [(name, f"http://{HOST}:{loopback.port}/{index}") for index, (name, _) in enumerate(files)]
        expected = await client.post("/v1/segment", files=files)
        assert expected.status_code == 200

        as_json = {"image": urls[0][1], **{name: [url for field, url in urls if field == name] for name, _ in urls[1:]}}
        by_json = await client.post("/v1/segment", json=as_json)
        assert by_json.content == expected.content

        # A text part has no file name.
        by_form = await client.post("/v1/segment", files=[(name, (None, url.encode())) for name, url in urls])
        assert by_form.content == expected.content

        mixed = await client.post("/v1/segment", files=[*files[:-1], (urls[-1][0], (None, urls[-1][1].encode()))])
        assert mixed.content == expected.content

        assert len(loopback.requests) == 5 + 5 + 1
        gauge = service.metrics.bytes_in_flight  # type: ignore[attr-defined]
        assert gauge.collect()[0].samples[0].value == 0


async def test_an_image_of_a_batch_may_be_a_url_and_a_refused_one_fails_alone(tiny_folder: Path) -> None:
    (_, picture), *examples = [(name, content) for name, (_, content, _) in form(4)]
    async with serving(ok(picture)) as loopback, in_process(tiny_folder, max_body_bytes=200_000) as (client, service):
        service.fetcher = fetcher_to(loopback)  # type: ignore[attr-defined]
        parts: list[tuple[str, tuple[str | None, bytes]]] = [(name, ("file", content)) for name, content in examples]
        parts.append(("image", ("a.png", picture)))
        parts.append(("image", (None, f"http://{HOST}:{loopback.port}/b".encode())))
        parts.append(("image", (None, b"http://elsewhere.example/c")))
        answer = await client.post("/v1/segment/batch", files=parts)
        lines = {line["index"]: line for line in map(json.loads, answer.text.splitlines()) if "index" in line}
        assert [lines[index]["status"] for index in range(3)] == [200, 200, 422]
        first, second = (lines[index]["segmentation"] for index in range(2))
        assert first["segments"] == second["segments"]
        assert lines[2]["problem"]["type"].endswith(":url-not-allowed")
        assert len(loopback.requests) == 1


async def test_what_one_request_may_fetch(tiny_folder: Path) -> None:
    limits = {"max_body_bytes": 60_000, "max_examples": 2, "url_timeout_s": 5, "deadline_s": 3}
    async with serving(ok(b"x" * 25_000)) as loopback, in_process(tiny_folder, **limits) as (client, service):
        service.fetcher = fetcher_to(loopback)  # type: ignore[attr-defined]
        url = f"http://{HOST}:{loopback.port}/"

        together = await client.post("/v1/segment", json={"image": url, "prompt_image": [url], "prompt_mask": [url]})
        is_problem(together, "url-unreachable", 422, "too many bytes", "for all that this request fetches")

        many = await client.post("/v1/segment", json={"image": url, "prompt_image": [url] * 5})
        is_problem(many, "invalid-request", 422, "6", "5")

        service.fetcher = fetcher_to(loopback, timeout_s=30, resolve=lambda host, port: time.sleep(4) or ["127.0.0.1"])  # type: ignore[attr-defined]
        late = await client.post("/v1/segment", json={"image": url, "prompt_image": [url], "prompt_mask": [url]})
        is_problem(late, "deadline-exceeded", 504)


async def test_all_fetched_bytes_are_bounded_together(tiny_folder: Path) -> None:
    limits = {"max_body_bytes": 60_000, "max_bytes_in_flight": 60_000}
    finished = asyncio.Event()

    async def halting(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40001\r\n\r\n" + b"x" * 40_000)
        await writer.drain()
        await finished.wait()
        writer.write(b"x")
        await writer.drain()

    async with serving(halting) as loopback, in_process(tiny_folder, **limits) as (client, service):
        service.fetcher = fetcher_to(loopback)  # type: ignore[attr-defined]
        body = {"image": f"http://{HOST}:{loopback.port}/"}
        gauge = service.metrics.bytes_in_flight  # type: ignore[attr-defined]
        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.post("/v1/segment", json=body))
            with anyio.fail_after(30):
                while gauge.collect()[0].samples[0].value < 40_000:  # noqa: ASYNC110 - a gauge has no event
                    await anyio.sleep(0.01)
            second = await client.post("/v1/segment", json=body)
            is_problem(second, "too-many-bytes-in-flight", 429)
            finished.set()
        is_problem(first.result(), "example-count", 422, "prompt_image")
