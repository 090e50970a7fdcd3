"""The Python client, blocking (`Client`) and asynchronous (`AsyncClient`). Users write `from seggpt import Client`.

Knows the HTTP interface as docs/api.md tells it and nothing of the service's code: it imports neither the service nor
torch. Everything that is asked is safe to ask twice, so refusals for want of room and lost connections are tried again.
"""

from app.client.answers import BatchItem, Health, Label, Model, Png, Prompt, Segment, Segmentation, Worker
from app.client.asynchronous import AsyncClient
from app.client.blocking import Client
from app.client.calls import SegmentOptions
from app.client.errors import (
    BusyError,
    FailedError,
    NameTakenError,
    NotFoundError,
    PictureError,
    ProblemError,
    RefusedError,
    SegGptError,
    TimeLimitError,
    UnexpectedAnswerError,
    UnreachableError,
)
from app.client.pictures import Picture

__all__ = [
    "AsyncClient",
    "BatchItem",
    "BusyError",
    "Client",
    "FailedError",
    "Health",
    "Label",
    "Model",
    "NameTakenError",
    "NotFoundError",
    "Picture",
    "PictureError",
    "Png",
    "ProblemError",
    "Prompt",
    "RefusedError",
    "SegGptError",
    "Segment",
    "SegmentOptions",
    "Segmentation",
    "TimeLimitError",
    "UnexpectedAnswerError",
    "UnreachableError",
    "Worker",
]
