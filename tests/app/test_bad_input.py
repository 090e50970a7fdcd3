"""Every way in which a request can be wrong: its problem type, its words, and never a 500."""

from __future__ import annotations

import socket

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.app.conftest import RunningServer, disc, encoded, form, picture

Files = list[tuple[str, tuple[str, bytes, str]]]


def is_problem(answer: httpx.Response, slug: str, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:seggpt:problem:{slug}"
    assert body["status"] == status
    for word in words:
        assert word in body["detail"]
    assert ("retry-after" in answer.headers) == (status in {429, 503})


def with_file(index: int, content: bytes) -> Files:
    files = form(1)
    name, (filename, _, kind) = files[index]
    files[index] = (name, (filename, content, kind))
    return files


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(
    ("content", "slug", "status", "word"),
    [
        (b"", "undecodable-image", 422, "empty"),
        (b"GIF89a not really", "unsupported-image-type", 415, "JPEG, PNG, WebP, BMP, TIFF"),
        (b"hello", "unsupported-image-type", 415, "JPEG, PNG, WebP, BMP, TIFF"),
        (encoded(picture(0))[:-200], "undecodable-image", 422, "cut short"),
        (encoded(picture(0), "JPEG")[:300], "undecodable-image", 422, "cut short"),
        (encoded(Image.new("1", (2000, 1001))), "image-too-large", 422, "2002000"),
        (encoded(Image.new("1", (20000, 2))), "image-too-large", 422, "16384"),
    ],
)
def test_a_file_that_is_no_usable_picture(
    server: RunningServer, index: int, content: bytes, slug: str, status: int, word: str
) -> None:
    field = ("image", "prompt_image[0]", "prompt_mask[0]")[index]
    answer = server.client.post("/v1/segment", files=with_file(index, content))
    is_problem(answer, slug, status, field, word)


def test_a_file_of_several_frames(server: RunningServer) -> None:
    content = encoded(picture(0), "TIFF", save_all=True, append_images=[picture(1)])
    answer = server.client.post("/v1/segment", files=with_file(0, content))
    is_problem(answer, "unsupported-image-type", 415, "several")


def test_a_mask_of_another_aspect(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", files=with_file(2, encoded(disc((90, 90)))))
    is_problem(answer, "mask-aspect", 422, "prompt_mask[0]", "90x90", "120x90")


def test_a_mask_without_foreground(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", files=with_file(2, encoded(Image.new("L", (120, 90)))))
    is_problem(answer, "empty-mask", 422, "prompt_mask[0]")


def test_a_mask_whose_foreground_vanishes_at_the_network_s_size(server: RunningServer) -> None:
    speck = Image.new("L", (1200, 900))
    speck.putpixel((1, 1), 255)
    answer = server.client.post("/v1/segment", files=with_file(2, encoded(speck)))
    is_problem(answer, "empty-mask", 422, "prompt_mask[0]", "64x48")


@pytest.mark.parametrize(
    ("missing", "slug", "said"),
    [
        ("image", "invalid-request", "image"),
        ("prompt_image", "example-count", "0 prompt images and 1 prompt masks"),
        ("prompt_mask", "example-count", "1 prompt images and 0 prompt masks"),
    ],
)
def test_a_missing_field(server: RunningServer, missing: str, slug: str, said: str) -> None:
    files = [entry for entry in form(1) if entry[0] != missing]
    is_problem(server.client.post("/v1/segment", files=files), slug, 422, said)


def test_nothing_to_look_for(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", files=form(1)[:1])
    is_problem(answer, "example-count", 422, "no example", "prompt")


def test_a_mask_too_few(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", files=form(1, examples=2)[:-1])
    is_problem(answer, "example-count", 422, "2 prompt images and 1 prompt masks")


def test_too_many_examples(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", files=form(1, examples=17))
    is_problem(answer, "example-count", 422, "17", "16")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", "1.01"),
        ("threshold", "-1"),
        ("threshold", "nan"),
        ("threshold", "half"),
        ("embedding_type", "panoptic"),
        ("output", "jpeg"),
    ],
)
def test_a_value_that_is_not_allowed(server: RunningServer, field: str, value: str) -> None:
    answer = server.client.post("/v1/segment", files=form(1), data={field: value})
    is_problem(answer, "invalid-request", 422, field, value)


def test_a_misspelt_field_is_named(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", files=form(1), data={"treshold": "0.4"})
    is_problem(answer, "invalid-request", 422, "treshold", "threshold")


def test_a_field_given_twice(server: RunningServer) -> None:
    files = form(1)
    is_problem(server.client.post("/v1/segment", files=[*files, files[0]]), "invalid-request", 422, "2", "image")


def test_text_where_a_file_belongs(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", files=form(1)[1:], data={"image": "street.jpg"})
    is_problem(answer, "invalid-request", 422, "image")


def test_a_body_that_is_neither_multipart_nor_json(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", content=b"image=street.jpg", headers={"Content-Type": "text/plain"})
    is_problem(answer, "unsupported-media-type", 415, "text/plain", "multipart/form-data", "application/json")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=a", b"no boundary here"),
        ("multipart/form-data; boundary=a", b"--a\r\nContent-Disposition: form-data\r\n\r\nx\r\n--a--\r\n"),
    ],
)
def test_a_body_that_is_malformed_multipart(server: RunningServer, content_type: str, body: bytes) -> None:
    answer = server.client.post("/v1/segment", content=body, headers={"Content-Type": content_type})
    is_problem(answer, "malformed-multipart", 400)


def test_a_body_that_declares_too_many_bytes(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", files=with_file(0, b"x" * 4_000_001))
    is_problem(answer, "body-too-large", 413, "4000000")
    counted = server.client.get("/metrics").text
    assert 'seggpt_requests_total{route="/v1/segment",status="413"}' in counted
    assert 'route="unmatched",status="413"' not in counted


def test_a_body_that_streams_too_many_bytes(server: RunningServer) -> None:
    def stream() -> object:
        yield b'--a\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 65536

    answer = server.client.post(
        "/v1/segment", content=stream(), headers={"Content-Type": "multipart/form-data; boundary=a"}
    )
    is_problem(answer, "body-too-large", 413, "4000000")


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(server: RunningServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=a\r\n"
            b"Content-Length: 5000\r\n\r\n--a\r\n"
        )
    assert server.client.post("/v1/segment", files=form(1)).status_code == 200
    assert server.metric("seggpt_bytes_in_flight") == 0


def test_an_unknown_path(server: RunningServer) -> None:
    is_problem(server.client.get("/v2/segment"), "not-found", 404, "/v2/segment")


def test_a_method_that_a_path_does_not_have(server: RunningServer) -> None:
    answer = server.client.get("/v1/segment")
    is_problem(answer, "method-not-allowed", 405, "GET", "POST")
    assert answer.headers["allow"] == "POST"


SEEDS = [encoded(picture(0)), encoded(picture(0), "JPEG"), encoded(picture(0), "WEBP"), encoded(picture(0), "TIFF")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_are_never_a_500(server: RunningServer, data: st.DataObject) -> None:
    content = np.frombuffer(data.draw(st.sampled_from(SEEDS)), np.uint8).copy()
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, min(400, len(content)) - 1), st.integers(0, 255)), max_size=8)
    ):
        content[position] = value
    index = data.draw(st.integers(0, 2))
    answer = server.client.post("/v1/segment", files=with_file(index, content.tobytes()))
    assert answer.status_code in {200, 415, 422}
    if answer.status_code != 200:
        assert answer.json()["type"].startswith("urn:seggpt:problem:")
