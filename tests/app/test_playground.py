"""The playground's files: whole, typed, revalidated, shut to all that is outside. What they do: tests/browser."""

from __future__ import annotations

import re

import pytest

from app.routes.playground import STATIC
from tests.app.conftest import RunningServer

TYPES = {
    ".html": {"text/html; charset=utf-8"},
    ".css": {"text/css; charset=utf-8"},
    ".js": {"text/javascript; charset=utf-8", "application/javascript"},
    ".svg": {"image/svg+xml"},
    ".jpg": {"image/jpeg"},
    ".png": {"image/png"},
}


def test_the_page_is_at_the_root_and_not_in_the_interface(server: RunningServer) -> None:
    answer = server.client.get("/")
    assert answer.status_code == 200
    assert answer.text == (STATIC / "index.html").read_text()
    assert not {"/", "/static/{name}"} & server.client.get("/openapi.json").json()["paths"].keys()


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir()))
def test_a_file_has_its_type_and_is_sent_once(server: RunningServer, name: str) -> None:
    answer = server.client.get(f"/static/{name}")
    assert answer.content == (STATIC / name).read_bytes()
    assert answer.headers["content-type"] in TYPES[(STATIC / name).suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    again = server.client.get(f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_policy_allows_this_service_alone_and_nothing_inline(server: RunningServer) -> None:
    policy = server.client.get("/").headers["content-security-policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == "'self'"
    assert {source for sources in directives.values() for source in sources.split()} <= {
        "'none'",
        "'self'",
        "blob:",
        "data:",
    }


@pytest.mark.parametrize("name", ["missing.js", "..%2Fmain.py", "%2e%2e/main.py", "..%2f..%2fpyproject.toml"])
def test_nothing_else_is_served(server: RunningServer, name: str) -> None:
    answer = server.client.get(f"/static/{name}")
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:seggpt:problem:not-found"


def test_the_files_load_only_each_other() -> None:
    present = {path.name for path in STATIC.iterdir()}
    for path in [*STATIC.glob("*.html"), *STATIC.glob("*.js"), *STATIC.glob("*.css")]:
        text = path.read_text()
        loaded = re.findall(r'(?:src|href)="static/([^"]+)"|from "\./([^"]+)"|url\(([^)]*)\)', text)
        assert {one for names in loaded for one in names if one} <= present, path.name
        assert not re.search(r'(?:src=|@import|from )"?https?:', text), path.name
