"""What `POST /v1/segment/batch` answers: each image as a single request would be, and the failures alone."""

from __future__ import annotations

import base64
import json
import time
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.batches import END, PATH, Field, Sender, body, by_index, example, image, lines, part, post
from tests.app.conftest import RunningServer, encoded, picture, running_server


def single(server: RunningServer, field: Field, accept: str, **data: str) -> httpx.Response:
    files = [(name, (file, content)) for name, file, content in (field, *example())]
    answer = server.client.post("/v1/segment", files=files, data=data, headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    return answer


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "timings_ms"}


def problem(answer: httpx.Response, status: int, slug: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:seggpt:problem:{slug}"
    return str(answer.json()["detail"])


# What is answered.


def test_without_an_output_each_image_gets_the_json_of_a_single_request(server: RunningServer) -> None:
    images = [image(seed) for seed in range(12)]
    items = by_index(post(server, body(*example(), *images)))
    for item, field in zip(items, images, strict=True):
        assert (item["name"], item["status"]) == (field[1], 200)
        wanted = single(server, field, "application/json").json()
        assert without_times(item["segmentation"]) == without_times(wanted)


def test_with_an_output_each_image_gets_the_png_of_a_single_request(server: RunningServer) -> None:
    images = [image(seed) for seed in range(6)]
    for output in ("mask", "overlay"):
        items = by_index(post(server, body(("output", None, output.encode()), *example(), *images)))
        for item, field in zip(items, images, strict=True):
            wanted = single(server, field, "image/png", output=output)
            assert base64.b64decode(item["png"]) == wanted.content
            assert "segmentation" not in item


def test_a_zip_has_each_pictures_png_under_a_safe_name_of_its_own(server: RunningServer) -> None:
    names = ["cat.jpg", "cat.png", "../../etc/passwd", "C:\\pets\\dog.tar.gz", "grüße aus köln.png", "...", ""]
    images = [("image", name, image(seed)[2]) for seed, name in enumerate(names)]
    answer = post(server, body(*example(), *images), "application/zip")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        found = sorted(archive.namelist())
        assert found == [
            "0001-cat.png",
            "0002-cat.png",
            "0003-passwd.png",
            "0004-dog.tar.png",
            "0005-grüße_aus_köln.png",
            "0006-image.png",
            "0007-image.png",
        ]
        for name, field in zip(found, images, strict=True):
            wanted = single(server, ("image", "a.png", field[2]), "image/png")
            assert archive.read(name) == wanted.content
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o644}, "nobody could read them"


def test_a_zip_says_which_pictures_failed(server: RunningServer) -> None:
    answer = post(server, body(*example(), image(0), ("image", "bad.png", b"not a picture")), "application/zip")
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        assert sorted(archive.namelist()) == ["0001-0.png", "errors.ndjson"]
        failure, last = map(json.loads, archive.read("errors.ndjson").splitlines())
    assert (failure["index"], failure["name"], failure["status"]) == (1, "bad.png", 415)
    assert last == {"done": True, "images": 2, "failed": 1}


def test_one_bad_picture_fails_alone(server: RunningServer) -> None:
    counter = 'seggpt_rejected_total{reason="undecodable-image"}'
    post(server, body(*example(), ("image", "cut.png", encoded(picture(1))[:200])))
    before = server.metric(counter)
    cut = encoded(picture(1))[:200]
    big = b"x" * 4_000_001
    bad = [("image", "cut.png", cut), ("image", "big.png", big), ("image", None, b"text")]
    fields = [image(0), bad[0], image(2), bad[1], bad[2], image(5)]
    items = by_index(post(server, body(*example(), *fields)))
    assert [item["status"] for item in items] == [200, 422, 200, 413, 422, 200]
    assert [item["name"] for item in items] == ["0.png", "cut.png", "2.png", "big.png", None, "5.png"]
    slugs = [item["problem"]["type"].rpartition(":")[2] for item in items if item["status"] != 200]
    assert slugs == ["undecodable-image", "body-too-large", "invalid-request"]
    failure = items[1]["problem"]
    assert failure.keys() == {"type", "title", "status", "detail", "instance", "field"}
    assert failure["instance"].endswith("#1")
    assert server.metric(counter) == before + 1


def test_answers_are_counted_and_logged_with_the_request(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        server.wait_until_ready()
        post(server, body(*example(), image(0), image(1), ("image", "bad.png", b"")))
        assert server.metric('seggpt_stage_seconds_count{stage="forward"}') == 2
        assert server.metric("seggpt_bytes_in_flight") == 0
        logged = [json.loads(line) for line in server.log.read_text().splitlines()]
        (line,) = [line for line in logged if line.get("path") == PATH]
        assert (line["images"], line["failed"], line["status"]) == (3, 1, 200)


def test_lines_come_while_the_request_is_still_being_sent(server: RunningServer) -> None:
    boundary = b"--frontier\r\n"
    with Sender(server) as sender:
        sender.send(*example())
        for seed in range(3):  # a slow sender: this image in pieces, and the next only when this one is answered
            content = part(*image(seed)).removeprefix(boundary if seed else b"")
            sender.send_raw(content[:100])
            time.sleep(0.05)
            sender.send_raw(content[100:] + boundary[:6])
            time.sleep(0.05)
            sender.send_raw(boundary[6:])
            assert sender.read_line()["index"] == seed
        sender.send_raw(part("image", "", b"").removeprefix(boundary) + END)
        failure, last = sender.read_line(), sender.read_line()
        assert (failure["index"], failure["name"], failure["status"]) == (3, None, 422)
        assert last == {"done": True, "images": 4, "failed": 1}


# What is refused.


@pytest.mark.parametrize(
    ("content", "status", "slug", "says"),
    [
        (body(image(0)), 422, "example-count", "no example"),
        (body(image(0), *example()), 422, "example-count", ""),
        (body(*example()), 422, "invalid-request", "image"),
        (END, 422, "example-count", "no example"),
        (body(*example(), ("threshold", None, b"2"), image(0)), 422, "invalid-request", "threshold"),
        (body(*example(), ("colour", None, b"2"), image(0)), 422, "invalid-request", "colour"),
        (body(*example(), ("tile", None, b"1"), image(0)), 422, "invalid-request", "tile"),
        (body(*example(), ("label", None, b"cow"), image(0)), 422, "invalid-request", "cow"),
        (body(("prompt", None, b"nobody"), image(0)), 404, "prompt-not-found", "nobody"),
        (body(example()[0], ("prompt_mask", "a", b"x"), image(0)), 415, "unsupported-image-type", "prompt_mask[0]"),
        (body(example()[0], image(0)), 422, "example-count", "0 prompt masks"),
        (body(("prompt_image", "a", b"x" * 4_000_001), example()[1], image(0)), 413, "body-too-large", "first image"),
        (b"nonsense", 400, "malformed-multipart", "well-formed"),
        (part(*example()[0]), 400, "malformed-multipart", "boundary"),
    ],
    ids=range(14),
)
def test_what_is_wrong_before_the_first_image_is_the_answer(
    server: RunningServer, content: bytes, status: int, slug: str, says: str
) -> None:
    assert says in problem(post(server, content), status, slug)
    assert server.metric("seggpt_bytes_in_flight") == 0


def test_only_forms_are_read_and_only_lines_and_zips_are_written(server: RunningServer) -> None:
    answer = httpx.post(server.url + PATH, json={"image": "", "prompt": "a"})
    assert "multipart/form-data" in problem(answer, 415, "unsupported-media-type")
    content = body(*example(), image(0))
    assert "application/zip" in problem(post(server, content, "image/png"), 406, "not-acceptable")
    assert lines(post(server, content, "image/png, application/*;q=0.5"))[-1]["done"]


@pytest.mark.parametrize("late", [("threshold", None, b"0.3"), example()[0], ("colour", None, b"1")])
def test_a_field_behind_the_first_image_ends_the_batch_and_says_why(server: RunningServer, late: Field) -> None:
    *items, last = lines(post(server, body(*example(), image(0), image(1), late, image(2))))
    assert sorted(item["index"] for item in items) == [0, 1]
    assert {item["status"] for item in items} == {200}
    assert (last["done"], last["images"], last["failed"], last["status"]) == (False, 2, 0, 422)
    assert last["problem"]["type"] == "urn:seggpt:problem:invalid-request"
    assert "before the images" in last["problem"]["detail"]


@pytest.mark.parametrize(
    "end", [b"--frontier\r\n", b"--frontier\r\nno header\r\n\r\n", b"--frontier\r\n\r\nnameless\r\n" + END]
)
def test_what_came_before_a_fault_in_the_form_is_answered(server: RunningServer, end: bytes) -> None:
    content = body(*example(), image(0), image(1)).removesuffix(END) + end
    *items, last = lines(post(server, content))
    assert sorted(item["index"] for item in items) == [0, 1]
    assert {item["status"] for item in items} == {200}
    assert (last["done"], last["status"]) == (False, 400)
    assert last["problem"]["type"] == "urn:seggpt:problem:malformed-multipart"


def test_a_batch_has_limits(tiny_folder: Path, tmp_path: Path) -> None:
    limits = {"max_batch_images": 3, "max_batch_bytes": 200_000, "max_body_bytes": 100_000}
    with running_server(tmp_path / "log", checkpoint=tiny_folder, **limits) as server:
        server.wait_until_ready()
        *items, last = lines(post(server, body(*example(), *(image(seed) for seed in range(5)))))
        assert sorted(item["index"] for item in items) == [0, 1, 2]
        assert (last["done"], last["images"], last["status"]) == (False, 3, 422)
        assert "3" in last["problem"]["detail"]

        heavy = body(*example(), image(0), image(1), ("image", "a", b"x" * 90_000), ("image", "b", b"x" * 90_000))
        assert len(heavy) > limits["max_batch_bytes"]
        problem(post(server, heavy), 413, "body-too-large")
        *items, last = lines(post(server, iter([heavy[:100_000], heavy[100_000:]])))  # without Content-Length
        assert [item["status"] for item in sorted(items, key=lambda item: item["index"])][:2] == [200, 200]
        assert (last["done"], last["status"]) == (False, 413)
        assert server.metric("seggpt_bytes_in_flight") == 0


def test_a_batch_may_begin_with_a_url_which_fails_alone(server: RunningServer) -> None:
    items = by_index(post(server, body(*example(), ("image", None, b"http://images.example.com/0.png"), image(1))))
    assert [item["status"] for item in items] == [422, 200]
    assert items[0]["problem"]["type"] == "urn:seggpt:problem:url-not-allowed"
