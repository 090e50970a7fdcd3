"""Forms in memory: what clients send is read exactly, and what is not a form is refused."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import MalformedMultipart
from app.routes.multipart import MOST_PARTS, MOST_TEXT_BYTES, Part, boundary_of, parse

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters='"\\'), min_size=1)
END = b"--a--\r\n"


def part(content: bytes, head: bytes = b'Content-Disposition: form-data; name="x"; filename="f"') -> bytes:
    return b"--a\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


@given(st.lists(st.tuples(NAMES, NAMES, st.binary(max_size=300)), min_size=1, max_size=5))
def test_what_a_real_client_sends_is_read_as_it_was_meant(files: list[tuple[str, str, bytes]]) -> None:
    request = httpx.Request("POST", "http://a", files=[(name, (file, content)) for name, file, content in files])
    parts = parse(request.read(), boundary_of(request.headers["content-type"]))
    assert [(one.name, one.filename, one.content) for one in parts] == files


def test_texts_and_files_are_told_apart_by_the_filename() -> None:
    request = httpx.Request("POST", "http://a", data={"threshold": "0.5"}, files={"image": ("", b"1", "image/png")})
    text, file = parse(request.read(), boundary_of(request.headers["content-type"]))
    assert text == Part("threshold", None, b"0.5")
    assert (file.name, file.content) == ("image", b"1")


@given(st.binary(max_size=400))
def test_any_bytes_come_through_unless_they_are_the_boundary(content: bytes) -> None:
    content = content.replace(b"--a", b"")
    assert parse(part(content) + END, b"a") == [Part("x", "f", content)]


@pytest.mark.parametrize(
    "content", [b"", b"\r\n", b"\r\n\r\n", b"-", b"\r\n--", b"\r\n--b\r\n", b"\r\n--ab", b"\n--a\n"]
)
def test_what_only_looks_like_a_boundary_is_content(content: bytes) -> None:
    assert parse(part(content) + END, b"a") == [Part("x", "f", content)]


def test_what_stands_after_the_last_boundary_is_dropped() -> None:
    assert parse(part(b"1") + END + b"an epilogue", b"a") == [Part("x", "f", b"1")]
    assert parse(part(b"1") + b"--a--", b"a") == [Part("x", "f", b"1")]


def test_an_empty_form_has_no_parts() -> None:
    assert parse(END, b"a") == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not well-formed"),
        (b"no boundary here", "not well-formed"),
        (b"--b\r\n", "not well-formed"),
        (b"--ab", "not well-formed"),
        (b"--a", "not well-formed"),
        (part(b"1"), "not well-formed"),
        (part(b"1") + b"--a\r\n", "not well-formed"),
        (b"--a\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, "name"),
        (b'--a\r\nContent-Disposition: form-data; name="x"\r\n' + END, "not well-formed"),
        (b"--a\r\n\r\nx\r\n" + END, "name"),
        (
            part(b"1", b'Content-Disposition: form-data; name="x"\r\nnonsense') + END,
            "not well-formed",
        ),
        (
            part(b"1", b'Content-Disposition: form-data; name="x"\r\nX: ' + b"x" * 9000) + END,
            "not well-formed",
        ),
        (part(b"1", b'Content-Disposition: form-data; name="x"') * (MOST_PARTS + 1) + END, "parts"),
        (part(b"x" * (MOST_TEXT_BYTES + 1), b'Content-Disposition: form-data; name="x"') + END, "text field"),
    ],
)
def test_what_is_no_form_is_refused_with_a_reason(body: bytes, why: str) -> None:
    with pytest.raises(MalformedMultipart, match=why):
        parse(body, b"a")


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 200))
def test_damage_never_raises_anything_else(noise: bytes, start: int, end: int) -> None:
    whole = part(b"12") + part(b"34", b'Content-Disposition: form-data; name="y"') + END
    with contextlib.suppress(MalformedMultipart):
        parse(whole[:start] + noise + whole[end:], b"a")


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", ""])
def test_a_form_without_a_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(MalformedMultipart, match="no boundary"):
        boundary_of(content_type)
