"""Questions as data: which request asks them, and how their answer is read. Sends nothing, so both clients share it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from app.client.answers import Health, Model, Png, Prompt, Segmentation, parsed
from app.client.errors import UnexpectedAnswerError, problem_error
from app.client.pictures import File, Picture, to_file

Value = TypeVar("Value")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Part = tuple[str, tuple[str | None, str | bytes]]
"""A form field as httpx takes it: name, (file name or None, content)."""

Example = tuple[Picture, Picture]
"""A prompt image and its prompt mask."""

TunedFile = str | os.PathLike[str] | bytes
"""What `seggpt tune` wrote: a path, or the file's bytes."""

JSON: Final = "application/json"
PNG: Final = "image/png"
SEGMENT: Final = "/v1/segment"
PROMPTS: Final = "/v1/prompts"
_LAST_PORT: Final = 65535


class SegmentOptions(TypedDict, total=False):
    """What can be said about a segmentation; docs/api.md tells more. What is left out is the service's default.

    Attributes:
        examples: (prompt image, prompt mask) pairs, sent along.
        prompt: ids or names of registered prompts; each is a concept of its own, examples are one more.
        mask_kind: how the masks of `examples` show classes.
        labels: the classes of `examples`: names, or objects {"name", "index", "colour"}.
        embedding_type: this one thing, or everything of its kind.
        ensemble: how several examples become one answer.
        threshold: 0 to 1; lower finds more.
        output: what the PNG shows; of no effect with `json`.
        label: the name of the class that `mask` and `soft` show, of several.
        instances: part each class into its connected objects.
        min_area: least pixels of a segment.
        tolerance: pixels by which polygons may miss the outline.
        tile: "auto" or "WxH": look at large pictures piece by piece.
        upsampling: the network's pixels as they are, or smooth edges.
    """

    examples: Sequence[Example]
    prompt: str | Prompt | Sequence[str | Prompt]
    mask_kind: Literal["binary", "index", "colour"]
    labels: Sequence[str | Mapping[str, Any]]
    embedding_type: Literal["instance", "semantic"]
    ensemble: Literal["feature", "spatial"]
    threshold: float
    output: Literal["mask", "soft", "overlay", "index", "colour"]
    label: str
    instances: bool
    min_area: int
    tolerance: float
    tile: str
    upsampling: Literal["nearest", "bilinear"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read whole."""

    status: int
    content_type: str
    retry_after: str | None
    body: bytes

    def checked(self, content_type: str) -> bytes:
        """The body.

        Raises:
            ProblemError: the status is 400 or more.
            UnexpectedAnswerError: it is something else than was asked for.
        """
        check_status(self.status, self.retry_after, self.body)
        got = media_type(self.content_type)
        if got != content_type:
            raise UnexpectedAnswerError(f"got status {self.status} and {got or 'no type'}; expected {content_type}")
        return self.body


DONE: Final = Answer(204, "", None, b"")


def answer(response: httpx.Response, body: bytes) -> Answer:
    """Of a response whose body was read."""
    return Answer(
        response.status_code, response.headers.get("content-type", ""), response.headers.get("retry-after"), body
    )


def default(kind: type[Http]) -> Http:
    """An HTTP client that heeds the environment's proxies and certificates.

    Raises:
        ValueError: a proxy cannot be used.
        OSError: certificates cannot be read.
    """
    try:
        return kind()
    except ImportError as error:  # SOCKS needs a package of its own
        raise ValueError(f"a proxy of the environment: {error}") from error


def address(url: str) -> str:
    """Check a service's address and cut what joins badly.

    Raises:
        ValueError: it is none of http or https.
    """
    try:
        parsed_url = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"got {url!r} for the service's address: {error}") from error
    if parsed_url.scheme not in {"http", "https"} or not parsed_url.host or (parsed_url.port or 0) > _LAST_PORT:
        raise ValueError(f"got {url!r} for the service's address; allowed is one such as http://127.0.0.1:8000")
    return url.rstrip("/")


@dataclass(frozen=True, slots=True)
class Call(Generic[Value]):
    """One question.

    Args:
        method: HTTP's.
        path: below the service's address, escaped.
        read: makes a value of the answer or raises.
        accept: the media type that is wanted.
        parts: a multipart form; empty for none.
        body: a JSON body; None for none.
        params: the query.
        is_repeated: whether to try again when the service is busy or cannot be reached.
    """

    method: str
    path: str
    read: Callable[[Answer], Value]
    accept: str = JSON
    parts: tuple[Part, ...] = ()
    body: Mapping[str, Any] | None = None
    params: Mapping[str, str] | None = None
    is_repeated: bool = True

    def arguments(self) -> dict[str, Any]:
        """For httpx's `build_request`."""
        return {
            "method": self.method,
            "headers": {"Accept": self.accept},
            "files": list(self.parts) or None,
            "json": self.body,
            "params": self.params,
        }


def check_status(status: int, retry_after: str | None, body: bytes) -> None:
    """Raise what a status of 300 or more means.

    Raises:
        ProblemError: 400 or more.
        UnexpectedAnswerError: it leads elsewhere; the address is not the service's own.
    """
    if status >= 400:
        raise problem_error(status, body, retry_after)
    if status >= 300:
        raise UnexpectedAnswerError(f"got a redirect ({status}); use the address that it leads to")


def media_type(content_type: str) -> str:
    """Without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


# Segmentation.


def segment(image: Picture, as_json: bool, options: SegmentOptions) -> Call[Png | Segmentation]:
    """Mark in `image` what the examples or prompts mark.

    Raises:
        PictureError: a picture cannot be read.
        TypeError: an option is none.
    """
    parts = (file_part("image", to_file(image)), *option_parts(options))
    if as_json:
        return Call("POST", SEGMENT, _segmentation, JSON, parts)
    return Call("POST", SEGMENT, _png, PNG, parts)


def option_parts(options: SegmentOptions) -> tuple[Part, ...]:
    """The form fields of options.

    Raises:
        PictureError: a picture of an example cannot be read.
        TypeError: an option is none.
    """
    if unknown := options.keys() - SegmentOptions.__annotations__.keys():
        raise TypeError(f"{sorted(unknown)} are no options; allowed are {', '.join(SegmentOptions.__annotations__)}")
    parts = list(_example_parts(options.get("examples", ())))
    prompts = options.get("prompt", ())
    for prompt in (prompts,) if isinstance(prompts, str | Prompt) else prompts:
        parts.append(("prompt", (None, reference(prompt))))
    if "labels" in options:
        parts.append(("labels", (None, json.dumps(list(options["labels"])))))
    for name, value in options.items():
        if name not in {"examples", "prompt", "labels"}:
            parts.append((name, (None, _text(value))))
    return tuple(parts)


def file_part(name: str, file: File) -> Part:
    """A picture's form field."""
    return name, (file.name, file.content)


# Prompts.


def register(
    examples: Iterable[Example],
    name: str | None,
    mask_kind: str | None,
    labels: Sequence[Any] | None,
    tuned: TunedFile | None,
) -> Call[Prompt]:
    """Keep examples, or a tuned prompt, under an id.

    Raises:
        PictureError: a file cannot be read.
    """
    fields = {"name": name, "mask_kind": mask_kind, "labels": None if labels is None else json.dumps(list(labels))}
    texts: list[Part] = [(field, (None, value)) for field, value in fields.items() if value is not None]
    learned = [] if tuned is None else [file_part("tuned", to_file(tuned))]
    return Call("POST", PROMPTS, _prompt, parts=(*_example_parts(examples), *learned, *texts))


def prompts_page(limit: int | None, after: str | None) -> Call[tuple[list[Prompt], str | None]]:
    """A page of prompts, and what to ask for the next with."""
    asked = {"limit": None if limit is None else str(limit), "after": after}
    params = {name: value for name, value in asked.items() if value is not None}
    return Call("GET", PROMPTS, _page, params=params or None)


def get_prompt(prompt: str | Prompt) -> Call[Prompt]:
    """One prompt."""
    return Call("GET", _prompt_path(prompt), _prompt)


def preview(prompt: str | Prompt) -> Call[Png]:
    """A picture of it."""
    return Call("GET", _prompt_path(prompt) + "/preview", _png, PNG)


def rename(prompt: str | Prompt, name: str | None) -> Call[Prompt]:
    """Give it another name, or none."""
    return Call("PATCH", _prompt_path(prompt), _prompt, body={"name": name})


def delete(prompt: str | Prompt) -> Call[None]:
    """Remove it."""
    return Call("DELETE", _prompt_path(prompt), _nothing)


def reference(prompt: str | Prompt) -> str:
    """What names a prompt in requests."""
    return prompt.id if isinstance(prompt, Prompt) else prompt


# The service itself.


def models() -> Call[list[Model]]:
    """What is loaded."""
    return Call(
        "GET",
        "/v1/models",
        lambda answer: parsed(answer.checked(JSON), lambda body: [Model.from_body(one) for one in body["models"]]),
    )


def health() -> Call[Health]:
    """Whether it can answer now; a "no" is an answer, too, and is not asked about again."""
    return Call("GET", "/health/ready", _health, is_repeated=False)


def _example_parts(examples: Iterable[Example]) -> Iterable[Part]:
    for image, mask in examples:
        yield file_part("prompt_image", to_file(image))
        yield file_part("prompt_mask", to_file(mask))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _prompt_path(prompt: str | Prompt) -> str:
    # httpx takes dots for steps in a path, even escaped ones; no prompt has such a name.
    text = reference(prompt)
    if not text.strip("."):
        raise ValueError(f"got {text!r} for a prompt; allowed are its id and its name")
    return f"{PROMPTS}/{quote(text, safe='')}"


def _png(answer: Answer) -> Png:
    return Png(answer.checked(PNG))


def _segmentation(answer: Answer) -> Segmentation:
    return parsed(answer.checked(JSON), Segmentation.from_body)


def _prompt(answer: Answer) -> Prompt:
    return parsed(answer.checked(JSON), Prompt.from_body)


def _page(answer: Answer) -> tuple[list[Prompt], str | None]:
    return parsed(answer.checked(JSON), lambda body: ([Prompt.from_body(one) for one in body["prompts"]], body["next"]))


def _nothing(answer: Answer) -> None:
    check_status(answer.status, answer.retry_after, answer.body)


def _health(answer: Answer) -> Health:
    if answer.status not in {200, 503} or media_type(answer.content_type) != JSON:
        answer.checked(JSON)
    return parsed(answer.body, lambda body: Health(answer.status == 200, str(body["detail"])))
