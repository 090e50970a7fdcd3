"""`POST /v1/segment`: pictures in, a mask or its segments out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends, File, Request, Response, UploadFile
from starlette.status import HTTP_200_OK

from app.dependencies import ServiceOf, TimesOf
from app.errors import InvalidRequest
from app.problems import CLIENT_LEFT, documented
from app.requests import Segmentation
from app.routes.asking import Asked, asked
from app.routes.formats import JSON, PNG, chosen
from app.routes.forms import FormRoute
from app.schemas import SegmentationBody

PATH: Final = "/v1/segment"
PROBLEMS: Final = (
    "malformed-multipart",
    "malformed-json",
    "prompt-not-found",
    "not-acceptable",
    "body-too-large",
    "unsupported-media-type",
    "unsupported-image-type",
    "invalid-request",
    "undecodable-image",
    "image-too-large",
    "example-count",
    "invalid-labels",
    "too-many-tiles",
    "invalid-tuned-prompt",
    "other-checkpoint",
    "url-not-allowed",
    "url-unreachable",
    "mask-aspect",
    "empty-mask",
    "queue-full",
    "too-many-bytes-in-flight",
    "internal",
    "prompt-damaged",
    "not-ready",
    "draining",
    "worker-lost",
    "prompt-store-unavailable",
    "out-of-memory",
    "deadline-exceeded",
)
"""What a request may end with, by rising status."""
_ANSWER: Final = {
    "description": (
        "`image/png`: a picture of the input image's size, without metadata; `output` says which. "
        "`application/json`: the segments, each with its class, area, box, score, COCO run lengths and polygons. The "
        "header `Server-Timing` has the milliseconds of the six stages, `X-Request-ID` names the request in the log."
    ),
    "content": {
        PNG: {
            "schema": {"type": "string", "format": "binary"},
            "example": "(binary) an 8-bit grey PNG, 255 where the object is, 0 elsewhere",
        },
        JSON: {"schema": {"$ref": "#/components/schemas/SegmentationBody"}},
    },
    "headers": {
        "Server-Timing": {
            "description": "Milliseconds per stage; with `tile` also how many tiles were answered.",
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
router = APIRouter(tags=["segmentation"], route_class=FormRoute)


@router.post(
    PATH,
    operation_id="segment",
    summary="Segment one image",
    response_class=Response,
    response_model=SegmentationBody,
    responses={HTTP_200_OK: _ANSWER, **documented(*PROBLEMS)},
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
    question: Annotated[Asked, Depends(asked)],
) -> Response:
    """Mark in `image` what the examples mark.

    Each example is a `prompt_image` with its `prompt_mask`, sent along or registered before as a `prompt`. Nothing is
    trained. Several examples are averaged inside the network (feature ensemble) or seen as one picture (spatial).
    Several prompts are several concepts in one answer; where they overlap, the surer one has the pixel.
    """
    answer_type = chosen(request, (PNG, JSON))
    images = len((await request.form()).getlist("image"))
    if images > 1:
        raise InvalidRequest(f"got {images} fields 'image'; allowed is one, and many at {PATH}/batch")
    work = Segmentation(
        image=await image.read(),
        concepts=question.concepts,
        manner=question.manner(as_json=answer_type == JSON),
        deadline=request.state.arrived + service.settings.deadline_s,
        times=times,
    )
    answer = await unless_left(request, service.open_pipeline().segment(work))
    if answer is None:
        return Response(status_code=CLIENT_LEFT)
    return Response(answer, media_type=answer_type, headers={"Vary": "Accept"})


async def unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
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
