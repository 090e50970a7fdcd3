"""JSON bodies that are wrong: each a clean 400 that says what is wrong, and where."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import MalformedJson
from app.routes import json_form
from app.routes.forms import PICTURES
from tests.app.conftest import RunningServer
from tests.app.test_bad_input import is_problem


def parse(body: bytes) -> None:
    json_form.parse(body, PICTURES)


MALFORMED = [
    (b"", "", "Expecting value"),
    (b"{", "", "Expecting property name"),
    (b'{"image": "a', "", "Unterminated string"),
    (b'{"image": "' + b"a" * 5000, "", "Unterminated string"),
    (b'{"image": "' + b"a" * 5000 + b'\\"}', "", "Unterminated string"),
    (b'{"image": "' + b"a" * 5000 + b'" "x"}', "", "delimiter"),
    (b"[]", "", "object"),
    (b'"text"', "", "object"),
    (b"null", "", "object"),
    (b'{"a": 1} {"b": 2}', "", "Extra data"),
    (b"{'a': 1}", "", "double quotes"),
    (b'\xef\xbb\xbf{"a": 1}', "", "BOM"),
    ('{"a": "é"}'.encode("latin-1"), "", "utf-8"),
    ('{"a": 1}'.encode("utf-16"), "", "utf-8"),
    (b'{"a": "\x00"}', "", "control character"),
    (b'{"a": "line\nline"}', "", "control character"),
    (b'{"a": 1, "a": 2}', "", "'a' is there twice"),
    (b'{"image": "", "\\u0069mage": ""}', "", "'image' is there twice"),
    (b'{"labels": [{"name": "a", "name": "b"}]}', "", "'name' is there twice"),
    (b'{"threshold": NaN}', "", "NaN"),
    (b'{"threshold": -Infinity}', "", "Infinity"),
    (b'{"threshold": 1' + b"0" * 5000 + b"}", "", "5001 characters"),
    (b'{"labels": [1e999]}', "labels", "JSON compliant"),
    (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "", "nested too deeply"),
    (b'{"labels": ' + b"[" * 900 + b"]" * 900 + b"}", "labels", "recursion"),
    (b'{"a": ' * 40_000, "", "nested too deeply"),
    (b'{"a": "\\ud800"}', "a", "surrogates"),
    (b'{"\\ud800": 1}', "", "surrogates"),
    (b'{"a": "\\x"}', "", "escape"),
    (b'{"' + b"a" * 5000 + b'": 1}', "", "a name has more than"),
    (b'{"name": "' + b"a" * 2_000_000 + b'"}', "name", "more than 1048576 bytes"),
    (b'{"a": [' + b"1," * 600_000 + b"1]}", "", "more than 1048576 bytes"),
    (b'{"a": [' + b"1," * 1000 + b"1]}", "", "more than 1000 values"),
    (b"[" + b'"",' * 60_000 + b'""]', "", "more than 100000 quotes"),
    (b'{"a": "' + b'\\"' * 200_000 + b'"}', "", "more than 100000 quotes"),
    (b'{"a": "' + b"\\" * 200_000 + b'"}', "", "backslashes in a row"),
    (b'{"threshold": {"a": 1}}', "threshold", "got an object"),
    (b'{"threshold": [[1]]}', "threshold[0]", "got a list"),
    (b'{"prompt": ["a", null]}', "prompt[1]", "got null"),
    (b'{"image": 5}', "image", "got a number"),
    (b'{"image": true}', "image", "got true or false"),
    (b'{"image": {"base64": ""}}', "image", "got an object"),
    (b'{"prompt_mask": ["", null]}', "prompt_mask[1]", "got null"),
    (b'{"image": "street.jpg"}', "image", "neither base64 nor a URL"),
    (b'{"image": "ftp://a/b"}', "image", "neither base64 nor a URL"),
    (b'{"prompt_image": ["", "AAA$"]}', "prompt_image[1]", "neither base64 nor a URL"),
    (b'{"image": "A"}', "image", "length"),
    (b'{"image": "AAAAA"}', "image", "length"),
    (b'{"image": "AA=A"}', "image", "neither base64"),
    (b'{"image": "AA==AAAA"}', "image", "neither base64"),
    (b'{"image": "AA==A"}', "image", "length"),
    (b'{"image": "A==="}', "image", "neither base64"),
    (b'{"image": "AAAA===="}', "image", "neither base64"),
    (b'{"image": "AAAA=="}', "image", "neither base64"),
    (b'{"image": "AAAAAA=="}{', "", "Extra data"),
    (b'{"image": "===="}', "image", "neither base64"),
    ('{"image": "AAé="}'.encode(), "image", "neither base64"),
    (b'{"image": "AA\\\\nAA"}', "image", "neither base64"),
    (b'{"image": "' + b"A" * 5000 + b'\\\\nAAA"}', "image", "neither base64"),
    (b'{"image": "' + b"A" * 5000 + b'\n"}', "image", "neither base64"),
    (b'{"image": "' + b"A" * 300_000 + b"$" + b"A" * 300_000 + b'"}', "image", "neither base64"),
    (b'{"image": "AA==' + b" " * 300_000 + b'AAAA"}', "image", "behind its padding"),
    (b'{"image": "' + b"A" * 400_000 + b"\\u00", "", "escape"),
    (b'{"image": "' + b"A" * 400_000 + b'\\u00"}', "image", "neither base64"),
    (b'{"image": "data:image/png,rawbytes"}', "image", "data: URL that is not base64"),
    (b'{"image": "data:image/png;base64"}', "image", "data: URL that is not base64"),
    (b'{"image": "data:' + b"a" * 3000 + b';base64,AAAA"}', "image", "data: URL that is not base64"),
]


@pytest.mark.parametrize(("body", "field", "words"), MALFORMED, ids=[str(index) for index in range(len(MALFORMED))])
def test_a_body_that_is_malformed(body: bytes, field: str, words: str) -> None:
    with pytest.raises(MalformedJson) as caught:
        parse(body)
    assert words in caught.value.detail
    assert caught.value.extra.get("field", "") == field
    assert len(caught.value.detail) < 500


def test_every_malformed_body_is_a_400_of_the_service(server: RunningServer) -> None:
    for body, field, words in MALFORMED:
        answer = server.client.post("/v1/segment", content=body, headers={"Content-Type": "application/json"})
        is_problem(answer, "malformed-json", 400, words)
        assert answer.json().get("field", "") == field


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda some: st.lists(some) | st.dictionaries(st.text(), some),
    )
)
def test_no_json_at_all_surprises_the_parser(value: object) -> None:
    for body in (value, {"image": value}, {"labels": value}, {"x": [value]}):
        with contextlib.suppress(MalformedJson):
            parse(json.dumps(body).encode())


@given(st.binary(max_size=200))
def test_no_bytes_at_all_surprise_the_parser(noise: bytes) -> None:
    for body in (noise, b'{"image": "' + noise + b'"}', b'{"image": "' + b"A" * 2000 + noise + b'"}'):
        with contextlib.suppress(MalformedJson):
            parse(body)
