"""The running service: finds the checkpoint, starts the workers, and knows at any moment whether it can answer.

Everything that must be started and stopped hangs here; what a request does is in `app.pipeline`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeVar

from app import bicubic
from app.batcher import Batcher, cells_needed
from app.codecs import Codecs
from app.errors import DeadlineExceeded, Draining, NotReady, OtherCheckpoint, Problem
from app.examples import ExampleCache
from app.images import Limits
from app.intake import Intake
from app.metrics import Metrics
from app.pipeline import Pipeline
from app.prompt_archive import TunedFor
from app.prompts import PromptStore
from app.remote import Fetcher
from app.requests import Concept
from app.schemas import Model, Models, Size, Worker
from app.settings import Settings, SettingsError, variable
from app.worker.cells import Cells
from app.worker.channel import child_environment
from app.worker.messages import LoadFailed, MessageError, Prepared, decode
from app.worker.supervisor import Supervisor, configure

Result = TypeVar("Result")

_REST_GRACE_S = 1.0
_STORAGE_THREADS = 8

logger = logging.getLogger(__name__)


class _StartError(Exception):
    """The service can never answer; one line says why."""


class Service:
    """One service in one event loop.

    Args:
        settings: every knob.
        on_fatal: called once, with one line, when the service can never answer: no checkpoint, no device.

    Raises:
        SettingsError: nothing that is installed opens the place where prompts are kept.
    """

    def __init__(self, settings: Settings, on_fatal: Callable[[str], None]) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.metrics.queue_limit_pairs.set(settings.queue_pairs)
        self.metrics.workers_ready.set_function(lambda: self.workers_ready)
        self.failure: str | None = None
        self.draining = False
        #: Set when the time for draining is over.
        self.given_up = asyncio.Event()
        self._limits: set[asyncio.Timeout] = set()
        self._on_fatal = on_fatal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain_until = 0.0
        self._opening: asyncio.Task[None] | None = None
        self._prepared: Prepared | None = None
        #: Threads for work on pictures.
        self.codecs = Codecs(settings.codec_threads or max(1, (os.cpu_count() or 1) - 1))
        self._storage = Codecs(_STORAGE_THREADS)
        #: Registered prompts; its methods block.
        self.prompts = _open_store(settings)
        #: Reads pictures by URL.
        self.fetcher = Fetcher(settings.url_hosts, settings.url_timeout_s)
        self._cells: Cells | None = None
        self._batcher: Batcher | None = None
        self._pipeline: Pipeline | None = None
        self._supervisors: list[Supervisor] = []

    # Its life.

    def start(self) -> None:
        """Begin to open; returns at once, `ready` turns true when a worker has given its warm-up answer."""
        self._loop = asyncio.get_running_loop()
        self._opening = asyncio.create_task(self._open(), name="open the service")

    def drain(self) -> None:
        """Take nothing new from now on; what was accepted goes on."""
        if self.draining:
            return
        logger.info("draining: what was accepted is finished, nothing new is taken")
        self.draining = True
        self._drain_until = time.monotonic() + self.settings.drain_s
        if self._batcher is not None:
            self._batcher.close()
        if self._loop is not None:
            # Called from a signal handler, between two steps of the loop, so nothing of the loop may be touched here.
            self._loop.call_soon_threadsafe(self._loop.call_later, self.settings.drain_s, self._give_up)

    def _give_up(self) -> None:
        """The time for draining is over: what is not answered yet is answered now, as a refusal to be sent again."""
        self.given_up.set()
        for limit in self._limits:
            limit.reschedule(0.0)
        if self._batcher is not None:
            self._batcher.fail_all(Draining("the service stopped before this request's turn came"))

    @contextlib.asynccontextmanager
    async def at_most(self, seconds: float) -> AsyncIterator[None]:
        """As asyncio.timeout, and no longer than the time for draining.

        Raises:
            TimeoutError: either is over.
        """
        async with asyncio.timeout(0.0 if self.given_up.is_set() else max(0.0, seconds)) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    async def stop(self) -> None:
        """Finish what was accepted, for at most `SEGGPT_DRAIN_S` since `drain`, then end every process and thread."""
        self.drain()
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._opening
        if self._batcher is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._drain_until - time.monotonic())):
                    await self._batcher.drain()
        self._give_up()
        await asyncio.gather(*(supervisor.stop(_REST_GRACE_S) for supervisor in self._supervisors))
        self.codecs.close()
        self._storage.close()
        self.fetcher.close()
        if self._cells is not None:
            self._cells.close()

    async def ask_store(self, call: Callable[..., Result], *arguments: Any, deadline: float) -> Result:
        """The result of a blocking call of `prompts`; slow storage holds up neither the event loop nor any decoding.

        Args:
            deadline: `time.monotonic()` seconds.

        Raises:
            DeadlineExceeded: the storage has not answered by then; what it was asked may still happen.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                (result,) = await self._storage.run([partial(call, *arguments)], deadline)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the prompt store answered") from None
        return result

    async def _find_prompt(self, identity: str, deadline: float) -> Concept:
        """A registered prompt as the pipeline takes it."""
        prompt = await self.ask_store(self.prompts.get, identity, deadline=deadline)
        self.check_tuned(prompt.tuned_for, f"the prompt {prompt.name or prompt.id!r}")
        return Concept(prompt.examples, prompt.kind, prompt.labels, prompt.name or prompt.id)

    def check_tuned(self, tuned_for: TunedFor | None, what: str) -> None:
        """Refuse what was tuned for another checkpoint: here it would mean nothing, and no answer would say so.

        Args:
            tuned_for: None if nothing was tuned.
            what: the prompt, for the message.

        Raises:
            OtherCheckpoint: it was.
        """
        if tuned_for is None or self._prepared is None or tuned_for.fingerprint == self._prepared.fingerprint:
            return
        raise OtherCheckpoint(
            f"{what} was tuned for the checkpoint {tuned_for.checkpoint!r} with the fingerprint "
            f"{tuned_for.fingerprint[:12]}; this service has one with the fingerprint "
            f"{self._prepared.fingerprint[:12]}; tune a prompt for it with `seggpt tune`"
        )

    async def _open(self) -> None:
        # One of the threads that will resize: what comes before it is done waits there.
        compiling = asyncio.create_task(self.codecs.run([bicubic.prepare], math.inf), name="compile")
        try:
            self._prepared = await _prepare(self.settings)
            self._wire(self._prepared)
            await compiling
        except (_StartError, OSError) as error:
            self._fail(str(error))

    def _wire(self, prepared: Prepared) -> None:
        settings = self.settings
        self._cells = Cells(cells_needed(settings.queue_pairs), prepared.cell_size)
        self._batcher = Batcher(settings.queue_pairs, self._cells, self.metrics, workers=len(prepared.devices))
        intake = Intake(
            self.codecs,
            self.metrics,
            ExampleCache(settings.example_cache_bytes),
            limits=Limits(settings.max_image_pixels, settings.max_image_side),
            cell_size=prepared.cell_size,
            max_tiles=settings.max_tiles,
        )
        self._pipeline = Pipeline(
            self._batcher,
            self.codecs,
            intake,
            self.metrics,
            find_prompt=self._find_prompt,
            max_examples=settings.max_examples,
            # Enough to fill each worker's next batch while it computes the present one.
            units_at_once=2 * settings.max_batch_pairs * len(prepared.devices),
        )
        for device in prepared.devices:
            setup = configure(
                prepared.checkpoint,
                self._cells,
                device=device,
                dtype=settings.dtype,
                threads=prepared.threads,
                max_batch_pairs=settings.max_batch_pairs,
                warmup_limit_s=settings.warmup_limit_s,
                prompt_cache_bytes=settings.prompt_cache_bytes,
            )
            supervisor = Supervisor(
                setup,
                self._cells,
                self._batcher,
                self.metrics,
                forward_timeout_s=settings.forward_timeout_s,
                on_fatal=self._fail,
            )
            self._supervisors.append(supervisor)
            supervisor.start()

    def _fail(self, message: str) -> None:
        """A worker of several may fail for good while others serve; the service fails with the last."""
        logger.critical("%s", message)
        if self.failure is None and all(supervisor.state == "failed" for supervisor in self._supervisors):
            self.failure = message
            self._on_fatal(message)

    # What it is like now.

    @property
    def workers_ready(self) -> int:
        """How many workers can answer."""
        return sum(supervisor.ready for supervisor in self._supervisors)

    @property
    def pairs_at_once(self) -> int:
        """Pairs that keep every device busy: those that it computes and those that it takes next."""
        return 2 * sum(supervisor.max_batch_pairs for supervisor in self._supervisors)

    @property
    def started(self) -> bool:
        """Whether a worker has ever been ready."""
        return any(supervisor.info is not None for supervisor in self._supervisors)

    @property
    def ready(self) -> bool:
        """Whether a request that comes now would be answered without waiting for a worker to start."""
        return not self.draining and self.workers_ready > 0

    @property
    def condition(self) -> str:
        """What the service is doing, for people."""
        if self.failure is not None:
            return self.failure
        if self.draining:
            return "draining: finishing what was accepted"
        if self._prepared is None:
            return f"fetching the checkpoint {self.settings.checkpoint}"
        if self.workers_ready == 0:
            return "; ".join(f"worker {worker.device} is {worker.state}" for worker in self._supervisors)
        return f"{self.workers_ready} of {len(self._supervisors)} workers ready"

    def open_pipeline(self) -> Pipeline:
        """The way of a new request.

        While a worker is being replaced requests are still taken: they wait for it, up to their deadline.

        Raises:
            Draining: the service is shutting down.
            NotReady: no worker was ever ready.
        """
        if self.draining:
            raise Draining("the service is shutting down and takes no new requests")
        if self._pipeline is None or not self.started:
            raise NotReady(f"not ready: {self.condition}")
        return self._pipeline

    def refusal(self, *, patient: bool = False) -> Problem | None:
        """Why a segmentation request would be refused whatever is in it, before its body is read; None if it is not.

        Args:
            patient: the request waits for room in the queue.
        """
        try:
            self.open_pipeline()
            if self._batcher is not None and not patient:
                self._batcher.check_room(1)
        except Problem as problem:
            return problem
        return None

    def models(self) -> Models:
        """The loaded checkpoint, as `/v1/models` shows it."""
        prepared = self._prepared
        if prepared is None:
            return Models(models=[])
        infos = [supervisor.info for supervisor in self._supervisors]
        return Models(
            models=[
                Model(
                    checkpoint=prepared.checkpoint["source"],
                    revision=prepared.checkpoint["revision"],
                    fingerprint=prepared.fingerprint,
                    parameters=next((info.parameters for info in infos if info is not None), None),
                    picture_size=Size(height=prepared.cell_size[0], width=prepared.cell_size[1]),
                    canvas_size=Size(height=prepared.canvas_size[0], width=prepared.canvas_size[1]),
                    patch_size=prepared.patch_size,
                    workers=[
                        Worker(
                            device=supervisor.device,
                            device_name=info.device_name if info else None,
                            dtype=info.dtype if info else None,
                            attention=info.attention if info else None,
                            linear=info.linear if info else None,
                            state=supervisor.state,
                            max_batch_pairs=supervisor.max_batch_pairs if info else None,
                        )
                        for supervisor, info in zip(self._supervisors, infos, strict=True)
                    ],
                )
            ]
        )


def _open_store(settings: Settings) -> PromptStore:
    """Where prompts are kept; nothing is read or written yet.

    Raises:
        SettingsError: no installed package opens it.
    """
    try:
        return PromptStore(settings.prompts)
    except ValueError as error:
        raise SettingsError(f"{variable('prompts')}: {error}") from error


async def _prepare(settings: Settings) -> Prepared:
    """Run `python -m app.worker.prepare`; ended with it if this is cancelled.

    Raises:
        _StartError: what it said, or that it ended without a word.
    """
    arguments = ["--checkpoint", settings.checkpoint, "--devices", ",".join(settings.devices)]
    options = (("--revision", settings.revision), ("--cache-dir", settings.cache_dir), ("--threads", settings.threads))
    for name, value in options:
        arguments += [name, str(value)] if value else []
    arguments += ["--offline"] if settings.offline else []
    environment = child_environment()
    if settings.token is not None:
        environment["HF_TOKEN"] = settings.token.get_secret_value()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.worker.prepare",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        output = await process.stdout.read()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        message = decode(output)
    except MessageError as error:
        raise _StartError(f"preparing the checkpoint ended with status {process.returncode} and no result") from error
    if isinstance(message, LoadFailed):
        raise _StartError(message.message)
    assert isinstance(message, Prepared)
    return message
