"""`POST /v1/segment/batch`: many pictures and one prompt in, their answers out as they get ready.

The form is read as it comes in, and the answer is written while it is read. Each image takes the very way that the
image of a single request takes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, File, Request, Response, UploadFile
from fastapi.routing import APIRoute
from starlette.status import HTTP_200_OK

from app.dependencies import ServiceOf
from app.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from app.problems import documented
from app.requests import Segmentation
from app.routes import segment
from app.routes.asking import Asked, asked, files_schema
from app.routes.batch_answers import Archive, Lines
from app.routes.batch_response import BatchResponse
from app.routes.formats import NDJSON, ZIP, chosen
from app.routes.forms import FormRequest
from app.routes.multipart import MOST_PARTS, Part, boundary_of
from app.routes.streaming import FormStream
from app.service import Service

PATH: Final = segment.PATH + "/batch"
_IMAGE: Final = "image"
_PROBLEMS: Final = tuple(slug for slug in segment.PROBLEMS if slug not in {"malformed-json", "queue-full"})
_ANSWER: Final = {
    "description": (
        "`application/x-ndjson`: one line of JSON per image in the order in which they got ready, each with the "
        "image's `index` in the request (from 0), its file's `name`, its `status`, and `segmentation` (as the JSON of "
        "a single request), or `png` (base64) if `output` is given, or `problem` if this image failed. The last line "
        "has `done`, `images` and `failed`; without it the connection was cut. `done` is false, with a `problem`, if "
        "the rest of the request could not be read. `application/zip`: the PNGs, named like `0001-cat.png`, and "
        "`errors.ndjson` with the lines of those that failed, if any did."
    ),
    "content": {
        NDJSON: {
            "schema": {"type": "string"},
            "example": '{"index": 0, "name": "a.jpg", "status": 200, "segmentation": {"height": 480, "width": 640, '
            '"labels": [{"index": 1, "name": "object", "colour": "#ffffff"}], "segments": []}}\n'
            '{"index": 1, "name": "b.jpg", "status": 422, "problem": {"type": "urn:seggpt:problem:undecodable-image", '
            '"title": "The picture cannot be decoded", "status": 422, "detail": "image: the file is empty", '
            '"instance": "urn:seggpt:request:4f1c9a#1", "field": "image"}}\n'
            '{"done": true, "images": 2, "failed": 1}\n',
        },
        ZIP: {"schema": {"type": "string", "format": "binary"}, "example": "(binary) a zip file of PNGs"},
    },
}


class BatchRequest(FormRequest):
    """A request whose form is everything before its first image; `images` goes on from there."""

    form_stream: FormStream
    _first: Part | None = None
    _following: AsyncIterator[Part]

    async def _parts(self) -> list[Part]:
        """The options and examples, and in the place of all images one without content."""
        content_type = self.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
            raise UnsupportedMediaType(f"got content type {content_type[:80]!r}; allowed is multipart/form-data")
        service: Service = self.app.state.service
        settings = service.settings
        self.form_stream = FormStream(
            self.receive,
            boundary_of(content_type),
            self.state.share,
            most_bytes=settings.max_batch_bytes,
            most_file_bytes=settings.max_body_bytes,
            most_parts=settings.max_batch_images + MOST_PARTS,
        )
        self._following = self.form_stream.parts()
        head: list[Part] = []
        async for part in self._following:
            if part.name == _IMAGE:
                self._first = part
                return [*head, Part(_IMAGE, part.filename or _IMAGE, b"")]  # FastAPI takes no name for no file
            head.append(part)
            size = sum(len(one.content) for one in head)
            if part.is_dropped or size > settings.max_body_bytes:
                raise BodyTooLarge(
                    f"got more than {settings.max_body_bytes} bytes before the first image; that many are allowed",
                    limit=settings.max_body_bytes,
                )
        return head

    async def images(self) -> AsyncIterator[Part]:
        """Every image, as soon as it is there.

        Raises:
            InvalidRequest: something else comes behind the first image.
            Problem: as `FormStream.parts`.
        """
        assert self._first is not None, "the form was read before, and has an image"
        part, self._first = self._first, None
        yield part
        del part  # nothing is kept here, however long the next one takes
        async for part in self._following:
            if part.name != _IMAGE:
                raise InvalidRequest(
                    f"got the field {part.name!r:.80} behind the first image; all others must come before the images"
                )
            yield part
            del part


class BatchRoute(APIRoute):
    """A route that gets a `BatchRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given the other kind of request."""
        handle = super().get_route_handler()

        async def handle_batch(request: Request) -> Response:
            return await handle(BatchRequest(request.scope, request.receive))

        return handle_batch


router = APIRouter(tags=["segmentation"], route_class=BatchRoute)


@router.post(
    PATH,
    operation_id="segment_batch",
    summary="Segment many images with one prompt",
    response_class=Response,
    responses={HTTP_200_OK: _ANSWER, **documented(*_PROBLEMS)},
)
async def segment_batch(
    request: Request,
    service: ServiceOf,
    question: Annotated[Asked, Depends(asked)],
    image: Annotated[
        list[UploadFile],
        File(
            description="The input images, behind all other fields. Each is answered on its own.",
            json_schema_extra=files_schema("examples/image.jpg"),
        ),
    ],
) -> Response:
    """Mark in every `image` what the examples mark.

    The fields are those of a single request. All that is not an image must come before the first one, so that each
    image can be worked on as soon as it has been read. What is wrong with the options or the examples is the answer;
    what is wrong with one image is that image's answer, and the others go on.
    """
    del image  # only the first, and without its content: for the documentation, and to have it asked for
    assert isinstance(request, BatchRequest)
    kind = chosen(request, (NDJSON, ZIP))
    is_json = kind == NDJSON and question.output is None
    pipeline = service.open_pipeline()
    template = await pipeline.prepare(
        Segmentation(
            image=b"",
            concepts=question.concepts,
            manner=question.manner(as_json=is_json),
            deadline=time.monotonic() + service.settings.deadline_s,
            patient=True,
        )
    )
    answers = Lines(is_json) if kind == NDJSON else Archive()
    request.form_stream.be_patient(service.settings.deadline_s)
    return BatchResponse(
        service,
        pipeline,
        template,
        images=request.images(),
        stream=request.form_stream,
        gate=request.app.state.gate,
        answers=answers,
    )
