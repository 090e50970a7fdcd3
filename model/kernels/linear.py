"""Linear layers for answering: weights packed once in the order that oneDNN's products read them, or torch's own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels.products import is_native
from model.kernels.quantise import LARGEST, ZERO_POINT, quantise_rows, rescale_rows
from model.kernels.rows import gelu_rows

Activation = Literal["none", "gelu"]


class PackedLinear(nn.Module):
    """A linear layer for inference, with the activation that follows it.

    Args:
        weight: (outputs, inputs), float32 or bfloat16, on the CPU; not kept.
        bias: (outputs,) of the same type, or None.
        rows: how many rows an input usually has; the packing is chosen for it, any number works.
        activation: "gelu" is the exact one.
    """

    name = "onednn"

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int, activation: Activation = "none") -> None:
        super().__init__()
        self.outputs = weight.shape[0]
        # Not a buffer: it is opaque to `to`, `state_dict` and saving, and this layer has no need of them.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)
        self._bias = None if bias is None else bias.detach()
        self._activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        algorithm = "none" if self._activation == "gelu" else ""  # gelu's: exact, not the tanh approximation
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            flat, self._packed, self._bias, self._activation, [], algorithm
        )
        return result.view(*inputs.shape[:-1], self.outputs)


class PlainLinear(nn.Module):
    """A linear layer of torch's own float32 products, over weights that are kept as they are.

    For processors where these are faster than oneDNN's, and for bfloat16 where there are no products in it: half of
    float32's memory, about its speed.

    Args: as PackedLinear's.
    """

    name = "torch"

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int, activation: Activation = "none") -> None:
        super().__init__()
        del rows  # nothing is packed
        self._weight = weight.detach().clone()
        self._bias = None if bias is None else bias.detach().float()
        self._activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs) of the weights' precision."""
        result = F.linear(inputs.float(), self._weight.float(), self._bias)
        if self._activation == "gelu":
            gelu_rows(result.flatten(0, -2))
        return result.to(self._weight.dtype)


class QuantisedLinear(nn.Module):
    """A linear layer in 8 bits for inference: weights with a step per output, inputs with a step per row.

    Args:
        weight: (outputs, inputs), floating point, on the CPU; not kept.
        bias: (outputs,) or None.
        rows: as in PackedLinear.
        activation: as in PackedLinear.
    """

    name = "onednn-int8"

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int, activation: Activation = "none") -> None:
        super().__init__()
        self.outputs, width = weight.shape
        weight = weight.detach().float()
        # AVX2 adds two products in 16 bits, which half of the weights' range cannot overflow.
        largest = LARGEST if is_native(torch.bfloat16) else LARGEST // 2
        steps = weight.abs().amax(dim=1).clamp(min=1e-12) / largest
        quantised = (weight / steps[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(quantised, [rows, width])
        self._steps = steps
        self._zeros = torch.zeros(self.outputs, dtype=torch.int32)
        self._bias = torch.zeros(self.outputs) if bias is None else bias.detach().float()
        self._activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., inputs) float32 or bfloat16 -> (..., outputs) bfloat16."""
        quantised, steps = quantise_rows(inputs.reshape(-1, inputs.shape[-1]).contiguous())
        products = torch.ops.onednn.qlinear_pointwise(
            quantised,
            1.0,
            ZERO_POINT,
            self._packed,
            self._steps,
            self._zeros,
            None,
            1.0,
            0,
            # Without products in bfloat16 oneDNN would also write it by its slowest code, a thousand times slower.
            torch.bfloat16 if is_native(torch.bfloat16) else torch.float32,
            "none",
            [],
            "",
        )
        rescale_rows(products, steps, self._bias, with_gelu=self._activation == "gelu")
        result: Tensor = products.view(*inputs.shape[:-1], self.outputs).to(torch.bfloat16)
        return result
