"""A tiny checkpoint on disk and the real parts around it: cells, queue, supervisor, worker process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from app.batcher import Batcher, cells_needed
from app.metrics import Metrics
from app.worker.cells import CellMemory, Cells, Pixels
from app.worker.groups import Answer
from app.worker.messages import Configure
from app.worker.supervisor import Supervisor, configure
from model.checkpoint import Checkpoint, load, resolve, save
from model.colours import colours, grey, normalise
from model.config import SegGptConfig
from model.seggpt import SegGptForImageSegmentation

TINY = SegGptConfig(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    mlp_dim=64,
    image_size=(64, 32),
    patch_size=8,
    pretrain_image_size=32,
    decoder_hidden_size=8,
    merge_index=1,
    intermediate_hidden_state_indices=(1, 2),
)
QUEUE_PAIRS = 16
FAR_S = 200.0
"""A deadline that no test waits for."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny network with weights as large as trained ones, so that different inputs give different answers."""
    torch.manual_seed(0)
    model = SegGptForImageSegmentation(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(noise * TINY.hidden_size**-0.5 if parameter.ndim > 1 else parameter + 0.1 * noise)
    folder = tmp_path_factory.mktemp("tiny")
    save(model, folder)
    return resolve(folder)


@pytest.fixture(scope="session")
def model(checkpoint: Checkpoint) -> SegGptForImageSegmentation:
    return load(checkpoint, dtype=torch.float32)


@pytest.fixture
def cells() -> Iterator[Cells]:
    cells = Cells(cells_needed(QUEUE_PAIRS), TINY.half_size)
    yield cells
    cells.close()


class Pictures:
    """One request's pixels: an input image and examples, drawn from a seed."""

    def __init__(self, seed: int, examples: int = 1) -> None:
        random = np.random.default_rng(seed)
        shape = (1 + 2 * examples, *TINY.half_size, 3)
        self.image, *rest = random.integers(0, 256, shape, dtype=np.uint8)
        self.examples: list[tuple[Pixels, Pixels]] = list(zip(rest[::2], rest[1::2], strict=True))

    @torch.inference_mode()
    def alone(self, model: SegGptForImageSegmentation, embedding_type: str = "instance") -> Pixels:
        """The answer of a forward of nothing but these, by another way than the engine's: (h, w, 4) uint8."""
        columns = [[self.image] * len(self.examples), *zip(*self.examples, strict=True)]
        rows = [normalise(torch.from_numpy(np.stack(column)), torch.float32) for column in columns]
        painted = model(*rows, embedding_type=embedding_type, group_sizes=[len(self.examples)], answer_only=True)
        channels = [*colours(painted.pred_masks)[0], grey(painted.pred_masks)[0]]
        return np.ceil(np.stack([channel.numpy() for channel in channels], axis=-1) - 0.5).astype(np.uint8)


def assert_same(levels: Pixels, expected: Pixels) -> None:
    """Equal up to one level where float noise decides a rounding; and not constant, which would show nothing."""
    assert levels.dtype == np.uint8
    assert np.abs(levels.astype(int) - expected.astype(int)).max() <= 1
    assert (levels == expected).mean() > 0.999
    assert expected.std() > 1


class House:
    """One queue, one supervisor, and what they need."""

    def __init__(
        self, setup: Configure, cells: Cells, batcher: Batcher, supervisor: Supervisor, fatal: list[str]
    ) -> None:
        self.setup = setup
        self.cells = cells
        self.batcher = batcher
        self.supervisor = supervisor
        self.fatal = fatal

    async def ask(
        self,
        pictures: Pictures,
        embedding_type: str = "instance",
        seconds: float = FAR_S,
        prompt: str | None = None,
    ) -> Answer:
        with self.batcher.admit(len(pictures.examples)) as ticket:
            ticket.write(pictures.image, pictures.examples)
            return await ticket.answer(embedding_type, time.monotonic() + seconds, prompt)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for `condition`; the test's own timeout is the limit."""
        while not condition():  # noqa: ASYNC110  # some of what is waited for happens in another process
            await asyncio.sleep(0.002)

    async def until_ready(self) -> None:
        await self.until(lambda: self.supervisor.ready or self.fatal)
        assert not self.fatal

    async def until_warm(self) -> None:
        """Wait for the largest bucket; one that a busy machine made look slow is tried again after real batches."""
        while self.supervisor.max_batch_pairs < self.setup.max_batch_pairs:
            await self.ask(Pictures(60))
            await asyncio.sleep(0.05)

    def signal_worker(self, number: int) -> None:
        pid = self.supervisor.pid
        assert pid is not None
        os.kill(pid, number)


@asynccontextmanager
async def open_house(
    checkpoint: Checkpoint,
    cells: Cells,
    *,
    batcher: Batcher | None = None,
    forward_timeout_s: float = 60.0,
    dtype: str = "float32",
    pairs: int = 8,
) -> AsyncIterator[House]:
    metrics = Metrics()
    batcher = batcher or Batcher(QUEUE_PAIRS, cells, metrics)
    setup = make_setup(checkpoint, cells, dtype=dtype, pairs=pairs)
    fatal: list[str] = []
    supervisor = Supervisor(setup, cells, batcher, metrics, forward_timeout_s=forward_timeout_s, on_fatal=fatal.append)
    house = House(setup, cells, batcher, supervisor, fatal)
    supervisor.start()
    try:
        yield house
    finally:
        await supervisor.stop(grace_s=20)


def make_setup(
    checkpoint: Checkpoint,
    cells: CellMemory,
    *,
    dtype: str = "float32",
    pairs: int = 8,
    prompt_cache_bytes: int = 2**20,
) -> Configure:
    return configure(
        checkpoint.to_dict(),
        cells,
        device="cpu",
        dtype=dtype,
        threads=1,
        max_batch_pairs=pairs,
        warmup_limit_s=60.0,
        prompt_cache_bytes=prompt_cache_bytes,
    )


def copy_of(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The same checkpoint in files of its own, to be damaged."""
    folder.mkdir()
    for file in checkpoint.weights.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return resolve(folder)


def metric(house: House, name: str) -> float:
    value = house.batcher._metrics.registry.get_sample_value(name)
    assert value is not None
    return value
