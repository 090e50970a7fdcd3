"""The decoder of SegGPT: tokens of the canvas to colours of its pixels. Source: SegGPT, arXiv:2304.03284."""

from __future__ import annotations

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
        patch, above = self.patch_size, int(answer_only)
        pixels = self.decoder_embed(hidden_states[:, above:])
        batch, rows, columns, _ = pixels.shape
        shape = (batch, above + rows * patch, columns * patch, self.decoder_hidden_size)
        # Written once, with channels last in memory, as the convolution likes it.
        canvas = pixels.new_empty(shape)
        canvas[:, above:].unflatten(1, (rows, patch)).unflatten(3, (columns, patch)).copy_(
            pixels.view(batch, rows, columns, patch, patch, -1).transpose(2, 3)
        )
        del pixels
        if answer_only:
            canvas[:, 0] = self._lowest(hidden_states[:, 0]).view(batch, columns * patch, -1)
        painted: Tensor = self.decoder_pred(canvas.permute(0, 3, 1, 2))
        # With a row above, the first painted row is that row's, which lacks its own upper neighbour.
        return painted[:, :, above:]

    def _lowest(self, hidden_states: Tensor) -> Tensor:
        """The part of `decoder_embed` that makes the lowest pixel row of each patch."""
        outputs = self.patch_size * self.decoder_hidden_size
        embed = self.decoder_embed
        return F.linear(hidden_states, embed.weight[-outputs:], embed.bias[-outputs:])
