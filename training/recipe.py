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
    """

    until: float
    size: int
    batch: int
    balance: float = 1.0


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
        semantic: share of the batches that carry the semantic type token, so that both tokens are trained.
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
    seed: int = 0
    report_every: int = 250
    optimiser: str = "muon"
    precision: torch.dtype | None = None

    def stage(self, progress: float) -> Stage:
        """The one at `progress` in [0, 1] of the run."""
        return next((stage for stage in self.stages if progress < stage.until), self.stages[-1])


# Most of what there is to learn is learnt cheaply in small pictures; the later stages bring fine outlines, and what the
# teacher sees in large pictures alone. The last one unlearns to mark whatever might be the thing.
BUNDLED = Recipe(
    stages=(Stage(0.4, 64, 16), Stage(0.7, 96, 8), Stage(0.85, 128, 4), Stage(1.0, 128, 4, OVERLAP)),
    minutes=480,
    pairs=1_500_000,
    ensembles=0.2,
    taught=2.0,
)
# The same in twenty minutes: a GPU learns from hundreds of pairs in the time that their launches take. Three minutes of
# its last two stages, begun at bundled weights, were run on an H200; from nothing it was not.
BUNDLED_ON_GPU = replace(
    BUNDLED,
    stages=(Stage(0.25, 64, 256), Stage(0.55, 96, 256), Stage(0.85, 128, 256), Stage(1.0, 128, 256, OVERLAP)),
    minutes=20,
    pairs=10_000_000,
    learning_rate=1.6e-3,
    ensembles=0.25,
    taught=1.0,
)
# Two minutes on two CPU cores, on drawn things and a smaller network: enough to see that it learns.
SHORT = Recipe(
    stages=(Stage(1.0, 48, 32),), pairs=8_000, learning_rate=2e-3, warm_up_steps=50, report_every=50, masked=0.05
)


def bundled_config(size: int) -> SegGptConfig:
    """The bundled checkpoint's shape, at halves of size x size pixels."""
    return SegGptConfig(
        hidden_size=192,
        num_hidden_layers=8,
        num_attention_heads=4,
        image_size=(2 * size, size),
        patch_size=8,
        pretrain_image_size=128,
        decoder_hidden_size=16,
        merge_index=1,
        intermediate_hidden_state_indices=(1, 3, 5, 7),
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
        merge_index=0,
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
