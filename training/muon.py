"""Muon: momentum whose matrices are made orthogonal before each step.

torch.optim.Muon does the same in bfloat16, which processors without bfloat16 products emulate, many times slower; this
one computes in the precision of the weights. Source: Jordan et al., "Muon", 2024; step size of arXiv:2502.16982.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_MATCHED_RMS = 0.2  # of an update, as AdamW's are


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix (rows, columns) with singular values near 1, by Newton-Schulz iterations."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    first, second, third = _COEFFICIENTS
    for _ in range(_ROUNDS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=second, alpha=third), x, beta=first)
    return x if wide else x.T


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
            updates = [
                self._update(parameter, group["momentum"], index % processes == rank)
                for index, parameter in enumerate(parameters)
            ]
            if shared:
                flat = torch.cat([update.flatten() for update in updates])
                distributed.all_reduce(flat)
                sizes = [parameter.numel() for parameter in parameters]
                updates = [part.view_as(p) for part, p in zip(flat.split(sizes), parameters, strict=True)]
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * _MATCHED_RMS * max(parameter.shape) ** 0.5)

    def _update(self, parameter: Tensor, decay: float, is_own: bool) -> Tensor:
        """The orthogonal step of one matrix; zeros where another process makes it."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - decay)
        return orthogonal(gradient.lerp(momentum, decay)) if is_own else torch.zeros_like(parameter)
