"""What shapes a run: its stages, its step sizes, the network that it makes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from model.config import SegGptConfig

# Balance at the end of a run, as in the last part of the bundled weights' last run. With 0.5 photos lost more than made
# scenes won: what is unsure was left out (docs/log.md).
OVERLAP = 0.7


@dataclass(frozen=True)
class Stage:
    """A part of a run at one size. Sizes in pixels of one half.

    Args:
        until: where the stage ends, as a share of the run in (0, 1].
        size: of the pictures.
        batch: pairs per step and process.
        balance: of `training.loss.painting_loss`.
        painted: False learns from the teacher alone.
    """

    until: float
    size: int
    batch: int
    balance: float = 1.0
    painted: bool = True


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a run but its pictures.

    Args:
        stages: in order; the last one's `until` is 1.
        pairs, minutes: the run ends with whichever comes first. Only `pairs` makes a run repeatable.
        learning_rate: the highest, reached after warm_up_steps, falling to zero as half a cosine.
        masked: share of the batches in which random patches of the whole canvas are hidden, not the input half.
        ensembles: share of the other batches in which several examples of each thing are one feature ensemble.
        taught: weight of the teacher's loss beside the painting's; 0 needs no teacher.
        taught_every: of so many painted steps one has the teacher, with so many times its weight: seeing takes it long.
        semantic: share of the batches that carry the semantic type token, so that both tokens are trained.
        report_every: steps between two looks at held-out scenes, each with a line in the log and a snapshot.
        snapshot_minutes: between two snapshots, where looks are further apart.
        precision: of the forward; None is bfloat16 where the hardware has it, else float32.
    """

    stages: tuple[Stage, ...]
    pairs: int = 10**12
    minutes: float = 10**6
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up_steps: int = 200
    masked: float = 0.1
    ensembles: float = 0.0
    semantic: float = 0.2
    taught: float = 0.0
    taught_every: int = 3
    seed: int = 0
    report_every: int = 250
    snapshot_minutes: float = 5.0
    optimiser: str = "muon"
    precision: torch.dtype | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what makes no run."""
        for name in ("pairs", "minutes", "learning_rate", "report_every", "snapshot_minutes"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if not self.taught >= 0:
            raise ValueError(f"taught is {self.taught}; it must be 0 or more")
        if not self.taught and not all(stage.painted for stage in self.stages):
            raise ValueError("a stage that does not paint learns from a teacher, and taught is 0")

    def stage(self, progress: float) -> Stage:
        """The one at `progress` in [0, 1] of the run."""
        return next((stage for stage in self.stages if progress < stage.until), self.stages[-1])

    def painting(self) -> Recipe:
        """The same without the stages that learn from the teacher alone, the others longer."""
        begin = max((stage.until for stage in self.stages if not stage.painted), default=0.0)
        stages = (replace(stage, until=(stage.until - begin) / (1 - begin)) for stage in self.stages if stage.painted)
        return replace(self, stages=tuple(stages))


# First the small network learns to see what the teacher sees, then to paint, in small pictures at first; the last stage
# unlearns to mark whatever might be the thing.
BUNDLED = Recipe(
    stages=(
        Stage(0.2, 128, 12, painted=False),
        Stage(0.55, 96, 16),
        Stage(0.85, 128, 8),
        Stage(1.0, 128, 8, OVERLAP),
    ),
    minutes=480,
    pairs=1_500_000,
    ensembles=0.2,
    taught=0.8,
    learning_rate=4.5e-4,
)
# The same in twenty minutes: a GPU learns from hundreds of pairs in the time that their launches take. Not run yet.
BUNDLED_ON_GPU = replace(
    BUNDLED,
    stages=(
        Stage(0.15, 128, 256, painted=False),
        Stage(0.5, 96, 256),
        Stage(0.85, 128, 256),
        Stage(1.0, 128, 256, OVERLAP),
    ),
    minutes=20,
    pairs=10_000_000,
    learning_rate=1.6e-3,
    ensembles=0.25,
)
# Two minutes on two CPU cores, on drawn things and a smaller network: enough to see that it learns.
SHORT = Recipe(
    stages=(Stage(1.0, 48, 32),), pairs=8_000, learning_rate=2e-3, warm_up_steps=50, report_every=50, masked=0.05
)


def bundled_config(size: int) -> SegGptConfig:
    """What `bundled` makes, at halves of size x size pixels: 15.6 MB in float16."""
    return SegGptConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        mlp_dim=640,
        image_size=(2 * size, size),
        patch_size=8,
        pretrain_image_size=256,
        decoder_hidden_size=16,
        merge_index=0,
        intermediate_hidden_state_indices=(3, 5),
        drop_path_rate=0.0,
        beta=0.5,
    )


def short_config(size: int) -> SegGptConfig:
    """A network for SHORT: 0.6 million parameters."""
    return replace(
        bundled_config(size),
        hidden_size=96,
        num_hidden_layers=5,
        mlp_dim=None,
        num_attention_heads=3,
        pretrain_image_size=128,
        intermediate_hidden_state_indices=(1, 2, 3, 4),
    )


def fine_tuning(config: SegGptConfig, batch: int) -> Recipe:
    """For a trained network of this shape: its own size, small steps, AdamW, an hour."""
    return Recipe(
        stages=(Stage(1.0, config.half_size[1], batch, OVERLAP),),
        minutes=60,
        learning_rate=2e-5,
        warm_up_steps=50,
        report_every=100,
        optimiser="adamw",
    )
