"""The networks that are compared, ours and transformers', in each of their precisions, with the same weights.

Each is a function from pictures to the painted answer, so that whoever measures treats them alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.report import RESULTS, ROOT
from model import SegGptConfig, SegGptForImageSegmentation, SegGptImageProcessor
from model.checkpoint import load, resolve, save
from model.inference import Precision, optimise

MODES: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
OURS = tuple(f"ours {mode}" for mode in MODES)
THEIRS = tuple(f"transformers {mode}" for mode in MODES)
NEW_PROMPT = ", new prompt"
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Question:
    """One input image and its examples, ImageNet-normalised float32.

    Args:
        pixel_values: (1, 3, H, W) input image.
        prompt_pixel_values: (N, 3, H, W) prompt images.
        prompt_masks: (N, 3, H, W) their masks' colours.
    """

    pixel_values: Tensor
    prompt_pixel_values: Tensor
    prompt_masks: Tensor


Answer = Callable[[Question], Tensor]
"""A question's painted answer, (3, H, W) float32."""


def vit_large(folder: Path = RESULTS / "vit-large") -> Path:
    """A checkpoint of the published shape with random weights, made once: 1.5 GB on disk.

    Linear weights have a standard deviation of 1 / sqrt(hidden_size), norms are about 1, biases and tables matter:
    queries, keys and logits are then about 1, as in a trained network. With the training's first weights (.02) all
    attention would be even, and the errors of a precision would be too small.
    """
    if not (folder / "config.json").exists():
        model = SegGptForImageSegmentation(SegGptConfig())
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in sorted(model.named_parameters()):
                weight.normal_(0.0, model.config.hidden_size**-0.5, generator=generator)
                if "layernorm" in name and name.endswith("weight"):
                    weight.add_(1.0)
        save(model, folder)
    return folder


def question(config: SegGptConfig, examples: int = 1) -> Question:
    """The example pictures at the network's size; further examples are the first one, moved sideways."""
    processor = SegGptImageProcessor(config.half_size)
    pictures = processor(
        images=Image.open(EXAMPLES / "image.jpg"),
        prompt_images=Image.open(EXAMPLES / "prompt_image.jpg"),
        prompt_masks=Image.open(EXAMPLES / "prompt_mask.png").convert("RGB"),
    )
    moves = [number * config.half_size[1] // examples for number in range(examples)]

    def moved(picture: Tensor) -> Tensor:
        return torch.cat([picture.roll(move, dims=-1) for move in moves])

    return Question(pictures["pixel_values"], moved(pictures["prompt_pixel_values"]), moved(pictures["prompt_masks"]))


def made_question(config: SegGptConfig) -> Question:
    """Random numbers instead of pictures, for measuring memory without what reading pictures takes."""
    return Question(*torch.randn(3, 1, config.num_channels, *config.half_size))


def contender(name: str, folder: Path) -> Answer:
    """Load one of OURS or THEIRS; OURS with NEW_PROMPT behind it shares its network with the one that knows the prompt.

    Raises:
        ValueError: there is no such contender.
    """
    if name in THEIRS:
        return _theirs(folder, name.removeprefix("transformers "))
    known = name.removesuffix(NEW_PROMPT)
    if known not in OURS:
        raise ValueError(f"{name!r} is no contender; there are {', '.join((*OURS, *THEIRS))}")
    return ours(folder, known.removeprefix("ours "), is_known=known == name)


@lru_cache
def network(folder: Path, mode: str) -> SegGptForImageSegmentation:
    """Ours, made ready as the service's worker does it."""
    model = load(resolve(folder))
    optimise(model, cast(Precision, mode))
    return model


def ours(folder: Path, mode: str, *, is_known: bool = True) -> Answer:
    """Ours in one of MODES, with a prompt that it keeps from its first answer on, or always a new one."""
    model = network(folder, mode)
    mask_streams: dict[int, object] = {}

    @torch.inference_mode()
    def answer(question: Question) -> Tensor:
        sizes = (len(question.prompt_masks),)
        mask_stream = mask_streams.get(sizes[0]) if is_known else None
        if mask_stream is None and is_known:  # one question per number of examples is asked here
            mask_stream = mask_streams[sizes[0]] = model.model.mask_stream(question.prompt_masks, group_sizes=sizes)
        output = model(
            question.pixel_values,
            question.prompt_pixel_values,
            None if is_known else question.prompt_masks,
            group_sizes=sizes,
            mask_stream=mask_stream,
            answer_only=True,
        )
        painted: Tensor = output.pred_masks[0].float()
        return painted

    return answer


def _theirs(folder: Path, mode: str) -> Answer:
    import transformers  # noqa: PLC0415  # ours is measured without what this brings into memory

    bars = transformers.utils.logging
    were_shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()  # type: ignore[no-untyped-call]
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
    model: nn.Module = transformers.SegGptForImageSegmentation.from_pretrained(folder, dtype=dtype)
    model.eval()
    if were_shown:  # the switch is the whole process's, and the hub's downloads obey it too
        bars.enable_progress_bar()  # type: ignore[no-untyped-call]
    if mode == "int8":
        with warnings.catch_warnings(action="ignore"):  # torch would have it done by another package
            model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)

    @torch.inference_mode()
    def answer(question: Question) -> Tensor:
        count = len(question.prompt_masks)
        output = model(
            question.pixel_values.expand(count, -1, -1, -1).to(dtype),
            question.prompt_pixel_values.to(dtype),
            question.prompt_masks.to(dtype),
            feature_ensemble=count > 1,
        )
        painted: Tensor = output.pred_masks[0].float()
        return painted[:, painted.shape[1] // 2 :]

    return answer
