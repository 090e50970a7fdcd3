"""The asynchronous client: the same questions as the blocking one's, for asyncio and trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import anyio
import anyio.to_thread
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


class AsyncClient:
    """A running service. Close it with `aclose`, or use it in an `async with`. The arguments are `Client`'s."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout_s: float = 90,
        limit_s: float = 300,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._url = calls.address(url)
        self._patience = Patience(timeout_s, limit_s)
        self._is_ours = http is None
        self._http = http or calls.default(httpx.AsyncClient)
        #: Registered prompts.
        self.prompts = AsyncPrompts(self)

    @overload
    async def segment(
        self, image: Picture, *, json: Literal[False] = False, **options: Unpack[SegmentOptions]
    ) -> Png: ...
    @overload
    async def segment(
        self, image: Picture, *, json: Literal[True], **options: Unpack[SegmentOptions]
    ) -> Segmentation: ...
    async def segment(
        self, image: Picture, *, json: bool = False, **options: Unpack[SegmentOptions]
    ) -> Png | Segmentation:
        """As `Client.segment`."""
        return await self._ask(lambda: calls.segment(image, json, options))

    async def segment_batch(
        self,
        images: Iterable[Picture],
        *,
        json: bool = False,
        images_per_call: int = IMAGES_PER_CALL,
        **options: Unpack[SegmentOptions],
    ) -> AsyncIterator[BatchItem]:
        """As `Client.segment_batch`: `async for item in client.segment_batch(...)`."""
        parts = await anyio.to_thread.run_sync(calls.option_parts, options)
        for batch in batches(images, parts, json, images_per_call):
            async for item in self._batch(batch):
                yield item

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return await self._ask(calls.models)

    async def health(self) -> Health:
        """As `Client.health`."""
        return await self._ask(calls.health)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._is_ours:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _ask(self, make: Callable[[], Call[Value]]) -> Value:
        """Ask what `make` gives; it reads and encodes pictures, so not in the event loop."""
        call = await anyio.to_thread.run_sync(make)
        attempts = Attempts(self._patience)
        while True:
            try:
                answer = await self._send(call, attempts)
                if answer.status == _GONE and call.method == "DELETE" and attempts.has_lost_one:
                    answer = calls.DONE  # by the attempt whose answer was lost
                return call.read(answer)
            except (BusyError, UnreachableError) as error:
                if not call.is_repeated:
                    raise
                wait_s = attempts.wait_s(error)
            await anyio.sleep(wait_s)

    async def _send(self, call: Call[Any], attempts: Attempts) -> Answer:
        with transport_errors():
            request = self._http.build_request(url=self._url + call.path, timeout=attempts.timeout, **call.arguments())
            response = await self._http.send(request, stream=True)
            try:
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    attempts.check()
            finally:
                await response.aclose()
        return calls.answer(response, bytes(body))

    async def _batch(self, batch: Batch) -> AsyncIterator[BatchItem]:
        attempts = Attempts(self._patience)
        while batch.pending:
            error: SegGptError | None = None
            try:
                async for item in self._lines(batch, attempts):
                    attempts.renew()
                    yield item
            except (BusyError, UnreachableError) as caught:
                error = caught
            for item in batch.unreadable():
                yield item
            if batch.pending:
                await anyio.sleep(attempts.wait_s(error or batch.failure()))

    async def _lines(self, batch: Batch, attempts: Attempts) -> AsyncIterator[BatchItem]:
        with transport_errors():
            request = self._http.build_request(
                "POST", self._url + PATH, content=_pieces(batch.body()), headers=batch.headers, timeout=attempts.timeout
            )
            response = await self._http.send(request, stream=True)
            try:
                if batch.is_empty:
                    return
                if response.is_error or response.is_redirect:
                    check_status(response.status_code, response.headers.get("retry-after"), await response.aread())
                async for line in response.aiter_lines():
                    for item in batch.take(line):
                        yield item
            finally:
                await response.aclose()


class AsyncPrompts:
    """The registered prompts of a service; made by `AsyncClient`. The methods are those of `Prompts`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def register(
        self,
        examples: Iterable[Example] = (),
        *,
        name: str | None = None,
        mask_kind: Literal["binary", "index", "colour"] | None = None,
        labels: Sequence[Any] | None = None,
        tuned: TunedFile | None = None,
    ) -> Prompt:
        """Keep examples, or a tuned prompt, under an id."""
        return await self._client._ask(lambda: calls.register(examples, name, mask_kind, labels, tuned))

    async def list(self, page: int | None = None) -> AsyncIterator[Prompt]:
        """All of them: `async for prompt in client.prompts.list()`."""
        after: str | None = None
        while True:
            prompts, after = await self._client._ask(partial(calls.prompts_page, page, after))
            for prompt in prompts:
                yield prompt
            if after is None:
                return

    async def get(self, prompt: str | Prompt) -> Prompt:
        """One of them, by id or name."""
        return await self._client._ask(lambda: calls.get_prompt(prompt))

    async def preview(self, prompt: str | Prompt) -> Png:
        """A picture of its examples."""
        return await self._client._ask(lambda: calls.preview(prompt))

    async def rename(self, prompt: str | Prompt, name: str | None) -> Prompt:
        """Give it another name, or none."""
        return await self._client._ask(lambda: calls.rename(prompt, name))

    async def delete(self, prompt: str | Prompt) -> None:
        """Remove it."""
        await self._client._ask(lambda: calls.delete(prompt))


async def _pieces(body: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await anyio.to_thread.run_sync(next, body, None)) is not None:
        yield piece
