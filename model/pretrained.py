"""What both SegGPT networks share: their configuration, fresh weights, loading, and checks of what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor, nn

from model.config import SegGptConfig
from model.devices import check_device
from model.encoder import Output
from model.layout import Layout, group_sizes_of
from model.sources import places_of

if TYPE_CHECKING:
    from model.seggpt import SegGptForImageSegmentation

_Output = TypeVar("_Output", bound=Output)


class SegGptPreTrainedModel(nn.Module):
    """Base of both networks."""

    def __init__(self, config: SegGptConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.parameters()).dtype

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        device_map: torch.device | str | None = None,
        **given: Any,
    ) -> Self:
        """Load a checkpoint, ready to answer (`eval`).

        Args:
            source: hub id, folder, lone .safetensors or original .pth; see `model.checkpoint.resolve`.
            dtype: precision of the weights, or its name; None or "auto" keeps the stored one. `torch_dtype` is its old
                name.
            device: where the weights go; None means the CPU. `device_map` is transformers' name; one device here.
            given: revision, cache_dir, token, local_files_only, endpoint: as `model.checkpoint.resolve` takes them.

        Raises:
            CheckpointError: it cannot be had or used.
            TypeError: there is no such argument.
            ValueError: there is no such precision or device.
        """
        from model import checkpoint  # noqa: PLC0415  # it builds these classes, so it imports this module

        places = places_of(f"{cls.__name__}.from_pretrained", given, ("dtype", "device"))
        precision, where = _dtype_of(dtype or torch_dtype), _device_of(device_map if device is None else device)
        return cls._part_of(checkpoint.load(checkpoint.resolve(source, **places), precision, where))

    @classmethod
    def _part_of(cls, whole: SegGptForImageSegmentation) -> Self:
        raise TypeError(f"{cls.__name__} is not a part of a checkpoint")

    def _returned(self, output: _Output, return_dict: bool | None, answer_only: bool) -> _Output | tuple[Any, ...]:
        """The output, or its tuple where the call or else the config says so; `answer_only` heeds the call alone."""
        if return_dict is None:
            return_dict = self.config.return_dict or answer_only
        return output if return_dict else output.to_tuple()

    def _layout(self, pairs: int, group_sizes: Sequence[int] | None, feature_ensemble: bool | None = None) -> Layout:
        rows, columns = self.config.grid
        half_tokens = rows * columns // 2
        sizes = group_sizes_of(pairs, group_sizes, feature_ensemble)
        return Layout(sizes, half_tokens=half_tokens, prompt_tokens=half_tokens)

    def _per_group(self, name: str, pictures: Tensor, layout: Layout) -> Tensor:
        """(groups, 3, H, W) of pictures that are given once for each group or once for each pair."""
        self._check_pictures(name, pictures, (layout.groups, layout.pairs))
        if len(pictures) == layout.groups:
            return pictures
        firsts = layout.first_of_group(pictures)
        if not torch.equal(layout.per_pair(firsts), pictures):
            raise ValueError(f"the pairs of one group have different {name}; they are examples for one input image")
        return firsts

    def _check_pictures(self, name: str, pictures: Tensor, counts: Sequence[int] = ()) -> None:
        check_shape(name, pictures, counts, (self.config.num_channels, *self.config.half_size))

    @torch.no_grad()
    def _draw_weights(self, *parts: nn.Module) -> None:
        """Fresh weights as in the published training code: truncated normals, zero biases, plain norms."""
        std = self.config.initializer_range
        for module in (module for part in parts for module in part.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            else:  # tables and tokens that a module holds itself
                for parameter in module.parameters(recurse=False):
                    nn.init.trunc_normal_(parameter, std=std)


def _dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or dtype == "auto":
        return None
    named = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}; it must be 'auto', or a torch floating-point type or its name")
    return named


def _device_of(device: torch.device | str | None) -> torch.device | None:
    if device is None:
        return None
    try:
        meant = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}; it must be one device, such as 'cpu' or 'cuda:0'") from error
    if meant.type == "cuda":
        check_device(str(meant))
    return meant


def check_shape(name: str, tensor: Tensor, counts: Sequence[int], rest: tuple[int, ...]) -> None:
    """Refuse what is not (one of `counts`, *rest); without counts any number will do."""
    if tensor.ndim == len(rest) + 1 and tensor.shape[1:] == rest and (not counts or tensor.shape[0] in counts):
        return
    first = " or ".join(str(count) for count in sorted(set(counts))) or "B"
    raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be ({', '.join((first, *map(str, rest)))})")
