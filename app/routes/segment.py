"""`POST /v1/segment`: pictures in, a mask out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from starlette.status import HTTP_200_OK

from app.dependencies import ServiceOf, TimesOf
from app.errors import ExampleCount, InvalidRequest
from app.pipeline import EmbeddingType, Example, Output, Segmentation
from app.problems import documented
from app.routes.forms import FormRoute

PATH: Final = "/v1/segment"
_ONCE: Final = frozenset({"image", "embedding_type", "threshold", "output"})
_FIELDS: Final = _ONCE | {"prompt_image", "prompt_mask"}
_CLIENT_LEFT: Final = 499  # nobody reads it; logs and metrics do
_PROBLEMS: Final = (
    "malformed-multipart",
    "body-too-large",
    "unsupported-media-type",
    "unsupported-image-type",
    "invalid-request",
    "undecodable-image",
    "image-too-large",
    "example-count",
    "mask-aspect",
    "empty-mask",
    "queue-full",
    "too-many-bytes-in-flight",
    "internal",
    "not-ready",
    "draining",
    "worker-lost",
    "out-of-memory",
    "deadline-exceeded",
)
_PNG: Final = {
    "description": (
        "The mask as a PNG of the input image's size. `mask` and `soft` are 8-bit grey, `overlay` is RGB. The header "
        "`Server-Timing` has the milliseconds of the six stages, `X-Request-ID` names the request in the log."
    ),
    "content": {
        "image/png": {
            "schema": {"type": "string", "format": "binary"},
            "example": "(binary) an 8-bit grey PNG, 255 where the object is, 0 elsewhere",
        }
    },
    "headers": {
        "Server-Timing": {
            "description": "Milliseconds per stage.",
            "schema": {"type": "string"},
            "example": "decode;dur=4.10, preprocess;dur=2.30, queue;dur=0.20, forward;dur=61.00, "
            "postprocess;dur=0.30, encode;dur=0.60, total;dur=70.20",
        },
        "X-Request-ID": {
            "description": "The request's own header of that name, or a fresh one.",
            "schema": {"type": "string"},
            "example": "4f1c9a",
        },
    },
}

Result = TypeVar("Result")


def _files(example: str) -> dict[str, Any]:
    """The schema of a repeated file field, in the older words beside the newer: Swagger's form knows arrays only so."""
    items = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    return {"items": {**items, "examples": [example]}}


router = APIRouter(tags=["segmentation"], route_class=FormRoute)


@router.post(
    PATH,
    operation_id="segment",
    summary="Segment one image",
    response_class=Response,
    responses={HTTP_200_OK: _PNG, **documented(*_PROBLEMS)},
)
async def segment(
    request: Request,
    service: ServiceOf,
    times: TimesOf,
    image: Annotated[
        UploadFile,
        File(
            description="The input image: JPEG, PNG, WebP, BMP or TIFF, any mode. EXIF orientation is applied.",
            examples=["examples/image.jpg"],
        ),
    ],
    prompt_image: Annotated[
        list[UploadFile],
        File(
            description="One or more prompt images, which show the thing to mark.",
            json_schema_extra=_files("examples/prompt_image.jpg"),
        ),
    ],
    prompt_mask: Annotated[
        list[UploadFile],
        File(
            description="The mask of each prompt image, in the same order and of the same aspect: 0/1, 0/255, boolean, "
            "palette or RGB; all that is not black marks the thing (in soft or JPEG masks, the brighter half).",
            json_schema_extra=_files("examples/prompt_mask.png"),
        ),
    ],
    embedding_type: Annotated[
        EmbeddingType,
        Form(description="`instance` marks this one thing, `semantic` everything of its kind.", examples=["instance"]),
    ] = "instance",
    threshold: Annotated[
        float,
        Form(
            ge=0,
            le=1,
            description="A pixel belongs to the mask when its grey value is above threshold * 255.",
            examples=[0.5],
        ),
    ] = 0.5,
    output: Annotated[
        Output,
        Form(
            description="`mask`: 0 and 255; `soft`: the grey values, 255 is surely the thing; `overlay`: the input "
            "image with all but the thing darkened.",
            examples=["mask"],
        ),
    ] = "mask",
) -> Response:
    """Mark in `image` what the examples mark: each example is a `prompt_image` with its `prompt_mask`.

    Nothing is trained and nothing is kept. Several examples are averaged inside the network (feature ensemble).
    """
    form = await request.form()
    _check_fields(Counter(name for name, _ in form.multi_items()))
    if len(prompt_image) != len(prompt_mask):
        raise ExampleCount(
            f"got {len(prompt_image)} prompt images and {len(prompt_mask)} prompt masks; each image needs its mask"
        )
    pipeline = service.open_pipeline()
    work = Segmentation(
        image=await image.read(),
        examples=[
            Example(await picture.read(), await mask.read())
            for picture, mask in zip(prompt_image, prompt_mask, strict=True)
        ],
        embedding_type=embedding_type,
        threshold=threshold,
        output=output,
        deadline=request.state.arrived + service.settings.deadline_s,
        times=times,
    )
    png = await _unless_left(request, pipeline.segment(work))
    if png is None:
        return Response(status_code=_CLIENT_LEFT)
    return Response(png, media_type="image/png")


def _check_fields(counts: Counter[str]) -> None:
    unknown = sorted(counts.keys() - _FIELDS)
    if unknown:
        raise InvalidRequest(f"got a field {unknown[0][:80]!r}; allowed are {', '.join(sorted(_FIELDS))}")
    repeated = sorted(name for name in _ONCE if counts[name] > 1)
    if repeated:
        raise InvalidRequest(f"got {counts[repeated[0]]} fields {repeated[0]!r}; allowed is one")


async def _unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Do `work`, or give it up and return None as soon as the client has closed its connection."""
    task = asyncio.current_task()
    assert task is not None
    has_left = has_ended = False

    def give_up(watching: asyncio.Task[None]) -> None:
        nonlocal has_left
        # Its removal below comes too late when the client leaves in the very moment in which the work ends.
        if not has_ended and not watching.cancelled():
            watching.exception()  # seen
            has_left = True
            task.cancel()

    watching = asyncio.create_task(_left(request))
    watching.add_done_callback(give_up)
    try:
        return await work
    except asyncio.CancelledError:
        if has_left and task.uncancel() == 0:
            return None
        raise
    finally:
        has_ended = True
        watching.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
