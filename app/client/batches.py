"""Many pictures in one call: the streamed form, and which picture each line of the answer is about.

Pictures are read when their turn to be sent has come, so that a thousand files never lie in memory. A call that breaks
off is asked again for what it left open, and for nothing else.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from app.client.answers import BatchItem, Png, Segmentation, parsed
from app.client.calls import SEGMENT, Part
from app.client.errors import (
    BusyError,
    PictureError,
    SegGptError,
    UnexpectedAnswerError,
    UnreachableError,
    problem_error,
)
from app.client.pictures import Picture, to_file

PATH: Final = SEGMENT + "/batch"
LINES: Final = "application/x-ndjson"
IMAGES_PER_CALL: Final = 64
_UNSAFE_IN_NAMES: Final = {ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"}


class Batch:
    """The pictures of one call.

    Args:
        pictures: by their place among all that were given.
        options: form fields, sent before the pictures.
        as_json: whether segments or PNGs are wanted; PNGs are masks unless the options say otherwise.
    """

    def __init__(self, pictures: Mapping[int, Picture], options: tuple[Part, ...], as_json: bool) -> None:
        #: Pictures that have no answer yet.
        self.pending = dict(pictures)
        # What makes the service answer in pictures is `output`, and nothing else.
        self._options = tuple(part for part in options if part[0] != "output" or not as_json)
        if not as_json and all(name != "output" for name, _ in options):
            self._options = (*options, ("output", (None, "mask")))
        self._as_json = as_json
        self._boundary = secrets.token_hex(16)
        self._sent: list[int] = []
        self._unreadable: list[BatchItem] = []
        self._busy: SegGptError | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Of the request."""
        return {"Accept": LINES, "Content-Type": f"multipart/form-data; boundary={self._boundary}"}

    def body(self) -> Iterator[bytes]:
        """The form for everything that is pending, piece by piece."""
        self._sent = []
        self._busy = None
        for name, (filename, content) in self._options:
            yield from self._part(name, filename, content.encode() if isinstance(content, str) else content)
        for index, picture in list(self.pending.items()):
            try:
                file = to_file(picture)
            except PictureError as error:
                del self.pending[index]
                self._unreadable.append(BatchItem(index, "", None, error))
                continue
            self._sent.append(index)
            yield from self._part("image", file.name, file.content)
        yield f"--{self._boundary}--\r\n".encode()

    def take(self, line: str) -> Iterator[BatchItem]:
        """What a line of the answer says; nothing if its picture is to be sent again.

        Raises:
            ProblemError: the service has not looked at the pictures that are left.
        UnexpectedAnswerError: the line is about no picture that waits for an answer.
        """
        if not line.strip():
            return
        item = parsed(line, self._item)
        if item is None:
            return
        if item.index not in self.pending:
            raise UnexpectedAnswerError(f"got a second answer about picture {item.index}: {line[:80]}")
        if isinstance(item.error, BusyError):
            self._busy = item.error
        else:
            del self.pending[item.index]
            yield item

    def unreadable(self) -> Iterator[BatchItem]:
        """Pictures that could not be sent."""
        yield from self._unreadable
        self._unreadable = []

    @property
    def is_empty(self) -> bool:
        """Whether no picture of the last request could be read, so that its answer is about nothing."""
        return not self._sent

    def failure(self) -> SegGptError:
        """Why pictures are pending though the answer has ended."""
        return self._busy or UnreachableError("the answer ended before all pictures had theirs")

    def _part(self, name: str, filename: str | None, content: bytes) -> Iterator[bytes]:
        head = f'--{self._boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if filename is not None:
            head += f'; filename="{filename.translate(_UNSAFE_IN_NAMES)}"\r\nContent-Type: application/octet-stream'
        yield f"{head}\r\n\r\n".encode("utf-8", "replace")
        yield content
        yield b"\r\n"

    def _item(self, line: Any) -> BatchItem | None:
        if "done" in line:  # the last one
            if not line["done"]:
                raise problem_error(int(line["status"]), line["problem"])
            return None
        index, name, status = self._sent[line["index"]], str(line["name"] or ""), int(line["status"])
        if status >= 400:
            return BatchItem(index, name, None, problem_error(status, line["problem"]))
        answer: Png | Segmentation
        if self._as_json:
            answer = Segmentation.from_body(line["segmentation"])
        else:
            answer = Png(base64.b64decode(line["png"], validate=True))
        return BatchItem(index, name, answer, None)


def batches(
    pictures: Iterable[Picture], options: tuple[Part, ...], as_json: bool, images_per_call: int
) -> Iterator[Batch]:
    """Share pictures out among calls; each is asked for when the one before is answered.

    Raises:
        ValueError: no call would have any.
    """
    if images_per_call < 1:
        raise ValueError(f"got {images_per_call} for images_per_call, must be at least 1")
    numbered = enumerate(pictures)
    chunks = iter(lambda: dict(islice(numbered, images_per_call)), {})
    return (Batch(some, options, as_json) for some in chunks)
