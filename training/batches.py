"""What one step learns from, composed at the moment of need or ahead of it.

Composing is hundreds of small launches, as the step itself is. On a GPU both are limited by the processor that launches
them, so a second thread composes the coming batches on a stream of its own while the present one is learnt from; torch
holds no interpreter lock while it launches.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from training.painting import hidden_patches
from training.recipe import Recipe, Stage
from training.scenes import SceneMaker, Scenes

EXAMPLES = (2, 2, 4)  # of ensembles
AHEAD = 2  # batches on a GPU: some take longer to compose than a step, most do not


@dataclass(frozen=True)
class Batch:
    """One batch.

    Args:
        scenes: its pairs.
        examples: neighbouring pairs that are one scene's.
        kind: type token that it carries.
        hidden: (pairs, patches) bool, the patches of the whole canvas to paint; None asks for the input halves.
    """

    scenes: Scenes
    examples: int
    kind: str
    hidden: Tensor | None


class Composer:
    """Draws batches as a recipe says."""

    def __init__(self, makers: SceneMaker, recipe: Recipe, patch_size: int) -> None:
        self.makers, self.recipe, self.patch_size = makers, recipe, patch_size

    def batch(self, stage: Stage) -> Batch:
        """The next batch of a stage."""
        dice, recipe = self.makers.dice, self.recipe
        kind = "semantic" if bool(dice.chance(recipe.semantic, 1)) else "instance"
        is_hidden = bool(dice.chance(recipe.masked, 1))
        several = not is_hidden and bool(dice.chance(recipe.ensembles, 1))
        examples = EXAMPLES[int(dice.choice(len(EXAMPLES), 1))] if several else 1
        scenes = self.makers.batch(stage.batch // examples, stage.size, examples)
        hidden = hidden_patches(dice, len(scenes), stage.size // self.patch_size) if is_hidden else None
        return Batch(scenes, examples, kind, hidden)


@dataclass(frozen=True)
class _Composed:
    batch: Batch
    dice_before: Tensor  # the generator's state
    is_ready: torch.cuda.Event | None  # once the stream that composed it has come so far


class Ahead:
    """A composer's batches, in its order.

    Args:
        composer: no one else may draw from its dice any more.
        device: where it composes.
        depth: how many batches are composed ahead, in a thread; with 0 each is composed when it is asked for. The
            batches are the same.
    """

    def __init__(self, composer: Composer, device: torch.device, depth: int) -> None:
        self._composer, self._device, self._depth = composer, device, depth
        self._worker = ThreadPoolExecutor(1, "compose")  # starts its thread when it is first given work
        self._coming: deque[tuple[Stage, Future[_Composed]]] = deque()
        self._stream: torch.cuda.Stream | None = None
        if depth and device.type == "cuda":
            # Its kernels are short and the thread waits for some of them; those of the step are long.
            self._stream = torch.cuda.Stream(device, priority=-1)
            # What the composer holds was made on the present stream.
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def next(self, stage: Stage) -> Batch:
        """The next batch of a stage. What was composed ahead for another stage is dropped, as if it never was."""
        if not self._depth:
            return self._composer.batch(stage)
        if self._coming and self._coming[0][0] is not stage:
            self._drop()
        while len(self._coming) <= self._depth:
            self._coming.append((stage, self._worker.submit(self._compose, stage)))
        composed = self._coming.popleft()[1].result()
        if composed.is_ready is not None:
            self._hand_over(composed.batch, composed.is_ready)
        return composed.batch

    def _compose(self, stage: Stage) -> _Composed:
        before = self._composer.makers.dice.generator.get_state()
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            batch = self._composer.batch(stage)
        return _Composed(batch, before, None if self._stream is None else self._stream.record_event())

    def _hand_over(self, batch: Batch, is_ready: torch.cuda.Event) -> None:
        """Let the present stream use what the other one composes, and keep its memory until it is done with it."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(is_ready)
        for tensor in (*vars(batch.scenes).values(), batch.hidden):
            if tensor is not None:
                tensor.record_stream(stream)

    def _drop(self) -> None:
        """Forget what was composed ahead, and the random numbers that it took."""
        first, *_ = [future.result() for _, future in self._coming]
        self._coming.clear()
        self._composer.makers.dice.generator.set_state(first.dice_before)
