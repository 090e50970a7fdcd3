"""Files of tensors: safetensors, one or several, and the original `.pth`, all under Hugging Face's names.

The only place that knows how the original code names tensors. Tensors are mapped into memory, not read; whoever copies
one (`converted`) gives its pages back as they are read. Nothing is unpickled but the original `.pth`, which torch reads
with `weights_only`.
"""

from __future__ import annotations

import argparse
import json
import mmap
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.pages import give_back, is_mapped_from_a_file

Layout = Literal["huggingface", "original"]

_ORIGINAL_SUFFIXES = (".pth", ".pt")
FILE_SUFFIXES = (".safetensors", *_ORIGINAL_SUFFIXES)
_INDEX_SUFFIX = ".index.json"
_ORIGINAL_KEY = "model"
_LFS_POINTER = b"version https://git-lfs"
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02")  # a zip archive; before torch 1.6 the bare pickle
_NAMED_AT_MOST = 3
_PIECE_BYTES = 16 * 2**20
_OWN_BLOCK_BYTES = 2**20

# Original name -> Hugging Face name, in whole dotted parts; what follows them keeps its name.
_EMBEDDINGS = "model.embeddings."
_OUTSIDE_BLOCKS = {
    "patch_embed.proj": _EMBEDDINGS + "patch_embeddings.projection",
    "mask_token": _EMBEDDINGS + "mask_token",
    "pos_embed": _EMBEDDINGS + "position_embeddings",
    "segment_token_x": _EMBEDDINGS + "segment_token_input",
    "segment_token_y": _EMBEDDINGS + "segment_token_prompt",
    "type_token_cls": _EMBEDDINGS + "type_token_semantic",
    "type_token_ins": _EMBEDDINGS + "type_token_instance",
    "norm": "model.encoder.layernorm",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_pred.0": "decoder.decoder_pred.conv",
    "decoder_pred.1": "decoder.decoder_pred.layernorm",
    "decoder_pred.3": "decoder.decoder_pred.head",
}
_IN_BLOCKS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn": "attention",
    "mlp.fc1": "mlp.lin1",
    "mlp.fc2": "mlp.lin2",
}


class CheckpointError(ValueError):
    """A checkpoint cannot be had or used: one line that names what was got and what is allowed."""


def to_original(name: str) -> str:
    """The original code's name of a tensor that Hugging Face calls `name`; unknown names stay as they are."""
    if match := re.fullmatch(r"model\.encoder\.layers\.(\d+)\.(.+)", name):
        return f"blocks.{match[1]}.{_renamed(match[2], {new: old for old, new in _IN_BLOCKS.items()})}"
    return _renamed(name, {new: old for old, new in _OUTSIDE_BLOCKS.items()})


def to_huggingface(name: str) -> str:
    """Hugging Face's name of a tensor that the original code calls `name`; unknown names stay as they are."""
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return f"model.encoder.layers.{match[1]}.{_renamed(match[2], _IN_BLOCKS)}"
    return _renamed(name, _OUTSIDE_BLOCKS)


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name == old or name.startswith(old + "."):
            return new + name.removeprefix(old)
    return name


def layout_of(weights: Path) -> Layout:
    """Whose names the tensors of a file have, by its suffix."""
    return "original" if weights.suffix in _ORIGINAL_SUFFIXES else "huggingface"


def map_tensors(weights: Path) -> dict[str, Tensor]:
    """Every tensor under its Hugging Face name; nothing is read from disk until a tensor is used.

    Args:
        weights: a `.safetensors`, the `.index.json` of several, or an original `.pth`.

    Raises:
        CheckpointError: a file is not there, is damaged, or is something else.
    """
    if layout_of(weights) == "original":
        return {to_huggingface(name): tensor for name, tensor in _original_tensors(weights).items()}
    tensors: dict[str, Tensor] = {}
    for file in files_of(weights):
        try:
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise CheckpointError(f"{file} is not there") from error
        except (SafetensorError, OSError) as error:
            if _is_pickle(file):
                raise CheckpointError(
                    f"{file} is a pickle of torch.save; transformers' save_pretrained makes a model.safetensors of it"
                ) from error
            raise CheckpointError(f"{file} is damaged or not a safetensors file: {_why(file, error)}") from error
    return tensors


def converted(
    tensor: Tensor, dtype: torch.dtype, device: torch.device | str | None = None, piece_bytes: int = _PIECE_BYTES
) -> Tensor:
    """A mapped tensor in another precision or on another device, itself if it is there already.

    Read piece by piece, and each piece's pages are given back before the next: of a file four times the memory that a
    cast network needs, no more than a piece counts as this process's at any moment.

    Args:
        tensor: from `map_tensors`.
        dtype: the wanted precision.
        device: where it goes; None means the CPU.
        piece_bytes: how much of `tensor` is read at a time.
    """
    device = torch.device(device or "cpu")
    if (tensor.dtype == dtype and tensor.device == device) or not tensor.is_contiguous():
        return tensor.to(device=device, dtype=dtype)
    result = (
        _block(tensor.shape, dtype) if device.type == "cpu" else torch.empty(tensor.shape, dtype=dtype, device=device)
    )
    numbers = max(1, piece_bytes // tensor.element_size())
    pieces = zip(result.view(-1).split(numbers), tensor.detach().view(-1).split(numbers), strict=True)
    is_mapped = is_mapped_from_a_file(tensor)
    for to, source in pieces:
        to.copy_(source)
        if is_mapped:
            give_back(source)
    return result


def _block(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Memory on the CPU that goes back to the system with its tensor.

    What an allocator gets back it may keep, between blocks that live on: when weights are dropped because something was
    made of them, the holes would be hundreds of megabytes.
    """
    size = shape.numel() * dtype.itemsize
    if size < _OWN_BLOCK_BYTES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def files_of(weights: Path) -> list[Path]:
    """The file itself, or those that an index names.

    Raises:
        CheckpointError: the index cannot be understood, or names files of another folder.
    """
    if not weights.name.endswith(_INDEX_SUFFIX):
        return [weights]
    try:
        names = sorted(set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("its weight_map must name files of the same folder")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{weights} is not an index of safetensors files: {one_line(error)}") from error
    return [weights.parent / name for name in names]


def metadata_of(weights: Path) -> dict[str, str]:
    """What a `.safetensors` that `map_tensors` accepted says about itself; empty for other files."""
    if layout_of(weights) == "original" or weights.name.endswith(_INDEX_SUFFIX):
        return {}
    with safe_open(weights, framework="pt") as opened:
        return dict(opened.metadata() or {})


def write_safetensors(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a file whole or not at all; equal tensors and metadata give equal bytes."""
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata=dict(metadata))
    # The library shuffles metadata, so it is sorted here, in its place: 8 bytes of length, then JSON padded by spaces.
    with part.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(encoded) == length
        file.seek(8)
        file.write(encoded)
    part.chmod(0o644)  # the writer makes a file for its owner alone; a checkpoint is for everyone
    part.replace(path)


def _original_tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"{file} is not there")
    try:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no archive as torch.save writes")
        # Painter's training code stores its arguments beside the weights; a Namespace holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a boundary: over foreign bytes the unpickler raises whatever they lead it to
        raise CheckpointError(f"{file} is damaged or not an original checkpoint: {_why(file, error)}") from error
    tensors = content.get(_ORIGINAL_KEY) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        got = f"the keys {some(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise CheckpointError(f"{file} holds {got}; an original checkpoint has its tensors under {_ORIGINAL_KEY!r}")
    return tensors


def _is_pickle(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(4).startswith(_PICKLE_STARTS)


def _why(file: Path, error: Exception) -> str:
    if file.is_file():
        with file.open("rb") as opened:
            if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
                return "it is a git-lfs pointer; fetch the file itself with `git lfs pull`"
    return one_line(error)


def some(names: Iterable[object]) -> str:
    """The first few, and how many more there are."""
    listed = [str(name) for name in names]
    more = len(listed) - _NAMED_AT_MOST
    return ", ".join(listed[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def one_line(error: BaseException) -> str:
    """An exception's message without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
