"""What can go wrong, as the client sees it: one exception class per stable problem type (RFC 9457).

Knows nothing of HTTP frameworks, of Pillow or of the network. Whoever finds the fault raises the class with
a sentence that says what was got and what is allowed; the routes turn it into an `application/problem+json`
answer.

    Problem
    ├── RequestProblem               the caller can mend it; sending it again unchanged cannot help
    │   ├── MalformedMultipart       400 malformed-multipart
    │   ├── MalformedJson            400 malformed-json
    │   ├── NotFound                 404 not-found
    │   ├── PromptNotFound           404 prompt-not-found
    │   ├── MethodNotAllowed         405 method-not-allowed
    │   ├── NotAcceptable            406 not-acceptable
    │   ├── NameTaken                409 name-taken
    │   ├── BodyTooLarge             413 body-too-large
    │   ├── UnsupportedMediaType     415 unsupported-media-type
    │   ├── InvalidRequest           422 invalid-request
    │   ├── ExampleCount             422 example-count
    │   ├── InvalidLabels            422 invalid-labels
    │   ├── TooManyTiles             422 too-many-tiles
    │   ├── InvalidTunedPrompt       422 invalid-tuned-prompt
    │   ├── OtherCheckpoint          422 other-checkpoint
    │   └── ImageProblem             about one uploaded picture, named in `field`
    │       ├── UnsupportedImageType 415 unsupported-image-type
    │       ├── UndecodableImage     422 undecodable-image
    │       ├── ImageTooLarge        422 image-too-large
    │       ├── MaskAspect           422 mask-aspect
    │       ├── UrlNotAllowed        422 url-not-allowed
    │       ├── UrlUnreachable       422 url-unreachable
    │       └── EmptyMask            422 empty-mask
    ├── TryAgainLater                the same request may succeed after Retry-After
    │   ├── QueueFull                429 queue-full
    │   ├── TooManyBytesInFlight     429 too-many-bytes-in-flight
    │   ├── Draining                 503 draining
    │   ├── NotReady                 503 not-ready
    │   ├── WorkerLost               503 worker-lost
    │   ├── PromptStoreUnavailable   503 prompt-store-unavailable
    │   └── OutOfMemory              503 out-of-memory
    ├── DeadlineExceeded             504 deadline-exceeded
    ├── PromptDamaged                500 prompt-damaged
    └── InternalProblem              500 internal
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Final

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:seggpt:problem:"

Member = str | int | float | list[str] | list[int]

_STANDARD_MEMBERS: Final = frozenset({"type", "title", "status", "detail", "instance"})


class Problem(Exception):  # noqa: N818 - RFC 9457's own word
    """The base of all problems; never raised itself.

    Attributes:
        slug: the last part of the type URI; stable, clients may switch on it.
        status: the HTTP status code.
        title: a short sentence, the same for every occurrence of the type.
        detail: what was got and what is allowed, this time.
        extra: further members of the answer, e.g. `field`, `limit`, `got`.
        headers: further HTTP headers of the answer, e.g. `Retry-After`.
    """

    slug: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Member) -> None:
        super().__init__(detail)
        if taken := _STANDARD_MEMBERS & extra.keys():
            raise ValueError(f"{sorted(taken)} are standard members and cannot be extra ones")
        self.detail = detail
        self.extra: dict[str, Member] = dict(extra)
        self.headers: dict[str, str] = dict(headers or {})

    @property
    def type(self) -> str:
        """The stable type URI, `urn:seggpt:problem:<slug>`."""
        return TYPE_PREFIX + self.slug

    def to_body(self, instance: str) -> dict[str, Member]:
        """The members of the RFC 9457 answer.

        Args:
            instance: a URI reference of this occurrence, e.g. the request's path or `urn:uuid:<request id>`.
        """
        return {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            **self.extra,
        }


class RequestProblem(Problem):
    """The caller can mend it; sending the same request again cannot help."""


class MalformedMultipart(RequestProblem):
    """The body cannot be parsed as multipart/form-data."""

    slug, status, title = "malformed-multipart", 400, "The multipart body cannot be parsed"


class MalformedJson(RequestProblem):
    """The body is not a JSON object, or a picture in it is not base64."""

    slug, status, title = "malformed-json", 400, "The JSON body cannot be parsed"


class NotFound(RequestProblem):
    """No route has this path."""

    slug, status, title = "not-found", 404, "There is nothing at this path"


class PromptNotFound(RequestProblem):
    """No registered prompt has this id or name."""

    slug, status, title = "prompt-not-found", 404, "There is no such prompt"


class MethodNotAllowed(RequestProblem):
    """The path exists, but not with this HTTP method; `Allow` names those that it has."""

    slug, status, title = "method-not-allowed", 405, "The path does not have this method"


class NotAcceptable(RequestProblem):
    """`Accept` names none of the formats that this route answers in."""

    slug, status, title = "not-acceptable", 406, "No acceptable format"


class NameTaken(RequestProblem):
    """Another registered prompt has this name."""

    slug, status, title = "name-taken", 409, "The name is taken"


class BodyTooLarge(RequestProblem):
    """The body has more bytes than `SEGGPT_MAX_BODY_BYTES`, declared or counted while it streams in."""

    slug, status, title = "body-too-large", 413, "The request body is too large"


class UnsupportedMediaType(RequestProblem):
    """The request's content type is not the one that the route reads."""

    slug, status, title = "unsupported-media-type", 415, "The request's content type is not supported"


class InvalidRequest(RequestProblem):
    """A form field is missing, unknown in value or out of range."""

    slug, status, title = "invalid-request", 422, "A field of the request is missing or invalid"


class ExampleCount(RequestProblem):
    """No example, more than `SEGGPT_MAX_EXAMPLES`, or not as many masks as prompt images."""

    slug, status, title = "example-count", 422, "The number of examples is not allowed"


class InvalidLabels(RequestProblem):
    """`labels` cannot be read, or a mask has a class or a colour that `labels` does not name."""

    slug, status, title = "invalid-labels", 422, "The labels do not fit the masks"


class TooManyTiles(RequestProblem):
    """The picture would be cut into more than `SEGGPT_MAX_TILES` tiles."""

    slug, status, title = "too-many-tiles", 422, "The picture would have too many tiles"


class InvalidTunedPrompt(RequestProblem):
    """`tuned` is not a file that `seggpt tune` wrote, or it is damaged."""

    slug, status, title = "invalid-tuned-prompt", 422, "The tuned prompt cannot be read"


class OtherCheckpoint(RequestProblem):
    """The prompt was tuned for another checkpoint than the one that this service has; it fits that one alone."""

    slug, status, title = "other-checkpoint", 422, "The prompt was tuned for another checkpoint"


class ImageProblem(RequestProblem):
    """About one uploaded picture; the member `field` names its form field, e.g. "prompt_mask[1]"."""

    def __init__(self, detail: str, *, field: str, headers: Mapping[str, str] | None = None, **extra: Member) -> None:
        super().__init__(f"{field}: {detail}", headers=headers, field=field, **extra)


class UnsupportedImageType(ImageProblem):
    """The file is not a JPEG, PNG, WebP, BMP or TIFF of a kind that is read, or it holds several frames or pages."""

    slug, status, title = "unsupported-image-type", 415, "The picture's file type is not supported"


class UndecodableImage(ImageProblem):
    """The file is empty, damaged or cut short."""

    slug, status, title = "undecodable-image", 422, "The picture cannot be decoded"


class ImageTooLarge(ImageProblem):
    """The picture has more pixels than `SEGGPT_MAX_IMAGE_PIXELS` or a side above `SEGGPT_MAX_IMAGE_SIDE`."""

    slug, status, title = "image-too-large", 422, "The picture has too many pixels"


class MaskAspect(ImageProblem):
    """The prompt mask is neither as large as its prompt image nor a scaled version of it."""

    slug, status, title = "mask-aspect", 422, "The mask does not have its image's aspect"


class UrlNotAllowed(ImageProblem):
    """A picture is given by URL, and `SEGGPT_URL_HOSTS` does not name its host, or the host's address is not public."""

    slug, status, title = "url-not-allowed", 422, "The picture's URL is not allowed"


class UrlUnreachable(ImageProblem):
    """An allowed URL did not give a picture in time, or gave too many bytes."""

    slug, status, title = "url-unreachable", 422, "The picture's URL cannot be read"


class EmptyMask(ImageProblem):
    """The prompt mask has no foreground pixel, so it shows nothing to look for."""

    slug, status, title = "empty-mask", 422, "The mask is empty"


class TryAgainLater(Problem):
    """The same request may succeed later; the header `Retry-After` says after how many seconds."""

    default_retry_after_s: ClassVar[float] = 1

    def __init__(
        self,
        detail: str,
        *,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Member,
    ) -> None:
        seconds = self.default_retry_after_s if retry_after_s is None else retry_after_s
        # The header carries whole seconds; 0 would ask an overloaded service's clients to come back at once.
        whole_seconds = max(1, math.ceil(seconds))
        super().__init__(detail, headers={**(headers or {}), "Retry-After": str(whole_seconds)}, **extra)


class QueueFull(TryAgainLater):
    """The queue holds `SEGGPT_QUEUE_PAIRS` (image, example) pairs or has no room for this request's."""

    slug, status, title = "queue-full", 429, "The queue is full"


class TooManyBytesInFlight(TryAgainLater):
    """The requests being read and decoded hold `SEGGPT_MAX_BYTES_IN_FLIGHT` bytes together."""

    slug, status, title = "too-many-bytes-in-flight", 429, "Too many bytes are being received"


class Draining(TryAgainLater):
    """The service is shutting down: it finishes what it accepted and takes nothing new."""

    slug, status, title = "draining", 503, "The service is shutting down"
    default_retry_after_s = 5


class NotReady(TryAgainLater):
    """No worker can answer yet: the checkpoint is loaded or warmed up, or a worker is being restarted."""

    slug, status, title = "not-ready", 503, "The service is not ready"
    default_retry_after_s = 5


class WorkerLost(TryAgainLater):
    """The worker died on this request, and so did the next one that ran it again."""

    slug, status, title = "worker-lost", 503, "The worker was lost"


class PromptStoreUnavailable(TryAgainLater):
    """The place where prompts are kept (`SEGGPT_PROMPTS`) cannot be read or written now."""

    slug, status, title = "prompt-store-unavailable", 503, "The prompt store is unavailable"
    default_retry_after_s = 5


class OutOfMemory(TryAgainLater):
    """The device had too little memory for this request, even in the smallest batch."""

    slug, status, title = "out-of-memory", 503, "The device is out of memory"
    default_retry_after_s = 5


class DeadlineExceeded(Problem):
    """The answer was not ready within `SEGGPT_DEADLINE_S` seconds; the work was dropped."""

    slug, status, title = "deadline-exceeded", 504, "The deadline has passed"


class PromptDamaged(Problem):
    """What is stored of this prompt is damaged or half-written; delete it and register it again."""

    slug, status, title = "prompt-damaged", 500, "The stored prompt is damaged"


class InternalProblem(Problem):
    """A fault of the service itself; the log has it under the answer's request id."""

    slug, status, title = "internal", 500, "The service has failed"


PROBLEMS: Final[dict[str, type[Problem]]] = {
    problem.slug: problem
    for problem in (
        MalformedMultipart,
        MalformedJson,
        NotFound,
        PromptNotFound,
        MethodNotAllowed,
        NotAcceptable,
        NameTaken,
        BodyTooLarge,
        UnsupportedMediaType,
        UnsupportedImageType,
        InvalidRequest,
        UndecodableImage,
        ImageTooLarge,
        ExampleCount,
        InvalidLabels,
        TooManyTiles,
        InvalidTunedPrompt,
        OtherCheckpoint,
        UrlNotAllowed,
        UrlUnreachable,
        MaskAspect,
        EmptyMask,
        QueueFull,
        TooManyBytesInFlight,
        InternalProblem,
        PromptDamaged,
        Draining,
        NotReady,
        WorkerLost,
        PromptStoreUnavailable,
        OutOfMemory,
        DeadlineExceeded,
    )
}
"""Every stable type by its slug, by rising status: what the docs and openapi.json list."""
