"""`/v1/prompts`: examples that are kept, to be named in requests instead of sent along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends, File, Form, Path, Query, Request, Response, UploadFile
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.status import HTTP_200_OK, HTTP_201_CREATED, HTTP_204_NO_CONTENT

from app.dependencies import ServiceOf
from app.errors import BodyTooLarge, ExampleCount, InvalidRequest, MalformedJson, UnsupportedMediaType
from app.examples import Example
from app.images import Limits
from app.labels import BINARY, Labels, MaskKind, hexadecimal, parse_labels
from app.previews import preview
from app.problems import documented
from app.prompt_archive import NewPrompt
from app.prompt_names import check_name
from app.prompts import MOST_LISTED, PromptEntry, StoredPrompt
from app.requests import Concept
from app.routes.asking import check_fields, files_schema, nothing
from app.routes.formats import PNG
from app.routes.forms import FormRoute
from app.schemas import LabelBody, PromptBody, PromptName, PromptPage
from app.tuned import FIELD, read_tuned

PATH: Final = "/v1/prompts"
_ONE: Final = PATH + "/{prompt}"
_FIELDS: Final = frozenset({"prompt_image", "prompt_mask", "mask_kind", "labels", "name", "tuned"})
_MOST_RENAME_BYTES: Final = 8 * 1024
_STORE: Final = ("invalid-request", "internal", "prompt-store-unavailable", "deadline-exceeded")
_FOUND: Final = ("prompt-not-found", *_STORE, "prompt-damaged")
_REGISTER: Final = (
    "malformed-multipart",
    "malformed-json",
    "name-taken",
    "body-too-large",
    "unsupported-media-type",
    "unsupported-image-type",
    "undecodable-image",
    "image-too-large",
    "example-count",
    "invalid-labels",
    "invalid-tuned-prompt",
    "other-checkpoint",
    "url-not-allowed",
    "url-unreachable",
    "mask-aspect",
    "empty-mask",
    "queue-full",
    "too-many-bytes-in-flight",
    "not-ready",
    "draining",
    *_STORE,
)
_RENAME: Final = (
    "malformed-json",
    "name-taken",
    "body-too-large",
    "unsupported-media-type",
    *_FOUND,
)
_LOCATION: Final = {
    "Location": {
        "description": "The prompt's own path.",
        "schema": {"type": "string"},
        "example": f"{PATH}/3f0c5a7e9b1d42680f2e4c6a8b0d1e3f",
    }
}
_PREVIEW: Final = {
    "description": "At most 512 pixels high.",
    "content": {PNG: {"schema": {"type": "string", "format": "binary"}, "example": "(binary) an RGB PNG"}},
}

Result = TypeVar("Result")
PromptOf = Annotated[str, Path(description="The prompt's id or name.", examples=["3f0c5a7e9b1d42680f2e4c6a8b0d1e3f"])]
router = APIRouter(tags=["prompts"], route_class=FormRoute)


class _Desk:
    """Asks the store, within the request's deadline."""

    def __init__(self, request: Request, service: ServiceOf) -> None:
        self.service = service
        self.deadline: float = request.state.arrived + service.settings.deadline_s

    async def ask(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """The result of a blocking call of `PromptStore`.

        Raises:
            DeadlineExceeded: the storage has not answered by the request's deadline.
        """
        return await self.service.ask_store(call, *arguments, deadline=self.deadline)


async def _desk(request: Request, service: ServiceOf) -> _Desk:
    """Refuses query parameters that mean nothing, or are repeated, as forms refuse such fields.

    Raises:
        InvalidRequest: there is one.
    """
    route: APIRoute = request.scope["route"]
    allowed = sorted(parameter.alias for parameter in route.dependant.query_params)
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in allowed or times > 1:
            raise InvalidRequest(
                f"got {times} query parameters {name[:80]!r}; allowed are {', '.join(allowed) or 'none'}, each once"
            )
    return _Desk(request, service)


DeskOf = Annotated[_Desk, Depends(_desk)]


@router.post(
    PATH,
    operation_id="register_prompt",
    summary="Register a prompt",
    status_code=HTTP_201_CREATED,
    response_model=PromptBody,
    responses={
        HTTP_201_CREATED: {"description": "It is registered.", "headers": _LOCATION},
        HTTP_200_OK: {"description": "It was registered before.", "model": PromptBody, "headers": _LOCATION},
        **documented(*_REGISTER),
    },
)
async def register(
    request: Request,
    response: Response,
    desk: DeskOf,
    prompt_image: Annotated[
        list[UploadFile],
        File(
            default_factory=nothing,
            description="One or more prompt images, which show the thing to mark; or `tuned` instead.",
            json_schema_extra=files_schema("examples/prompt_image.jpg"),
        ),
    ],
    prompt_mask: Annotated[
        list[UploadFile],
        File(
            default_factory=nothing,
            description="The mask of each prompt image, in the same order and of the same aspect.",
            json_schema_extra=files_schema("examples/prompt_mask.png"),
        ),
    ],
    mask_kind: Annotated[
        MaskKind,
        Form(description="How the masks show classes, as for `/v1/segment`.", examples=["binary"]),
    ] = "binary",
    labels: Annotated[
        str | None,
        Form(description="JSON: the classes, as for `/v1/segment`.", examples=['["cat", "dog"]']),
    ] = None,
    name: Annotated[
        str | None,
        Form(
            description="What to call it: 1 to 100 printable characters without a slash, and nobody else's. It can be "
            "changed later.",
            examples=["cats"],
        ),
    ] = None,
    tuned: Annotated[
        UploadFile | None,
        File(
            description="A prompt that `seggpt tune` learned for this service's checkpoint, a safetensors file; in "
            "place of examples.",
        ),
    ] = None,
) -> PromptBody:
    """Keep examples, to be named as `prompt` in later requests, which are faster for it.

    The id is a hash of the pictures' bytes, the mask kind and the labels: the same content twice is the same prompt. A
    prompt that is there without a name gets this one's.
    """
    form = await request.form()
    check_fields((field for field, _ in form.multi_items()), _FIELDS)
    called = None if name is None else check_name(name)
    if tuned is not None:
        others = sorted({field for field, _ in form.multi_items()} & {"prompt_image", "prompt_mask", "mask_kind"})
        if others:
            raise InvalidRequest(f"got {FIELD} and {', '.join(others)}; a tuned prompt has learned examples of its own")
        new = replace(await _learned(desk, await tuned.read()), labels=parse_labels(labels, "binary"), name=called)
    else:
        examples = await _pairs(prompt_image, prompt_mask)
        new = NewPrompt(examples, mask_kind, parse_labels(labels, mask_kind), called)
    concept = Concept(new.examples, new.kind, new.labels)
    await desk.service.open_pipeline().check_examples(concept, desk.deadline)
    stored, is_new = await desk.ask(desk.service.prompts.put, new)
    response.status_code = HTTP_201_CREATED if is_new else HTTP_200_OK
    response.headers["Location"] = f"{PATH}/{stored.id}"
    return _body(stored)


@router.get(
    PATH,
    operation_id="list_prompts",
    summary="List the prompts",
    response_model=PromptPage,
    responses=documented(*_STORE),
)
async def list_prompts(
    desk: DeskOf,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED, description="Most prompts of this page.")] = 100,
    after: Annotated[str | None, Query(description="The former page's `next`.")] = None,
) -> PromptPage:
    """The registered prompts by rising id, page by page. Damaged ones are listed too, with `state` "damaged"."""
    page = await desk.ask(desk.service.prompts.list, limit, after)
    return PromptPage(prompts=[_body_of(entry) for entry in page.prompts], next=page.next)


@router.get(
    _ONE,
    operation_id="get_prompt",
    summary="Show a prompt",
    response_model=PromptBody,
    responses=documented(*_FOUND),
)
async def get_prompt(desk: DeskOf, prompt: PromptOf) -> PromptBody:
    """What is registered under an id or a name."""
    return _body(await desk.ask(desk.service.prompts.get, prompt))


@router.get(
    _ONE + "/preview",
    operation_id="preview_prompt",
    summary="Look at a prompt",
    response_class=Response,
    responses={HTTP_200_OK: _PREVIEW, **documented("image-too-large", *_FOUND)},
)
async def preview_prompt(desk: DeskOf, prompt: PromptOf) -> Response:
    """The first four prompt images side by side, with their masks over them in the labels' colours."""
    stored = await desk.ask(desk.service.prompts.get, prompt)
    settings = desk.service.settings
    limits = Limits(settings.max_image_pixels, settings.max_image_side)
    draw = partial(preview, stored.examples, stored.kind, stored.labels, limits)
    (png,) = await desk.service.codecs.run([draw], desk.deadline)
    return Response(png, media_type=PNG)


@router.patch(
    _ONE,
    operation_id="rename_prompt",
    summary="Rename a prompt",
    response_model=PromptBody,
    responses=documented(*_RENAME),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": PromptName.model_json_schema()}},
        }
    },
)
async def rename_prompt(request: Request, desk: DeskOf, prompt: PromptOf) -> PromptBody:
    """Give a prompt another name, or none with null; its id stays."""
    wanted = await _read_name(request)
    return _body(await desk.ask(desk.service.prompts.rename, prompt, wanted.name))


@router.delete(
    _ONE,
    operation_id="delete_prompt",
    summary="Delete a prompt",
    status_code=HTTP_204_NO_CONTENT,
    responses={HTTP_204_NO_CONTENT: {"description": "It is gone."}, **documented("prompt-not-found", *_STORE)},
)
async def delete_prompt(desk: DeskOf, prompt: PromptOf) -> None:
    """Forget a prompt, damaged or not. Requests that use it already are answered."""
    await desk.ask(desk.service.prompts.delete, prompt)


async def _pairs(images: list[UploadFile], masks: list[UploadFile]) -> tuple[Example, ...]:
    """The examples of a form.

    Raises:
        InvalidRequest: there are no images, or no masks.
        ExampleCount: there are not as many of the ones as of the others.
    """
    for field, files in (("prompt_image", images), ("prompt_mask", masks)):
        if not files:
            raise InvalidRequest(f"{field}: it is missing; needed are prompt_image and prompt_mask, or {FIELD}")
    if len(images) != len(masks):
        raise ExampleCount(f"got {len(images)} prompt images and {len(masks)} prompt masks; each image needs its mask")
    return tuple([Example(await image.read(), await mask.read()) for image, mask in zip(images, masks, strict=True)])


async def _learned(desk: _Desk, data: bytes) -> NewPrompt:
    """What a file of `seggpt tune` holds, for this service.

    Raises:
        Problem: it holds nothing that can be used here.
    """
    desk.service.open_pipeline()  # which checkpoint it must fit is known only then
    (tuned,) = await desk.service.codecs.run(
        [partial(read_tuned, data, desk.service.settings.max_examples)], desk.deadline
    )
    desk.service.check_tuned(tuned.tuned_for, FIELD)
    return NewPrompt(tuned.examples, "tuned", BINARY, tuned_for=tuned.tuned_for)


async def _read_name(request: Request) -> PromptName:
    """The body, by hand: FastAPI would read one of any size."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType(f"got content type {content_type[:80]!r}; allowed is application/json")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_RENAME_BYTES:
            raise BodyTooLarge(f"got more than {_MOST_RENAME_BYTES} bytes; a name needs fewer")
    try:
        return PromptName.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedJson(f"the body is not JSON: {first['msg']}") from error
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidRequest(f'{field}: {first["msg"]}; allowed is {{"name": "cats"}} or {{"name": null}}') from error


def _body(stored: StoredPrompt) -> PromptBody:
    return PromptBody(
        id=stored.id,
        name=stored.name,
        created_at=stored.created_at,
        mask_kind=stored.kind,
        labels=_labels(stored.labels),
        examples=len(stored.examples),
        bytes=stored.bytes,
        state="ok",
    )


def _body_of(entry: PromptEntry) -> PromptBody:
    return PromptBody(
        id=entry.id,
        name=entry.name,
        created_at=entry.created_at,
        mask_kind=entry.kind,
        labels=_labels(entry.labels),
        examples=entry.examples,
        bytes=entry.bytes,
        state="damaged" if entry.is_damaged else "ok",
    )


def _labels(labels: Labels) -> list[LabelBody]:
    return [LabelBody(index=label.index, name=label.name, colour=hexadecimal(label.colour)) for label in labels]
