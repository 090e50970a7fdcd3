"""What a training run keeps on disk, so that it can go on, or end at any time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from model.config import SegGptConfig
from model.seggpt import SegGptForImageSegmentation

AVERAGE_OVER = 400  # steps that the moving average of the weights looks back on, at most


@dataclass
class Snapshot:
    """The state of a run between two steps.

    weights, average: float32 state dicts; the moving average is what gets exported.
    pairs, steps, seconds: seen and spent so far, over all resumptions.
    lesson: state dict of the layer that guesses the teacher's features; empty without a teacher.
    """

    config: SegGptConfig
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimisers: list[dict[str, Any]] = field(default_factory=list)
    pairs: int = 0
    steps: int = 0
    seconds: float = 0.0
    lesson: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is another file, or a damaged one.
        """
        with path.open("rb") as file:
            is_whole = is_zipfile(file)  # in other files torch would look for older formats
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True) if is_whole else {}
            return cls(**{**stored, "config": SegGptConfig.from_dict(stored["config"])})
        except (RuntimeError, UnpicklingError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no snapshot of a run, or is damaged") from error

    def save(self, path: Path) -> None:
        """Write, then rename, so that a reader never meets half a file."""
        partial = path.with_suffix(".partial")
        torch.save({**vars(self), "config": self.config.to_dict()}, partial)
        partial.replace(path)

    def network(self) -> SegGptForImageSegmentation:
        """The averaged network, float32, in eval mode."""
        network = SegGptForImageSegmentation(self.config)
        network.load_state_dict(self.average)
        return network.eval()


@torch.no_grad()
def follow(average: dict[str, Tensor], weights: dict[str, Tensor], steps: int) -> None:
    """Move the average towards the weights, quickly at first."""
    share = max(1 / AVERAGE_OVER, 9 / (10 + steps))
    torch._foreach_lerp_(list(average.values()), [weights[name] for name in average], share)
