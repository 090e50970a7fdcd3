"""What the client does when the service is busy, hangs up or stays silent: both clients, a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest

from seggpt import (
    AsyncClient,
    BatchItem,
    BusyError,
    Client,
    FailedError,
    Prompt,
    RefusedError,
    TimeLimitError,
    UnexpectedAnswerError,
    UnreachableError,
)
from tests.app.conftest import encoded, picture
from tests.app.scripted_server import HANG_UP, SILENCE, ScriptedServer, answer

MODELS = answer(200, b'{"models": []}')
LINES = "application/x-ndjson"
PICTURE = encoded(picture(0))


def refusal(status: int, slug: str, **headers: str) -> bytes:
    body = {"type": f"urn:seggpt:problem:{slug}", "title": "No.", "status": status, "detail": "no room"}
    return answer(status, json.dumps(body).encode(), "application/problem+json", **headers)


Ask = Callable[..., Any]


@pytest.fixture(params=["blocking", "asynchronous"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Ask a server something with either client: ask(url, lambda client: client.models(), **arguments)."""

    def blocking(url: str, question: Callable[[Any], Any], **arguments: float) -> Any:
        with Client(url, **arguments) as client:
            return question(client)

    def asynchronous(url: str, question: Callable[[Any], Any], **arguments: float) -> Any:
        async def main() -> Any:
            async with AsyncClient(url, **arguments) as client:
                return await question(client)

        return asyncio.run(main())

    return blocking if request.param == "blocking" else asynchronous


@pytest.fixture
def ask_batch(ask: Ask) -> Callable[..., list[BatchItem]]:
    """The same for a batch of so many pictures."""

    def pictures(client: Any, count: int, found: list[BatchItem]) -> Any:
        items = client.segment_batch([PICTURE] * count, examples=[(PICTURE, PICTURE)])
        if isinstance(client, Client):
            found.extend(items)
            return None

        async def collect() -> None:
            async for item in items:
                found.append(item)

        return collect()

    def batch(url: str, count: int, **arguments: float) -> list[BatchItem]:
        found: list[BatchItem] = []
        ask(url, lambda client: pictures(client, count, found), **arguments)
        return found

    return batch


def models(client: Any) -> Any:
    return client.models()


@pytest.mark.parametrize(("status", "slug"), [(429, "queue-full"), (503, "draining")])
def test_a_refusal_for_want_of_room_is_tried_again_after_as_long_as_was_asked_for(
    ask: Ask, status: int, slug: str
) -> None:
    with ScriptedServer([refusal(status, slug, Retry_After="1"), MODELS]) as server:
        assert ask(server.url, models) == []
        first, second = server.asked
        assert 1.0 <= second.moment - first.moment < 3.0


def test_retry_after_may_be_a_date(ask: Ask) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # whole seconds: 1 to 2 from now
    with ScriptedServer([refusal(503, "not-ready", Retry_After=until), MODELS]) as server:
        assert ask(server.url, models) == []
        first, second = server.asked
        assert second.moment - first.moment > 0.9


def test_waits_grow_and_differ_when_the_service_asks_for_none(ask: Ask) -> None:
    with ScriptedServer([refusal(503, "not-ready")] * 3 + [MODELS]) as server:
        assert ask(server.url, models) == []
        moments = [asked.moment for asked in server.asked]
        waits = [after - before for before, after in pairwise(moments)]
        assert 0.12 <= waits[0] < 0.4
        assert 0.5 <= waits[2] < 1.2
        assert waits[0] < waits[2]


def test_a_connection_that_is_lost_is_tried_again(ask: Ask) -> None:
    with ScriptedServer([HANG_UP, MODELS[:30], answer(200, b'{"mod', cut=True), MODELS]) as server:
        assert ask(server.url, models) == []
        assert len(server.asked) == 4


def test_it_gives_up_at_once_when_the_wait_would_be_longer_than_the_limit(ask: Ask) -> None:
    with ScriptedServer([refusal(429, "queue-full", Retry_After="60")]) as server:
        start = time.monotonic()
        with pytest.raises(BusyError) as caught:
            ask(server.url, models, limit_s=5)
        assert time.monotonic() - start < 20
        assert (caught.value.slug, caught.value.retry_after_s) == ("queue-full", 60)
        assert caught.value.__notes__ == ["tried 1 times; another try would miss the limit of 5 s"]


def test_it_gives_up_when_the_limit_is_over(ask: Ask) -> None:
    with ScriptedServer([HANG_UP] * 50) as server:
        start = time.monotonic()
        with pytest.raises(UnreachableError):
            ask(server.url, models, limit_s=1.5)
        assert time.monotonic() - start < 20
        assert 3 <= len(server.asked) <= 6


@pytest.mark.parametrize(("status", "error"), [(422, RefusedError), (500, FailedError), (504, FailedError)])
def test_what_another_try_cannot_mend_is_not_tried_again(ask: Ask, status: int, error: type[Exception]) -> None:
    with ScriptedServer([refusal(status, "any")]) as server:
        with pytest.raises(error):
            ask(server.url, models)
        assert len(server.asked) == 1


def test_silence_is_an_error_after_the_timeout(ask: Ask) -> None:
    with ScriptedServer([SILENCE]) as server:
        start = time.monotonic()
        with pytest.raises(TimeLimitError, match=r"no answer in time from http://127\.0\.0\.1"):
            ask(server.url, models, timeout_s=0.5)
        assert 0.4 < time.monotonic() - start < 20
        assert len(server.asked) == 1


def test_health_is_asked_once(ask: Ask) -> None:
    unavailable = answer(503, b'{"status": "unavailable", "detail": "worker cpu is warming"}', Retry_After="1")
    with ScriptedServer([unavailable]) as server:
        health = ask(server.url, lambda client: client.health())
        assert (health.ok, health.detail) == (False, "worker cpu is warming")


def test_a_removal_whose_answer_was_lost_is_a_removal(ask: Ask) -> None:
    with ScriptedServer([HANG_UP, refusal(404, "prompt-not-found")]) as server:
        assert ask(server.url, lambda client: client.prompts.delete("abc")) is None
        assert [asked.line for asked in server.asked] == ["DELETE /v1/prompts/abc HTTP/1.1"] * 2


@pytest.mark.parametrize(
    "strange",
    [
        answer(200, b"<html>welcome</html>", "text/html"),
        answer(200, b"{}"),
        answer(200, b'{"models": [{}]}'),
        answer(302, b"", Location="http://127.0.0.1:1/"),
    ],
)
def test_an_answer_of_somebody_else_is_said_to_be_one(ask: Ask, strange: bytes) -> None:
    with ScriptedServer([strange]) as server, pytest.raises(UnexpectedAnswerError):
        ask(server.url, models)


def test_a_proxy_s_refusal_is_tried_again_too(ask: Ask) -> None:
    with ScriptedServer([answer(503, b"<h1>busy</h1>", "text/html"), MODELS]) as server:
        assert ask(server.url, models) == []


def test_a_prompt_may_have_members_that_this_client_does_not_know(ask: Ask) -> None:
    body = {
        "id": "abc",
        "name": None,
        "created_at": "2026-01-02T03:04:05Z",
        "mask_kind": "binary",
        "labels": [{"index": 1, "name": "object", "colour": "#ffffff", "new": 1}],
        "examples": 1,
        "bytes": 10,
        "state": "ok",
        "newer": [1],
    }
    with ScriptedServer([answer(200, json.dumps(body).encode())]) as server:
        prompt = ask(server.url, lambda client: client.prompts.get("abc"))
        assert isinstance(prompt, Prompt)
        assert prompt.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


# Batches.


def line(index: int, **members: Any) -> bytes:
    return json.dumps({"index": index, "name": "p", "status": 200, "png": "aGk=", **members}).encode() + b"\n"


DONE = b'{"done": true, "images": 3, "failed": 0}\n'


def test_a_batch_that_breaks_off_is_asked_again_for_what_is_open_only(ask_batch) -> None:
    script = [
        answer(200, line(1) + line(0)[:20], LINES, cut=True),
        answer(200, line(1), LINES),  # the answer of a server that ended, not cut by anything
        answer(200, line(0) + DONE, LINES),
    ]
    with ScriptedServer(script) as server:
        items = ask_batch(server.url, 3)
        assert sorted(item.index for item in items) == [0, 1, 2]
        assert all(item.result() == b"hi" for item in items)
        assert [asked.files.count("picture") for asked in server.asked] == [5, 4, 3]  # two are the example's


def test_a_batch_s_picture_that_was_refused_for_want_of_room_is_sent_again(ask_batch) -> None:
    busy = line(1, status=503, problem={"type": "urn:seggpt:problem:worker-lost", "detail": "lost"})
    ended = json.dumps({"done": False, "images": 1, "failed": 1, "status": 503, "problem": {"detail": "end"}}).encode()
    script = [answer(200, line(0) + busy + ended + b"\n", LINES), answer(200, line(1) + line(0) + DONE, LINES)]
    with ScriptedServer(script) as server:
        items = ask_batch(server.url, 3)
        assert [item.index for item in items] == [0, 2, 1]
        assert [item.error for item in items] == [None] * 3


def test_a_busy_service_gets_the_batch_again(ask_batch) -> None:
    script = [refusal(429, "queue-full", Retry_After="1"), HANG_UP, answer(200, line(0) + DONE, LINES)]
    with ScriptedServer(script) as server:
        assert len(ask_batch(server.url, 1)) == 1
        assert server.asked[1].moment - server.asked[0].moment >= 1


def test_a_batch_that_the_service_gives_up_raises_after_what_is_answered(ask_batch) -> None:
    ended = {"done": False, "images": 1, "failed": 0, "status": 413, "problem": {"type": "urn:seggpt:problem:x"}}
    with ScriptedServer([answer(200, line(0) + json.dumps(ended).encode() + b"\n", LINES)]) as server:
        with pytest.raises(RefusedError) as caught:
            ask_batch(server.url, 3)
        assert caught.value.status == 413


def test_a_batch_without_progress_ends_at_the_limit(ask_batch) -> None:
    with ScriptedServer([answer(200, DONE, LINES)] * 50) as server:
        start = time.monotonic()
        with pytest.raises(UnreachableError, match="before all pictures"):
            ask_batch(server.url, 1, limit_s=1)
        assert time.monotonic() - start < 20
