"""Muon: momentum whose matrices are made orthogonal before each step.

torch.optim.Muon always computes in bfloat16, which processors without bfloat16 products emulate, many times slower;
this one only where the hardware has them. Source: Jordan et al., "Muon", 2024; step size of arXiv:2502.16982.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed

from model.inference import native_precision

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_MATCHED_RMS = 0.2  # of an update, as AdamW's are


def orthogonal(matrices: Tensor) -> Tensor:
    """Of each of (N, rows, columns) the nearest matrix with singular values near 1, by Newton-Schulz iterations."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    x = x.to(torch.bfloat16 if native_precision(x.device) == "bfloat16" else x.dtype)  # near 1 is near enough
    first, second, third = _COEFFICIENTS
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=second, alpha=third), x, beta=first)
    return (x if wide else x.mT.contiguous()).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices alone; everything else is AdamW's.

    Args:
        parameters: two-dimensional.
        lr: as for AdamW, since updates are scaled to the size of AdamW's.
        weight_decay: decoupled.
        momentum: of the gradient's running mean, Nesterov's way.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.05, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply one step; closures are not supported.

        Where several processes share a run each makes its part of the matrices orthogonal.
        """
        assert closure is None
        shared = distributed.is_initialized() and distributed.get_world_size() > 1
        rank, processes = (distributed.get_rank(), distributed.get_world_size()) if shared else (0, 1)
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            updates = self._updates(parameters, group["momentum"], slice(rank, None, processes))
            if shared:
                flat = torch.cat([update.flatten() for update in updates])
                distributed.all_reduce(flat)
                sizes = [parameter.numel() for parameter in parameters]
                updates = [part.view_as(p) for part, p in zip(flat.split(sizes), parameters, strict=True)]
            lengths = [group["lr"] * _MATCHED_RMS * max(parameter.shape) ** 0.5 for parameter in parameters]
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_sub_(parameters, torch._foreach_mul(updates, lengths))

    def _updates(self, parameters: list[Tensor], decay: float, own: slice) -> list[Tensor]:
        """The orthogonal steps of its own matrices; zeros where another process makes them."""
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta: list[Tensor] = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - decay)
        nesterov = torch._foreach_lerp(gradients, momenta, decay)
        # Matrices of one shape are made orthogonal together: on a GPU one by one would be launches, hardly work.
        alike: dict[torch.Size, list[int]] = {}
        for index in range(len(parameters))[own]:
            alike.setdefault(parameters[index].shape, []).append(index)
        made: dict[int, Tensor] = {}
        for indices in alike.values():
            matrices = orthogonal(torch.stack([nesterov[index] for index in indices]))
            made.update(zip(indices, matrices.unbind(), strict=True))
        return [made[i] if i in made else torch.zeros_like(parameter) for i, parameter in enumerate(parameters)]
