"""Small networks with honest weights, ours and transformers' side by side, and pictures for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch
import transformers
from torch import Tensor

from model import SegGptConfig, SegGptForImageSegmentation, SegGptImageProcessor
from model.checkpoint import CheckpointError, resolve, save, to_original

TINY = SegGptConfig(
    hidden_size=64,
    num_hidden_layers=6,
    num_attention_heads=4,
    mlp_dim=128,
    image_size=(128, 64),
    patch_size=16,
    pretrain_image_size=96,
    decoder_hidden_size=16,
    merge_index=2,
    intermediate_hidden_state_indices=(2, 3, 4, 5),
)


def draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Weights as large as trained ones: std 1 / sqrt(hidden_size), norms around 1, biases that matter.

    With the default initialisation (std .02) a wrong ensemble differs by 4e-6 only and would pass.
    """
    generator = torch.Generator().manual_seed(seed)
    std = model.config.hidden_size**-0.5
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(1 + drawn if "layernorm" in name and name.endswith("weight") else drawn)


def relative_rms(got: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference over that of what was wanted."""
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    difference = got.double() - wanted.double()
    return float(difference.square().mean().sqrt() / wanted.double().square().mean().sqrt())


def reference_of(config: SegGptConfig, seed: int = 0) -> transformers.SegGptForImageSegmentation:
    """transformers' network of the same shape, in eval, with drawn weights."""
    theirs = transformers.SegGptForImageSegmentation(transformers.SegGptConfig(**config.to_dict()))
    draw_weights(theirs, seed)
    return theirs.eval()


def ours_like(theirs: transformers.SegGptForImageSegmentation) -> SegGptForImageSegmentation:
    """Our network with the same weights."""
    ours = SegGptForImageSegmentation(SegGptConfig.from_dict(theirs.config.to_dict()))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.eval()


def answer_half(pred_masks: Tensor) -> Tensor:
    """(B, 3, 2H, W) -> (B, 3, H, W): the lower half."""
    return pred_masks[:, :, pred_masks.shape[2] // 2 :]


def draw_batch(config: SegGptConfig, pairs: int, seed: int, groups: int | None = None) -> dict[str, Tensor]:
    """Normalised pictures, prompt pictures and masks for `pairs` pairs; one input image for each of the groups."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def pictures(count: int) -> Tensor:
        return torch.randn(count, 3, *config.half_size, generator=generator)

    return {
        "pixel_values": pictures(groups or pairs),
        "prompt_pixel_values": pictures(pairs),
        "prompt_masks": pictures(pairs),
    }


def refusal_of(source: object, **where: object) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(CheckpointError) as caught:
        resolve(source, **where)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def write_original(path: Path, model: torch.nn.Module, **beside: object) -> Path:
    """The original code's .pth of a network."""
    tensors = {to_original(name): tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save({"model": tensors, **beside}, path)
    return path


@dataclass(frozen=True)
class Saved:
    """A checkpoint folder and the network that was saved there."""

    folder: Path
    model: SegGptForImageSegmentation


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """A tiny checkpoint on disk."""
    model = SegGptForImageSegmentation(TINY).eval()
    draw_weights(model, seed=0)
    save(model, tmp_path / "checkpoint")
    SegGptImageProcessor(TINY.half_size).save_pretrained(tmp_path / "checkpoint")
    return Saved(tmp_path / "checkpoint", model)


@pytest.fixture
def answer() -> Callable[[Any], Tensor]:
    """Ask a network (of TINY's size) one fixed question; give the answer half."""
    batch = draw_batch(TINY, pairs=1, seed=0)

    def ask(model: torch.nn.Module) -> Tensor:
        with torch.inference_mode():
            cast = {name: value.to(next(model.parameters()).dtype) for name, value in batch.items()}
            return answer_half(model(**cast).pred_masks)

    return ask


@pytest.fixture(autouse=True)
def _quiet_machine() -> Iterator[None]:
    """One thread: these networks are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
