"""The form as JSON: the same answers as multipart, and every way in which such a body can be wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.main import create_app
from app.routes import json_form
from app.routes.forms import PICTURES
from app.routes.multipart import Part
from app.settings import Settings
from tests.app.conftest import RunningServer, encoded, form, picture
from tests.app.test_bad_input import is_problem

JSON = {"Content-Type": "application/json"}
PNG = encoded(picture(0))


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def as_json(files: list[tuple[str, tuple[str, bytes, str]]], **fields: Any) -> dict[str, Any]:
    """The body that says the same as a multipart form."""
    body: dict[str, Any] = {}
    for name, (_, content, _) in files:
        if name == "image":
            body[name] = text_of(content)
        else:
            body.setdefault(name, []).append(text_of(content))
    return body | fields


def parsed(body: object) -> list[Part]:
    return json_form.parse(body if isinstance(body, bytes) else json.dumps(body).encode(), PICTURES)


def contents(body: object) -> list[tuple[str, bytes]]:
    return [(part.name, part.content) for part in parsed(body)]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"threshold": 0.25},
        {"threshold": 1},
        {"output": "soft"},
        {"output": "overlay", "embedding_type": "semantic"},
    ],
)
@pytest.mark.parametrize("examples", [1, 3])
def test_the_answer_is_that_to_the_same_form_byte_for_byte(
    server: RunningServer, fields: dict[str, Any], examples: int
) -> None:
    files = form(7, examples)
    by_form = server.client.post("/v1/segment", files=files, data={name: str(value) for name, value in fields.items()})
    by_json = server.client.post("/v1/segment", json=as_json(files, **fields))
    assert by_json.status_code == by_form.status_code == 200, by_json.text
    assert by_json.content == by_form.content
    assert by_json.headers["content-type"] == by_form.headers["content-type"]


def test_a_large_body_is_answered_too(server: RunningServer) -> None:
    noise = random.Random(0).randbytes(600 * 800 * 3)
    files = form(7)
    files[0] = ("image", ("a.png", encoded(Image.frombytes("RGB", (800, 600), noise)), "image/png"))
    assert len(files[0][1][1]) > 1_000_000
    by_form = server.client.post("/v1/segment", files=files)
    by_json = server.client.post("/v1/segment", json=as_json(files))
    assert by_json.status_code == 200, by_json.text
    assert by_json.content == by_form.content


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda text: text,
        lambda text: "data:image/png;base64," + text,
        lambda text: "DATA:;BASE64," + text,
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.rstrip("="),
        lambda text: "\n".join(text[at : at + 76] for at in range(0, len(text), 76)) + "\n",
        lambda text: "\r\n".join(text[at : at + 64] for at in range(0, len(text), 64)),
        lambda text: " " + text + "\t ",
    ],
    ids=["plain", "data", "data without a type", "urlsafe", "unpadded", "lines", "CRLF lines", "spaces"],
)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 100, 767, 768, 769, 5000, 400_001, 600_002])
def test_the_ways_to_write_base64(wrapped: Any, size: int) -> None:
    content = random.Random(size).randbytes(size)
    assert contents({"image": wrapped(text_of(content))}) == [("image", content)]


@pytest.mark.parametrize("size", [10, 2000, 600_000])
@pytest.mark.parametrize(
    "escaped",
    [
        lambda text: text.replace("/", "\\/"),  # PHP
        lambda text: text.replace("+", "\\u002B"),  # .NET
        lambda text: text.replace("=", "\\u003d"),  # Gson
        lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
        lambda text: "data:image\\/png;base64," + text.replace("/", "\\/"),
    ],
)
def test_the_escapes_that_other_languages_write(escaped: Any, size: int) -> None:
    content = b"\xfb\xff\xbf" * (size // 3) + b"\xff"
    assert contents(b'{"image": "%b"}' % escaped(text_of(content)).encode()) == [("image", content)]


@given(st.binary(max_size=3000), st.booleans(), st.randoms())
def test_whatever_is_encoded_is_decoded(content: bytes, is_urlsafe: bool, chance: random.Random) -> None:
    text = (base64.urlsafe_b64encode if is_urlsafe else base64.b64encode)(content).decode()
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice([" ", "\n", "\r\n", "\t"]) + text[at:]
    assert contents({"image": text}) == [("image", content)]


def test_values_become_the_texts_that_a_form_would_have() -> None:
    body = b"""{"threshold": 0.10, "min_area": 12, "tolerance": 1e-3, "instances": true, "all": false,
        "name": "a\\u00e9", "nothing": null, "prompt": ["one", 2, true], "none": [],
        "big": 123456789012345678901234567890}"""
    assert contents(body) == [
        ("threshold", b"0.10"),
        ("min_area", b"12"),
        ("tolerance", b"1e-3"),
        ("instances", b"true"),
        ("all", b"false"),
        ("name", "aé".encode()),
        ("prompt", b"one"),
        ("prompt", b"2"),
        ("prompt", b"true"),
        ("big", b"123456789012345678901234567890"),
    ]
    assert all(part.filename is None for part in parsed(body))


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog"],
        [{"name": "cat", "index": 3, "colour": "#ff0000"}, {"name": "Hündin", "index": 7, "colour": None}],
        ["a" * 3000, {"name": "b" * 3000}],
        [1.5, True, None, ["deep"]],
        {"not": "a list"},
    ],
)
def test_labels_may_be_json_or_its_text(labels: object) -> None:
    ((name, text),) = contents({"labels": labels})
    assert name == "labels"
    assert json.loads(text) == labels
    assert contents({"labels": json.dumps(labels)}) == [("labels", json.dumps(labels).encode())]


def test_pictures_are_files_and_their_urls_are_texts() -> None:
    url = "https://images.example.com/" + "a" * 2000
    body = {"image": text_of(PNG), "prompt_image": [text_of(PNG), url, "HTTP://a/b"], "prompt_mask": ["", text_of(b"")]}
    found = parsed(body)
    assert [(part.name, part.filename is not None) for part in found] == [
        ("image", True),
        ("prompt_image", True),
        ("prompt_image", False),
        ("prompt_image", False),
        ("prompt_mask", True),
        ("prompt_mask", True),
    ]
    assert found[2].content == url.encode()
    escaped = json.dumps({"image": url}).replace("/", "\\/").encode()
    assert contents(escaped) == [("image", url.encode())]


def test_long_texts_keep_their_quotes_and_escapes() -> None:
    text = 'a "quoted" \\ back\\\\slash\\" é \U0001f600 \n' * 100
    assert contents({"name": text, "x": "\\", "y": '\\"', "z": text}) == [
        ("name", text.encode()),
        ("x", b"\\"),
        ("y", b'\\"'),
        ("z", text.encode()),
    ]


def test_the_rules_for_fields_are_those_of_the_form(server: RunningServer) -> None:
    files = form(1)
    post = server.client.post
    is_problem(post("/v1/segment", json=as_json(files, treshold=0.4)), "invalid-request", 422, "treshold")
    is_problem(post("/v1/segment", json=as_json(files, threshold=1.01)), "invalid-request", 422, "threshold", "1.01")
    infinite = json.dumps(as_json(files)).replace("{", '{"threshold": 1e999,', 1)
    is_problem(post("/v1/segment", content=infinite, headers=JSON), "invalid-request", 422, "threshold")
    is_problem(post("/v1/segment", json=as_json(files, output="jpeg")), "invalid-request", 422, "output", "jpeg")
    is_problem(post("/v1/segment", json=as_json(files, image=None)), "invalid-request", 422, "image")
    is_problem(post("/v1/segment", json=as_json(files, image=[text_of(PNG)] * 2)), "invalid-request", 422, "2", "image")
    is_problem(post("/v1/segment", json=as_json(files, image="")), "undecodable-image", 422, "image", "empty")
    is_problem(post("/v1/segment", json=as_json(files, image="aGVsbG8=")), "unsupported-image-type", 415, "image")
    is_problem(post("/v1/segment", json={}), "example-count", 422, "no example")
    is_problem(post("/v1/segment", json={"prompt": "any"}), "invalid-request", 422, "image")
    assert post("/v1/segment", json=as_json(files, threshold=None)).status_code == 200


def test_a_body_beyond_the_limit(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", json={"image": "A" * 4_000_001})
    is_problem(answer, "body-too-large", 413, "4000000")


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_content_types_that_are_json(server: RunningServer, content_type: str) -> None:
    body = json.dumps(as_json(form(1)))
    assert server.client.post("/v1/segment", content=body, headers={"Content-Type": content_type}).status_code == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_other_content_types(server: RunningServer, content_type: str) -> None:
    answer = server.client.post("/v1/segment", content=b"{}", headers={"Content-Type": content_type})
    is_problem(answer, "unsupported-media-type", 415, "multipart/form-data", "application/json")


@pytest.mark.anyio
@pytest.mark.parametrize("escape", [b"", b"\\/AAA"])
async def test_the_event_loop_goes_on_while_megabytes_are_decoded(escape: bytes) -> None:
    body = b'{"image": "%b"}' % (b"AAAA" * 12_000_000 + escape + b"AAA=")
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    start = time.perf_counter()
    (part,) = await asyncio.to_thread(json_form.parse, body, PICTURES)
    took = time.perf_counter() - start
    ticking.cancel()
    assert len(part.content) == 36_000_002 + 3 * bool(escape)
    # One call of json.loads or of b64decode would be one gap of about all the time.
    assert len(gaps) > 5
    assert max(gaps) < max(0.25, 0.7 * took)


def test_openapi_says_how_the_form_is_sent_as_json() -> None:
    operation = create_app(Settings()).openapi()["paths"]["/v1/segment"]["post"]
    content = operation["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    schema = content["application/json"]["schema"]
    fields = schema["properties"]
    assert {"image", "prompt_image", "prompt_mask", "threshold", "output"} <= set(fields)
    for place in (fields["image"], fields["prompt_image"]["items"], fields["prompt_mask"]["items"]):
        assert (place["type"], place["format"], place["contentEncoding"]) == ("string", "byte", "base64")
        Image.open(BytesIO(base64.b64decode(place["examples"][0]))).load()
    assert "URL" in fields["image"]["description"]
    assert {"type": "number", "minimum": 0.0, "maximum": 1.0} in fields["threshold"]["anyOf"]
    assert '"format": "binary"' not in json.dumps(schema)
    assert "#/$defs" not in json.dumps(schema)
