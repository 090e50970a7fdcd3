"""A checkpoint, wherever it lies, becomes a network; and a network becomes one that transformers loads.

Weights are mapped into memory, not read: in the stored precision a network costs no second copy, and in another one the
file's pages do not pile up beside it. Which tensor is called what is known by `model.weights`, where files lie by
`model.sources`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import SegGptConfig
from model.processing import SegGptImageProcessor
from model.seggpt import SegGptForImageSegmentation
from model.sources import BUNDLED, CONFIG, PREPROCESSOR, WEIGHTS, Source
from model.weights import (
    CheckpointError,
    Layout,
    converted,
    layout_of,
    map_tensors,
    metadata_of,
    one_line,
    some,
    to_huggingface,
    to_original,
    write_safetensors,
)

_CONFIG_KEY = "seggpt_config"  # in the metadata of what `save` writes: a lone file explains itself
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FINGERPRINT_VALUES = 256  # of each tensor


@dataclass(frozen=True)
class Checkpoint:
    """Weights on this machine and the network that they are for.

    Args:
        weights: a `.safetensors`, the index of several, or an original `.pth`.
        config: the network's.
        revision: commit hash on the hub; None for local files.
        layout: whose names the tensors have.
        source: what `resolve` was asked for.
    """

    weights: Path
    config: SegGptConfig
    revision: str | None
    layout: Layout
    source: str

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(parameter.numel() for parameter in _skeleton(self.config).parameters())

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the fields, `config` as in a config.json."""
        return {**asdict(self), "weights": str(self.weights), "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Checkpoint:
        """The inverse of `to_dict`."""
        config = SegGptConfig.from_dict(values["config"])
        return cls(**{**values, "weights": Path(values["weights"]), "config": config})


def resolve(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> Checkpoint:
    """Find a checkpoint, download it if need be, and check every tensor's name, shape and type; weights stay unread.

    Args:
        source: a folder with config.json and model.safetensors (or its index and shards); a lone .safetensors or
            original .pth (a config.json beside it is read); a hub id, "owner/name"; or "bundled", the small one that
            comes along.
        revision: branch, tag or commit on the hub.
        cache_dir: where downloads are kept; None means Hugging Face's cache.
        token: for private repositories; None means `HF_TOKEN` or the stored login.
        local_files_only: never use the network.
        endpoint: URL of the hub; None means `HF_ENDPOINT` or huggingface.co.

    Raises:
        CheckpointError: it is not there, is no checkpoint, is damaged, or does not fit its config.
    """
    weights, commit = Source(source, revision, cache_dir, token, local_files_only, endpoint).weights()
    tensors = map_tensors(weights)
    checkpoint = Checkpoint(weights, _config_of(weights, tensors), commit, layout_of(weights), str(source))
    _check(checkpoint, tensors)
    return checkpoint


def load(
    checkpoint: Checkpoint, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> SegGptForImageSegmentation:
    """Build the network with the checkpoint's weights, ready to answer (`eval`).

    Args:
        checkpoint: from `resolve`.
        dtype: precision of the weights; None keeps the stored one, which on the CPU maps them without a copy.
        device: where the weights go; None means the CPU.

    Raises:
        CheckpointError: the file has gone, or was changed since it was resolved.
    """
    tensors = map_tensors(checkpoint.weights)
    _check(checkpoint, tensors)
    if dtype is None:
        dtype = _common_dtype(tensors)
    # One tensor at a time, so that a cast or a move to a device never holds the whole network twice.
    state = {name: converted(tensors.pop(name), dtype, device) for name in list(tensors)}
    model = _skeleton(checkpoint.config)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def save(model: SegGptForImageSegmentation, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write config.json and model.safetensors, as transformers reads them.

    The weights are replaced whole, so that a network may be saved over the checkpoint that it is mapped from.

    Args:
        model: the network; it is not changed.
        folder: made if it is not there.
        dtype: precision on disk; None keeps the network's.

    Raises:
        CheckpointError: `model.inference.optimise` has prepared the network.
    """
    if model.prepared_for:
        raise CheckpointError(
            f"the network is prepared for answering in {model.prepared_for}; save it before, or load it again"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().to(device="cpu", dtype=dtype).contiguous() for name, tensor in model.state_dict().items()
    }
    stored = str(_common_dtype(state)).removeprefix("torch.")
    config = replace(model.config, extra={**model.config.extra, "dtype": stored})
    metadata = {"format": "pt", _CONFIG_KEY: json.dumps(config.to_dict(), sort_keys=True)}
    write_safetensors(state, folder / WEIGHTS, metadata)
    config.save_json(folder / CONFIG)


def config_of(source: str | Path, **places: Any) -> SegGptConfig:
    """The config of a checkpoint, without its weights where a config.json lies beside them.

    Args:
        source: as `resolve` takes it; the folder may hold a config.json alone.
        places: likewise.

    Raises:
        CheckpointError: it cannot be had or read.
    """
    return _config_in(Source(source, **places).folder(), source, places)


def preprocessor_of(source: str | Path, **places: Any) -> dict[str, Any]:
    """A checkpoint's preprocessor_config.json; without one, the published settings at its network's size.

    Args:
        source: as `resolve` takes it; the folder may hold a preprocessor_config.json alone.
        places: likewise.

    Raises:
        CheckpointError: it cannot be had or read.
    """
    folder = Source(source, **places).folder()
    beside = folder / PREPROCESSOR
    if not beside.is_file():
        return SegGptImageProcessor(_config_in(folder, source, places).half_size).to_dict()
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{beside} is not a preprocessor config: {one_line(error)}") from error
    return values


def _config_in(folder: Path, source: str | Path, places: Mapping[str, Any]) -> SegGptConfig:
    """What config.json in the source's folder says; without one, what its weights do."""
    beside = folder / CONFIG
    return _read_config(beside) if beside.is_file() else resolve(source, **places).config


def fingerprint(checkpoint: Checkpoint) -> str:
    """What tells weights from others: 64 hexadecimal digits, the same in the original and in Hugging Face's layout.

    A hash of every tensor's name and shape and of 256 of its values, spread evenly: training changes all values, and
    gigabytes need not be read. The same weights rounded to another precision count as others.

    Raises:
        CheckpointError: the file has gone, or cannot be read.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(map_tensors(checkpoint.weights).items()):
        values = tensor.flatten()
        places = torch.linspace(0, len(values) - 1, min(len(values), _FINGERPRINT_VALUES), dtype=torch.float64).long()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(values[places].to(torch.float64).numpy().tobytes())
    return digest.hexdigest()


def _config_of(weights: Path, tensors: Mapping[str, Tensor]) -> SegGptConfig:
    """From the config.json beside the weights, else from the file itself, else the published one if it fits."""
    if (beside := weights.parent / CONFIG).is_file():
        return _read_config(beside)
    if stored := metadata_of(weights).get(_CONFIG_KEY):
        try:
            return SegGptConfig.from_dict(json.loads(stored))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{weights} is not a SegGPT config: {one_line(error)}") from error
    # Shapes do not tell merge_index or which layers the decoder reads: other networks must say so themselves.
    config = SegGptConfig()
    if difference := _difference(config, layout_of(weights), tensors):
        raise CheckpointError(
            f"{weights} has no {CONFIG} beside it and is not of the published shape (ViT-L): {difference}"
        )
    return config


def _read_config(path: Path) -> SegGptConfig:
    try:
        return SegGptConfig.from_json_file(path)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a SegGPT config: {one_line(error)}") from error


def _check(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    if difference := _difference(checkpoint.config, checkpoint.layout, tensors):
        raise CheckpointError(f"{checkpoint.weights} does not fit its config: {difference}")
    wrong = [f"{name} is {value.dtype}" for name, value in tensors.items() if value.dtype not in _PRECISIONS]
    if wrong:
        allowed = ", ".join(str(precision) for precision in _PRECISIONS)
        raise CheckpointError(f"{checkpoint.weights}: {some(wrong)}; allowed are {allowed}")


def _difference(config: SegGptConfig, layout: Layout, tensors: Mapping[str, Tensor]) -> str:
    """What is missing, surplus or misshapen, named as in the file; empty if nothing is."""
    expected = {name: tuple(tensor.shape) for name, tensor in _skeleton(config).state_dict().items()}

    def named(name: str) -> str:
        return to_original(name) if layout == "original" else name

    missing = [named(name) for name in expected if name not in tensors]
    surplus = [named(name) for name in tensors if name not in expected]
    misshapen = [
        f"{named(name)} is {tuple(tensors[name].shape)}, must be {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    kinds = (("missing", missing), ("surplus", surplus), ("misshapen", misshapen))
    return "; ".join(f"{len(names)} {kind}: {some(names)}" for kind, names in kinds if names)


def _skeleton(config: SegGptConfig) -> SegGptForImageSegmentation:
    """The network without storage."""
    with torch.device("meta"):
        return SegGptForImageSegmentation(config)


def _common_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))


__all__ = [
    "BUNDLED",
    "Checkpoint",
    "CheckpointError",
    "Layout",
    "config_of",
    "fingerprint",
    "load",
    "preprocessor_of",
    "resolve",
    "save",
    "to_huggingface",
    "to_original",
]
