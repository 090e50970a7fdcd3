"""What a network that has seen many photos sees, taught to the encoder before and beside the painting.

To find a thing that it has never met, the encoder must see that two photos of a horse are alike. Pairs with masks teach
that slowly; the features of a network that learnt from millions of photos teach it in every token of every picture. So
the tokens of two blocks also guess, each by a linear layer that is thrown away afterwards, what DINOv2 sees at the same
places. Source of the teacher: arXiv:2304.07193, weights Apache-2.0; of the idea: FitNets, arXiv:1412.6550.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from model.colours import normalise
from model.inference import native_precision
from model.layout import Layout
from model.seggpt import SegGptForImageSegmentation
from training.painting import answer
from training.scenes import Scenes

SOURCE = "facebook/dinov2-small"
#: Where is listened, in shares of the depth of either network. Features from there find things of the same name best;
#: the last blocks of DINOv2 forget small things (docs/log.md).
HEARD = (2 / 3, 5 / 6)
_LENGTH = 0.5  # weight of how far the guesses are off, beside how unlike they are
_RIDGE = 1e-3  # of the tokens' mean square
_CHUNK = 16  # scenes at a time


def teacher_is_there() -> bool:
    """Whether the extra `teacher` is installed."""
    return find_spec("transformers") is not None


def heard_blocks(depth: int) -> tuple[int, ...]:
    """0-based blocks of a network of so many whose outputs are listened to."""
    return tuple(round(share * depth) - 1 for share in HEARD)


class Teacher(nn.Module):
    """DINOv2, frozen."""

    def __init__(self, source: str | Path = SOURCE) -> None:
        """Load it.

        Args:
            source: hub id or folder of a DINOv2 checkpoint in Hugging Face's format.

        Raises:
            ModuleNotFoundError: the extra `teacher` is not installed.
            OSError: the checkpoint cannot be had.
        """
        # Only training has this package.
        from transformers import Dinov2Model  # noqa: PLC0415

        super().__init__()
        network: Any = Dinov2Model.from_pretrained(source)
        self.network: Any = network.requires_grad_(False)  # from_pretrained gives it in eval mode
        config: Any = self.network.config
        self.patch_size: int = config.patch_size
        self.width: int = config.hidden_size
        self.blocks = heard_blocks(config.num_hidden_layers)
        self.register_buffer("mean", torch.zeros(len(HEARD), self.width))
        self.register_buffer("deviation", torch.ones(len(HEARD), self.width))

    def pixels(self, picture: Image.Image, places: int) -> Tensor:
        """(1, 3, H, W) uint8 of a picture, as large as it is looked at in places x places."""
        size = (places * self.patch_size,) * 2
        pixels = torch.from_numpy(np.array(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)))
        return pixels.permute(2, 0, 1)[None]

    @torch.no_grad()
    def forward(self, pictures: Tensor, grid: tuple[int, int]) -> Tensor:
        """What it sees, channel by channel less the mean and over the deviation of what it has been shown to `measure`.

        Args:
            pictures: (B, 3, H, W) in [0, 255].
            grid: rows and columns of places.

        Returns:
            (len(HEARD), B, rows * columns, width) float32.
        """
        return self.scaled(self._seen(pictures, grid))

    def scaled(self, features: Tensor) -> Tensor:
        """(len(HEARD), ..., width) features in the scale of forward's."""
        shape = (len(HEARD), *(1,) * (features.ndim - 2), self.width)
        scaled: Tensor = (features - self.mean.view(shape)) / self.deviation.view(shape)
        return scaled

    @torch.no_grad()
    def measure(self, pictures: Tensor, grid: tuple[int, int]) -> None:
        """Take mean and deviation from what it sees in these pictures; arguments as forward's."""
        seen = self._seen(pictures, grid).flatten(1, 2)
        self.mean, self.deviation = seen.mean(1), seen.std(1).clamp(min=1e-6)

    def _seen(self, pictures: Tensor, grid: tuple[int, int]) -> Tensor:
        size = [self.patch_size * places for places in grid]
        shown = functional.interpolate(pictures.float(), size, mode="bicubic", antialias=True).clamp(0, 255)
        shown = normalise(shown.movedim(1, -1), torch.float32).contiguous()
        fast = native_precision(shown.device) == "bfloat16"
        with torch.autocast(shown.device.type, torch.bfloat16, enabled=fast):
            states = self.network(shown, output_hidden_states=True).hidden_states  # before each block, after the last
        return torch.stack([states[block + 1][:, 1:].float() for block in self.blocks])  # without the class token


class Heard(NamedTuple):
    """The encoder's tokens behind the blocks that are listened to."""

    layout: Layout
    tokens: list[Tensor]  # of each block (T, hidden_size), rows as the layout says
    grid: tuple[int, int]  # rows and columns of one half's patches


class Lesson(nn.Module):
    """A teacher, and the linear layers that guess its features from the encoder's tokens, which alone are learnt."""

    def __init__(self, hidden_size: int, seed: int, source: str | Path = SOURCE) -> None:
        """Make fresh layers: of an encoder as wide as the teacher the first guess is that both see the same.

        Args:
            hidden_size: of the encoder.
            seed: of the layers' first weights.
            source: as Teacher takes it.

        Raises:
            ModuleNotFoundError: the extra `teacher` is not installed.
            OSError: the teacher cannot be had.
        """
        super().__init__()
        self.teacher = Teacher(source)
        layers = [nn.Linear(hidden_size, self.teacher.width) for _ in HEARD]
        self.guess = nn.ModuleList(layers)
        generator = torch.Generator().manual_seed(seed)
        for layer in layers:
            if hidden_size == self.teacher.width:
                nn.init.eye_(layer.weight)
            else:
                nn.init.normal_(layer.weight, std=hidden_size**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def fit(self, network: SegGptForImageSegmentation, scenes: Scenes) -> None:
        """Let the layers guess as well as linear ones can from what the network is now: ridge regression.

        Random ones would teach a network that has learnt something to see at random first.

        Args:
            network: on the same device.
            scenes: single pairs, of the network's size.
        """
        size, count = network.config.hidden_size, len(self.guess)
        device = next(network.parameters()).device
        squares = torch.zeros(count, size + 1, size + 1, dtype=torch.float64, device=device)
        products = torch.zeros(count, size + 1, self.teacher.width, dtype=torch.float64, device=device)
        for first in range(0, len(scenes), _CHUNK):
            part = scenes[first : first + _CHUNK]
            with listening(network) as heard:
                answer(network, part)
            layout, tokens, grid = heard[0]
            own = functional.pad(torch.stack(tokens).double(), (0, 1), value=1.0)  # the bias's
            seen = self._seen(part, 1, layout, grid)
            seen = seen * self.teacher.deviation[:, None] + self.teacher.mean[:, None]  # layers guess it unscaled
            squares += own.mT @ own
            products += own.mT @ seen.double()
        ridge = _RIDGE * squares.diagonal(dim1=1, dim2=2).mean(1)
        squares.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        for layer, solved in zip(self.guess, torch.linalg.solve(squares, products), strict=True):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(solved[:-1].mT)
            layer.bias.copy_(solved[-1])

    def forward(self, scenes: Scenes, examples: int, heard: Heard) -> Tensor:
        """How wrong the guesses are: scalar, 0 for right ones, about 1.4 for unrelated ones.

        Args:
            scenes: that the encoder saw, `examples` neighbouring pairs of each.
            examples: of each scene; their input half is one and the same.
            heard: what `listening` kept of it.
        """
        layout, tokens, grid = heard
        wanted = self._seen(scenes, examples, layout, grid)
        guessed = torch.stack([layer(own.float()) for layer, own in zip(self.guess, tokens, strict=True)])
        guessed = self.teacher.scaled(guessed)
        unlike = 1 - functional.cosine_similarity(guessed, wanted, dim=-1).mean()
        return unlike + _LENGTH * functional.smooth_l1_loss(guessed, wanted)

    def _seen(self, scenes: Scenes, examples: int, layout: Layout, grid: tuple[int, int]) -> Tensor:
        """What the teacher sees where the network's tokens are: (len(HEARD), T, width), rows as the layout says."""
        prompts, inputs = self.teacher(scenes.prompt_image, grid), self.teacher(scenes.image[::examples], grid)
        return torch.stack([layout.flat(*both) for both in zip(prompts, inputs, strict=True)])


@contextmanager
def listening(network: SegGptForImageSegmentation) -> Iterator[list[Heard]]:
    """While open, keep what the blocks that are listened to give, of every forward, in the list that it gives."""
    heard: list[Heard] = []
    layers = network.model.encoder.layers
    blocks = heard_blocks(len(layers))
    tokens: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: tuple[Layout, Tensor, Tensor | None]) -> None:
        tokens.append(output[1])
        if len(tokens) == len(blocks):
            heard.append(Heard(output[0], tokens.copy(), half_grid(network)))
            tokens.clear()

    handles = [layers[block].register_forward_hook(keep) for block in blocks]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def half_grid(network: SegGptForImageSegmentation) -> tuple[int, int]:
    """Rows and columns of one half's patches."""
    rows, columns = network.config.grid
    return rows // 2, columns
