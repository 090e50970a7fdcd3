"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import httpx

from app.client import calls
from app.client.answers import BatchItem, Health, Model, Png, Prompt, Segmentation
from app.client.batches import IMAGES_PER_CALL, PATH, Batch, batches
from app.client.calls import Answer, Call, Example, SegmentOptions, TunedFile, check_status
from app.client.errors import BusyError, SegGptError, UnreachableError, transport_errors
from app.client.pictures import Picture
from app.client.retries import Attempts, Patience

Value = TypeVar("Value")
_GONE = 404


class Client:
    """A running service. One client may be used by several threads; close it, or use it in a `with`.

    Args:
        url: the service's address.
        timeout_s: seconds without a byte of an answer after which a question is given up.
        limit_s: seconds for a question with all its retries; for a batch, from one answer to the next.
        http: sends the requests, with your own headers, certificates or proxies; it stays yours to close.

    Raises:
        ValueError: the address is none, a time is not above 0, or the environment names a proxy that cannot be used.
        OSError: the environment names certificates that cannot be read.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout_s: float = 90,
        limit_s: float = 300,
        http: httpx.Client | None = None,
    ) -> None:
        self._url = calls.address(url)
        self._patience = Patience(timeout_s, limit_s)
        self._is_ours = http is None
        self._http = http or calls.default(httpx.Client)
        #: Registered prompts.
        self.prompts = Prompts(self)

    @overload
    def segment(self, image: Picture, *, json: Literal[False] = False, **options: Unpack[SegmentOptions]) -> Png: ...
    @overload
    def segment(self, image: Picture, *, json: Literal[True], **options: Unpack[SegmentOptions]) -> Segmentation: ...
    def segment(self, image: Picture, *, json: bool = False, **options: Unpack[SegmentOptions]) -> Png | Segmentation:
        """Mark in `image` what `examples` or a registered `prompt` mark.

        Args:
            image: the input image.
            json: whether to get segments with run lengths and polygons in place of a picture.
            options: see `SegmentOptions`.

        Raises:
            SegGptError: see `app.client.errors`.
            TypeError: an option is none.
        """
        return self._ask(calls.segment(image, json, options))

    def segment_batch(
        self,
        images: Iterable[Picture],
        *,
        json: bool = False,
        images_per_call: int = IMAGES_PER_CALL,
        **options: Unpack[SegmentOptions],
    ) -> Iterator[BatchItem]:
        """Mark the same in many images; answers come as they are ready, in any order.

        A bad picture fails alone, as an item with an error. Images are taken and read when it is their turn.

        Args:
            images: any number.
            json: as for `segment`; pictures are masks, of all classes together, unless `output` says otherwise.
            images_per_call: how many go into one request.
            options: see `SegmentOptions`.

        Raises:
            SegGptError: the service refuses the options or the prompt, or cannot be reached any more.
            TypeError: an option is none.
        """
        parts = calls.option_parts(options)
        return (item for batch in batches(images, parts, json, images_per_call) for item in self._batch(batch))

    def models(self) -> list[Model]:
        """What is loaded; empty until the checkpoint is found."""
        return self._ask(calls.models())

    def health(self) -> Health:
        """Whether the service can answer now. Asks once.

        Raises:
            UnreachableError: nobody answers there.
        """
        return self._ask(calls.health())

    def close(self) -> None:
        """Close the connections."""
        if self._is_ours:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, call: Call[Value]) -> Value:
        attempts = Attempts(self._patience)
        while True:
            try:
                answer = self._send(call, attempts)
                if answer.status == _GONE and call.method == "DELETE" and attempts.has_lost_one:
                    answer = calls.DONE  # by the attempt whose answer was lost
                return call.read(answer)
            except (BusyError, UnreachableError) as error:
                if not call.is_repeated:
                    raise
                time.sleep(attempts.wait_s(error))

    def _send(self, call: Call[Any], attempts: Attempts) -> Answer:
        with transport_errors():
            request = self._http.build_request(url=self._url + call.path, timeout=attempts.timeout, **call.arguments())
            response = self._http.send(request, stream=True)
            try:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    attempts.check()
            finally:
                response.close()
        return calls.answer(response, bytes(body))

    def _batch(self, batch: Batch) -> Iterator[BatchItem]:
        attempts = Attempts(self._patience)
        while batch.pending:
            error: SegGptError | None = None
            try:
                for item in self._lines(batch, attempts):
                    attempts.renew()
                    yield item
            except (BusyError, UnreachableError) as caught:
                error = caught
            yield from batch.unreadable()
            if batch.pending:
                time.sleep(attempts.wait_s(error or batch.failure()))

    def _lines(self, batch: Batch, attempts: Attempts) -> Iterator[BatchItem]:
        with transport_errors():
            request = self._http.build_request(
                "POST", self._url + PATH, content=batch.body(), headers=batch.headers, timeout=attempts.timeout
            )
            response = self._http.send(request, stream=True)
            try:
                if batch.is_empty:
                    return
                if response.is_error or response.is_redirect:
                    check_status(response.status_code, response.headers.get("retry-after"), response.read())
                for line in response.iter_lines():
                    yield from batch.take(line)
            finally:
                response.close()


class Prompts:
    """The registered prompts of a service; made by `Client`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def register(
        self,
        examples: Iterable[Example] = (),
        *,
        name: str | None = None,
        mask_kind: Literal["binary", "index", "colour"] | None = None,
        labels: Sequence[Any] | None = None,
        tuned: TunedFile | None = None,
    ) -> Prompt:
        """Keep examples under an id. The same examples again are the same prompt.

        Args:
            examples: (prompt image, prompt mask) pairs.
            name: another name for the id.
            mask_kind: how the masks show classes; None is binary.
            labels: the classes, as in `SegmentOptions`.
            tuned: what `seggpt tune` wrote, in place of examples: a path or bytes.

        Raises:
            SegGptError: see `app.client.errors`; `NameTakenError` if another prompt has the name.
        """
        return self._client._ask(calls.register(examples, name, mask_kind, labels, tuned))

    def list(self, page: int | None = None) -> Iterator[Prompt]:
        """All of them, asked for page by page of so many prompts."""
        after: str | None = None
        while True:
            prompts, after = self._client._ask(calls.prompts_page(page, after))
            yield from prompts
            if after is None:
                return

    def get(self, prompt: str | Prompt) -> Prompt:
        """One of them, by id or name."""
        return self._client._ask(calls.get_prompt(prompt))

    def preview(self, prompt: str | Prompt) -> Png:
        """A picture of its examples."""
        return self._client._ask(calls.preview(prompt))

    def rename(self, prompt: str | Prompt, name: str | None) -> Prompt:
        """Give it another name, or none."""
        return self._client._ask(calls.rename(prompt, name))

    def delete(self, prompt: str | Prompt) -> None:
        """Remove it."""
        self._client._ask(calls.delete(prompt))
