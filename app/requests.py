"""What is asked of the pipeline: the picture, what to look for in it, and how to answer. Encoded bytes, no pixels."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from app.examples import Example
from app.labels import BINARY, Labels, PromptKind
from app.metrics import STAGES
from app.tiles import TileSize
from app.upsampling import Upsampling

EmbeddingType = Literal["instance", "semantic"]
Ensemble = Literal["feature", "spatial"]
Output = Literal["mask", "soft", "overlay", "index", "colour"]


class StageTimes:
    """Milliseconds of one request in each stage; a stage that has not run has none."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        #: Tiles that the input image was cut into, and those that are answered; 0 when it was not cut.
        self.tiles = self.tiles_done = 0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time inside to `stage`, whether or not it ends well."""
        assert stage in STAGES
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[stage] = self.ms.get(stage, 0.0) + (time.perf_counter() - start) * 1000


@dataclass(frozen=True)
class Concept:
    """What to look for: examples and what their masks mean.

    Args:
        examples: at least one.
        kind: how the masks show classes.
        labels: the classes.
        name: what tells it from others of the same request.
    """

    examples: Sequence[Example]
    kind: PromptKind = "binary"
    labels: Labels = BINARY
    name: str = "examples"


@dataclass(frozen=True)
class Manner:
    """How to look and how to answer.

    Args:
        embedding_type: "instance" or "semantic".
        ensemble: several examples meet inside the network, or as the tiles of one picture.
        threshold: in [0, 1]; a pixel belongs to its class when its soft value is above threshold * 255. None: 0.5.
        tile: cut the input image into tiles; None looks at it as a whole.
        upsampling: how the answer comes to the input image's size.
        output: which picture to answer with; None is a mask for one class and an index map for several.
        as_json: answer with segments in JSON instead of a picture.
        label: the name of the one class to show; None shows all.
        instances: tell the connected parts of each class apart.
        min_area: parts of fewer pixels of the input image are dropped, if `instances`.
        tolerance: how far polygons may be from the outlines, in pixels of the input image.
    """

    embedding_type: EmbeddingType = "instance"
    ensemble: Ensemble = "feature"
    threshold: float | None = None
    tile: TileSize | None = None
    upsampling: Upsampling = "nearest"
    output: Output | None = None
    as_json: bool = False
    label: str | None = None
    instances: bool = False
    min_area: int = 0
    tolerance: float = 1.0


@dataclass(frozen=True)
class Segmentation:
    """One input image and everything that is asked of it.

    Args:
        image: the encoded input image.
        concepts: examples sent along, or ids or names of registered prompts; at least one.
        manner: how.
        deadline: absolute, `time.monotonic()` seconds.
        patient: wait for room in the queue instead of being refused; for parts of what was accepted already.
        times: filled in as the request goes along, also when it fails on the way.
    """

    image: bytes
    concepts: Sequence[Concept | str]
    deadline: float
    manner: Manner = Manner()
    patient: bool = False
    times: StageTimes = field(default_factory=StageTimes)
