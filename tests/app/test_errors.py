"""Problem types: stable, distinct, documented."""

import json
from pathlib import Path

import pytest

from app.errors import (
    CONTENT_TYPE,
    PROBLEMS,
    BodyTooLarge,
    EmptyMask,
    MethodNotAllowed,
    NotReady,
    Problem,
    QueueFull,
    TryAgainLater,
)

DOCS = Path(__file__).parents[2] / "docs" / "errors.md"


def all_subclasses(cls: type[Problem]) -> set[type[Problem]]:
    found = {*cls.__subclasses__()}
    return found.union(*(all_subclasses(child) for child in found))


def row(problem: type[Problem]) -> str:
    """The problem's line in docs/errors.md."""
    assert problem.__doc__
    retry = "yes" if issubclass(problem, TryAgainLater) else "-"
    return f"| `{problem.slug}` | {problem.status} | {problem.title} | {retry} | {problem.__doc__} |"


def test_every_concrete_problem_is_registered_and_every_slug_is_its_own() -> None:
    concrete = {cls for cls in all_subclasses(Problem) if "slug" in vars(cls)}
    assert concrete == set(PROBLEMS.values())
    assert all(slug == cls.slug for slug, cls in PROBLEMS.items())


def test_the_stable_types_and_their_statuses_do_not_change() -> None:
    assert {slug: cls.status for slug, cls in PROBLEMS.items()} == {
        "malformed-multipart": 400,
        "malformed-json": 400,
        "not-found": 404,
        "prompt-not-found": 404,
        "method-not-allowed": 405,
        "not-acceptable": 406,
        "name-taken": 409,
        "body-too-large": 413,
        "unsupported-media-type": 415,
        "unsupported-image-type": 415,
        "invalid-request": 422,
        "undecodable-image": 422,
        "image-too-large": 422,
        "example-count": 422,
        "invalid-labels": 422,
        "too-many-tiles": 422,
        "invalid-tuned-prompt": 422,
        "other-checkpoint": 422,
        "url-not-allowed": 422,
        "url-unreachable": 422,
        "mask-aspect": 422,
        "empty-mask": 422,
        "queue-full": 429,
        "too-many-bytes-in-flight": 429,
        "internal": 500,
        "prompt-damaged": 500,
        "draining": 503,
        "not-ready": 503,
        "worker-lost": 503,
        "prompt-store-unavailable": 503,
        "out-of-memory": 503,
        "deadline-exceeded": 504,
    }


def test_a_body_has_the_standard_members_and_the_extra_ones() -> None:
    problem = BodyTooLarge("got 70 bytes; allowed are 64", limit=64, got=70)
    assert CONTENT_TYPE == "application/problem+json"
    assert json.loads(json.dumps(problem.to_body("/v1/segment"))) == {
        "type": "urn:seggpt:problem:body-too-large",
        "title": "The request body is too large",
        "status": 413,
        "detail": "got 70 bytes; allowed are 64",
        "instance": "/v1/segment",
        "limit": 64,
        "got": 70,
    }


def test_a_problem_of_a_picture_names_its_form_field() -> None:
    body = EmptyMask("got no foreground pixel", field="prompt_mask[1]").to_body("/")
    assert body["field"] == "prompt_mask[1]"
    assert body["detail"] == "prompt_mask[1]: got no foreground pixel"


def test_an_extra_member_cannot_hide_a_standard_one() -> None:
    with pytest.raises(ValueError, match="standard members"):
        BodyTooLarge("too large", status=200)


@pytest.mark.parametrize(("seconds", "header"), [(0, "1"), (0.2, "1"), (1, "1"), (1.2, "2"), (7, "7")])
def test_retry_after_is_whole_seconds_and_at_least_one(seconds: float, header: str) -> None:
    assert QueueFull("full", retry_after_s=seconds).headers == {"Retry-After": header}


def test_every_problem_that_passes_says_when_to_come_back() -> None:
    for cls in PROBLEMS.values():
        if issubclass(cls, TryAgainLater):
            assert int(cls("later").headers["Retry-After"]) >= 1
    assert NotReady("warming up", headers={"X-Worker": "0"}).headers == {"X-Worker": "0", "Retry-After": "5"}


def test_headers_are_kept() -> None:
    assert MethodNotAllowed("got PUT", headers={"Allow": "GET"}).headers == {"Allow": "GET"}


def test_the_docs_list_every_problem_as_it_is() -> None:
    documented = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert documented == [row(problem) for problem in PROBLEMS.values()]


def test_the_tree_in_the_module_docstring_has_every_problem() -> None:
    from app import errors

    assert errors.__doc__
    for slug, cls in PROBLEMS.items():
        lines = [line for line in errors.__doc__.splitlines() if line.endswith(f" {cls.status} {slug}")]
        assert len(lines) == 1
        assert cls.__name__ in lines[0]
