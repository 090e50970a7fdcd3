"""The embeddings of SegGPT: pictures and masks to the tokens of the two streams that the encoder takes.

Gives token matrices whose rows `model.layout` describes. Parameters have Hugging Face's names, so that published
weights load as they are. Source: SegGPT, arXiv:2304.03284.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import SegGptConfig
from model.layout import Layout


class SegGptPatchEmbeddings(nn.Module):
    """Cut pictures into patches and project each to a token."""

    def __init__(self, config: SegGptConfig) -> None:
        super().__init__()
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) normalised RGB -> (B, tokens, hidden_size)."""
        tokens: Tensor = self.projection(pictures.to(self.projection.weight.dtype))
        return tokens.flatten(2).transpose(1, 2)


class SegGptEmbeddings(nn.Module):
    """Pictures and masks to tokens that know their place, their stream and the embedding type."""

    def __init__(self, config: SegGptConfig) -> None:
        super().__init__()
        self.grid = config.grid
        width = config.hidden_size
        self.table_side = config.pretrain_image_size // config.patch_size
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 1, width))
        # Hugging Face's names mislead: "input" marks the image stream, "prompt" the mask stream.
        self.segment_token_input = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.segment_token_prompt = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.type_token_semantic = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.type_token_instance = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.patch_embeddings = SegGptPatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(torch.zeros(1, self.table_side**2 + 1, width))
        self._kept_positions: tuple[Tensor, Tensor] | None = None

    def keep_positions(self) -> None:
        """Compute `positions` once for all; the stored table is not looked at again."""
        upper, lower = self.positions()
        self._kept_positions = upper.detach().float(), lower.detach().float()

    def positions(self) -> tuple[Tensor, Tensor]:
        """The stored square table stretched over the canvas: its (half_tokens, hidden_size) upper and lower half."""
        if self._kept_positions is not None:
            return self._kept_positions
        table = self.position_embeddings[:, 1:]  # the first row belonged to a class token
        side = self.table_side
        if self.grid != (side, side):
            square = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
            stretched = F.interpolate(square.float(), size=self.grid, mode="bicubic", align_corners=False)
            table = stretched.flatten(2).transpose(1, 2)  # not rounded to the weights' precision: the stream is float32
        upper, lower = table[0].chunk(2)
        return upper, lower

    def types(self, embedding_types: Sequence[str]) -> Tensor:
        """(groups, 1, hidden_size), or (1, 1, hidden_size) when all groups are of one type."""
        named = {"instance": self.type_token_instance[0], "semantic": self.type_token_semantic[0]}
        unknown = sorted({kind for kind in embedding_types if kind not in named})
        if unknown:
            raise ValueError(f"embedding_type is {unknown[0]!r}; it must be 'instance' or 'semantic'")
        if len(set(embedding_types)) == 1:
            return named[embedding_types[0]]
        return torch.cat([named[kind] for kind in embedding_types])

    def image_stream(self, prompts: Tensor, inputs: Tensor, layout: Layout, types: Tensor) -> Tensor:
        """(pairs, 3, H, W) prompt images and (groups, 3, H, W) input images -> (T, hidden_size) float32."""
        upper, lower = self.positions()
        tokens = self.patch_embeddings(torch.cat((prompts, inputs))).float()
        token = self.segment_token_input[0]
        return layout.flat(
            tokens[: layout.pairs] + token + upper + _per_pair(layout, types),
            tokens[layout.pairs :] + token + lower + types,
        )

    def mask_stream(
        self,
        masks: Tensor,
        layout: Layout,
        types: Tensor,
        unknown: tuple[Tensor, Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """(pairs, 3, H, W) prompt masks -> (T, hidden_size) float32.

        The input half is unknown unless `unknown` says otherwise.

        Args:
            masks: (pairs, 3, H, W) normalised colours.
            layout: pairs and groups.
            types: from `types`.
            unknown: masked patches of the prompt half (pairs or 1, half_tokens) and of the input half, bool.
            labels: (groups, 3, H, W) what the unmasked patches of the input half show; goes with `unknown`.
        """
        upper, lower = self.positions()
        token, hidden = self.segment_token_prompt[0], self.mask_token[0]
        prompts = self.patch_embeddings(masks).float()
        hidden = hidden.float()
        inputs = hidden.expand(layout.groups, layout.half_tokens, -1)
        if unknown is not None:
            assert labels is not None
            prompts = torch.where(unknown[0].unsqueeze(-1), hidden, prompts)
            inputs = torch.where(unknown[1].unsqueeze(-1), hidden, self.patch_embeddings(labels).float())
        return layout.flat(prompts + token + upper + _per_pair(layout, types), inputs + token + lower + types)


def _per_pair(layout: Layout, types: Tensor) -> Tensor:
    return types if len(types) == 1 else layout.per_pair(types)
