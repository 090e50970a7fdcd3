"""Which tokens stand where: pairs, groups, and the halves of their canvases.

Every pair of a group has the same input image, and an ensemble keeps its input half equal in all of them, so the
network holds that half once per group. Tokens lie flat in one (tokens, channels) matrix: first the prompt halves of
all pairs, then the input halves of all groups; whatever works token by token needs no more than that matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The rows of a token matrix.

    Args:
        group_sizes: number of pairs in each group, in order; their sum is the number of pairs.
        half_tokens: tokens of one half canvas.
        prompt_tokens: trailing tokens that are held of each prompt half; all of them, or its last row alone.
    """

    group_sizes: tuple[int, ...]
    half_tokens: int
    prompt_tokens: int

    @property
    def pairs(self) -> int:
        """Number of canvases."""
        return sum(self.group_sizes)

    @property
    def groups(self) -> int:
        """Number of input images."""
        return len(self.group_sizes)

    @property
    def is_one_to_one(self) -> bool:
        """True when no group is an ensemble."""
        return self.pairs == self.groups

    @property
    def common_size(self) -> int | None:
        """The pairs of every group; None where groups differ."""
        return self.group_sizes[0] if len(set(self.group_sizes)) == 1 else None

    def doubled(self) -> Layout:
        """The layout of two streams, the second behind the first."""
        return replace(self, group_sizes=self.group_sizes * 2)

    def halves(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Views of (T, C) as prompt halves (pairs, prompt_tokens, C) and input halves (groups, half_tokens, C)."""
        boundary = self.pairs * self.prompt_tokens
        channels = tokens.shape[-1]
        return (
            tokens[:boundary].view(self.pairs, self.prompt_tokens, channels),
            tokens[boundary:].view(self.groups, self.half_tokens, channels),
        )

    def flat(self, prompts: Tensor, inputs: Tensor) -> Tensor:
        """(pairs, prompt_tokens, C) and (groups, half_tokens, C) -> (T, C)."""
        return torch.cat((prompts.flatten(0, 1), inputs.flatten(0, 1)))

    def per_pair(self, rows: Tensor) -> Tensor:
        """(groups, ...) -> (pairs, ...): each group's row repeated for its pairs."""
        if self.is_one_to_one:
            return rows
        if self.common_size is not None:
            return rows.repeat_interleave(self.common_size, 0)
        return torch.cat(
            [row.expand(size, *row.shape[1:]) for row, size in zip(rows.split(1), self.group_sizes, strict=True)]
        )

    def first_of_group(self, rows: Tensor) -> Tensor:
        """(pairs, ...) -> (groups, ...): the row of each group's first pair."""
        if self.common_size is not None:
            return rows[:: self.common_size]
        return torch.stack([part[0] for part in rows.split(self.group_sizes)])

    def mean_of_group(self, rows: Tensor) -> Tensor:
        """(pairs, ...) -> (groups, ...): the mean over each group's pairs.

        Group by group rather than by one product with a (groups, pairs) matrix: there a NaN of one request would reach
        the answers of the others.
        """
        if self.is_one_to_one:
            return rows
        if self.common_size is not None:
            mean: Tensor = rows.unflatten(0, (-1, self.common_size)).mean(dim=1)
            return mean
        return torch.stack([part.mean(dim=0) for part in rows.split(self.group_sizes)])

    def canvases(self, tokens: Tensor) -> Tensor:
        """(T, C) -> (pairs, prompt_tokens + half_tokens, C): prompt half above input half."""
        prompts, inputs = self.halves(tokens)
        return torch.cat((prompts, self.per_pair(inputs)), dim=1)

    def tail(self, tokens: Tensor, prompt_tokens: int) -> tuple[Layout, Tensor]:
        """Keep only the last `prompt_tokens` of every prompt half."""
        if prompt_tokens == self.prompt_tokens:
            return self, tokens
        prompts, inputs = self.halves(tokens)
        shorter = replace(self, prompt_tokens=prompt_tokens)
        return shorter, shorter.flat(prompts[:, -prompt_tokens:], inputs)


def group_sizes_of(pairs: int, group_sizes: Sequence[int] | None, feature_ensemble: bool | None) -> tuple[int, ...]:
    """The groups of a batch: as given, or all pairs one group with `feature_ensemble`, or each pair alone.

    Raises:
        ValueError: the sizes are not positive or do not add up to `pairs`.
    """
    if group_sizes is None:
        return (pairs,) if feature_ensemble else (1,) * pairs
    sizes = tuple(int(size) for size in group_sizes)
    if not sizes or min(sizes) < 1 or sum(sizes) != pairs:
        raise ValueError(f"group_sizes {sizes} must be positive and add up to the {pairs} pairs of prompt_pixel_values")
    return sizes
