"""The decoder of SegGPT: tokens of the canvas to colours of its pixels. Source: SegGPT, arXiv:2304.03284."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import SegGptConfig


class SegGptDecoderHead(nn.Module):
    """Full-resolution features to colours."""

    def __init__(self, config: SegGptConfig) -> None:
        super().__init__()
        width = config.decoder_hidden_size
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = nn.Conv2d(width, config.num_channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, decoder_hidden_size, H, W) -> (B, 3, H, W) normalised RGB."""
        features = self.conv(features).permute(0, 2, 3, 1)  # (B, H, W, channels), the layernorm's way round
        features = F.gelu(self.layernorm(features))
        colours: Tensor = self.head(features.permute(0, 3, 1, 2))
        return colours


class SegGptDecoder(nn.Module):
    """Unfold each token into the pixels of its patch, then let neighbours meet in one 3x3 convolution."""

    def __init__(self, config: SegGptConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.decoder_hidden_size = config.decoder_hidden_size
        self.decoder_embed = nn.Linear(
            config.hidden_size * len(config.intermediate_hidden_state_indices),
            config.patch_size**2 * config.decoder_hidden_size,
        )
        self.decoder_pred = SegGptDecoderHead(config)

    def forward(self, hidden_states: Tensor, *, answer_only: bool = False) -> Tensor:
        """Paint.

        Args:
            hidden_states: (B, rows, columns, 4 * hidden_size).
            answer_only: the first row is only the neighbour of what is asked for: of its patches no more than the
                lowest pixels are unfolded, the one pixel row that the convolution reads, and none of it is painted.

        Returns:
            (B, 3, rows * patch_size, W) normalised RGB; with answer_only one patch row less.
        """
        if not answer_only:
            painted: Tensor = self.decoder_pred(self._unfold(hidden_states, self.patch_size))
            return painted
        above = self._unfold(hidden_states[:, :1], 1)
        below = self._unfold(hidden_states[:, 1:], self.patch_size)
        # (B, 3, 1 + H, W); its first row lacks its own upper neighbour and is dropped
        painted = self.decoder_pred(torch.cat((above, below), dim=2))
        return painted[:, :, 1:]

    def _lowest(self, hidden_states: Tensor) -> Tensor:
        """The part of `decoder_embed` that makes the lowest pixel row of each patch."""
        outputs = self.patch_size * self.decoder_hidden_size
        embed = self.decoder_embed
        return F.linear(hidden_states, embed.weight[-outputs:], embed.bias[-outputs:])

    def _unfold(self, hidden_states: Tensor, pixel_rows: int) -> Tensor:
        """(B, rows, columns, C) -> (B, decoder_hidden_size, rows * pixel_rows, W): all or the lowest of each patch."""
        embed = self.decoder_embed if pixel_rows == self.patch_size else self._lowest
        pixels = embed(hidden_states)
        batch, rows, columns, _ = pixels.shape
        pixels = pixels.view(batch, rows, columns, pixel_rows, self.patch_size, self.decoder_hidden_size)
        pixels = pixels.transpose(2, 3).reshape(batch, rows * pixel_rows, columns * self.patch_size, -1)
        return pixels.permute(0, 3, 1, 2)  # channels last in memory, as the convolution likes it
