"""The shape of a SegGPT network, in the words and the JSON of Hugging Face's `config.json`.

Knows nothing of torch or of files other than that JSON, but for `from_pretrained`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

_POSITIVE_INTEGERS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "mlp_dim",
    "pretrain_image_size",
    "decoder_hidden_size",
)
_SWITCHES = (
    "qkv_bias",
    "use_relative_position_embeddings",
    "output_hidden_states",
    "output_attentions",
    "return_dict",
)
_CANVAS_HALVES = 2


@dataclass(frozen=True)
class SegGptConfig:
    """Sizes and constants of one network. The defaults are those of `BAAI/seggpt-vit-large`.

    Args:
        hidden_size: width of a token.
        num_hidden_layers: number of transformer blocks.
        num_attention_heads: heads per block; divides `hidden_size`.
        hidden_act: the nonlinearity; only "gelu" (exact, by erf) exists in published checkpoints.
        hidden_dropout_prob: kept for the file format; the network never applies it.
        initializer_range: standard deviation of fresh weights.
        layer_norm_eps: added to variances.
        image_size: (height, width) in pixels of the canvas: two pictures stacked, so height is even in patches.
        patch_size: side of a square patch in pixels.
        num_channels: colour channels of pictures and masks; 3.
        qkv_bias: whether the query, key and value projection has a bias.
        mlp_dim: width inside the MLP; None means 4 * hidden_size.
        drop_path_rate: stochastic depth of the last block in training, in [0, 1); earlier blocks have less.
        pretrain_image_size: side in pixels of the picture that the stored position table was made for.
        decoder_hidden_size: channels of the decoder's full-resolution features.
        use_relative_position_embeddings: whether attention adds row and column terms.
        merge_index: 0-based block after which image stream and mask stream are averaged.
        intermediate_hidden_state_indices: 0-based blocks whose outputs the decoder reads.
        beta: where smooth-L1 turns from square to linear, in normalised colour units.
        output_hidden_states, output_attentions, return_dict: what a call of the network gives where it does not say.
        extra: keys of a `config.json` that are not this network's; kept and written back.

    Raises:
        ValueError: a value is impossible; the message names the field, what it got and what is allowed.

    Source:
        SegGPT, arXiv:2304.03284; Hugging Face transformers, `SegGptConfig`.
    """

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: tuple[int, int] = (896, 448)
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    mlp_dim: int | None = None
    drop_path_rate: float = 0.1
    pretrain_image_size: int = 224
    decoder_hidden_size: int = 64
    use_relative_position_embeddings: bool = True
    merge_index: int = 2
    intermediate_hidden_state_indices: tuple[int, ...] = (5, 11, 17, 23)
    beta: float = 0.01
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Hugging Face writes lists for pairs and allows [16, 16] for a square.
        object.__setattr__(self, "image_size", _as_pair("image_size", self.image_size))
        for name in ("patch_size", "pretrain_image_size"):
            object.__setattr__(self, name, _as_square(name, getattr(self, name)))
        if not isinstance(self.intermediate_hidden_state_indices, (list, tuple)):
            raise _refused(
                "intermediate_hidden_state_indices", self.intermediate_hidden_state_indices, "a list of layers"
            )
        object.__setattr__(self, "intermediate_hidden_state_indices", tuple(self.intermediate_hidden_state_indices))
        if self.mlp_dim is None and _is_integer(self.hidden_size):
            object.__setattr__(self, "mlp_dim", 4 * self.hidden_size)
        self._check()

    def _check(self) -> None:
        for name in _POSITIVE_INTEGERS:
            value = getattr(self, name)
            if not _is_integer(value) or value < 1:
                raise _refused(name, value, "a whole number of at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise _refused(
                "num_attention_heads", self.num_attention_heads, f"a divisor of hidden_size {self.hidden_size}"
            )
        height, width = self.image_size
        if height % (_CANVAS_HALVES * self.patch_size) or width % self.patch_size or min(height, width) < 1:
            raise _refused(
                "image_size",
                self.image_size,
                f"(height, width) in pixels, two stacked pictures of whole patches of {self.patch_size}",
            )
        if self.num_channels != 3:
            raise _refused("num_channels", self.num_channels, "3 (red, green, blue)")
        if self.hidden_act != "gelu":
            raise _refused("hidden_act", self.hidden_act, "'gelu'")
        if self.pretrain_image_size % self.patch_size:
            raise _refused("pretrain_image_size", self.pretrain_image_size, "a multiple of patch_size")
        self._check_layers()
        for name, low, high in (
            ("hidden_dropout_prob", 0.0, 1.0),
            ("drop_path_rate", 0.0, 1.0),
            ("initializer_range", 0.0, float("inf")),
            ("layer_norm_eps", 0.0, float("inf")),
            ("beta", 0.0, float("inf")),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < high:
                raise _refused(name, value, f"a number from {low:g} up to, not including, {high:g}")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise _refused(name, getattr(self, name), "true or false")

    def _check_layers(self) -> None:
        indices = self.intermediate_hidden_state_indices
        allowed = f"different layers from 0 to {self.num_hidden_layers - 1}"
        if (
            not indices
            or not all(_is_integer(index) and 0 <= index < self.num_hidden_layers for index in indices)
            or len(set(indices)) != len(indices)
        ):
            raise _refused("intermediate_hidden_state_indices", indices, allowed)
        if not _is_integer(self.merge_index) or not 0 <= self.merge_index <= min(indices):
            raise _refused(
                "merge_index",
                self.merge_index,
                f"a layer from 0 to the first of intermediate_hidden_state_indices, {min(indices)}",
            )

    @property
    def half_size(self) -> tuple[int, int]:
        """(height, width) in pixels of one picture: half a canvas."""
        return self.image_size[0] // _CANVAS_HALVES, self.image_size[1]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of the whole canvas."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_pretrained(cls, source: str | Path, **given: Any) -> SegGptConfig:
        """Read the config of a checkpoint.

        Args:
            source: hub id, folder or file, as `model.checkpoint.resolve` takes it; weights are not fetched.
            given: fields that stand in for the stored ones; revision, cache_dir, token, local_files_only, endpoint.

        Raises:
            CheckpointError: the checkpoint cannot be had, or its config cannot be read.
            TypeError: there is no such argument.
            ValueError: a given value is impossible.
        """
        from model import checkpoint, sources  # noqa: PLC0415  # they know torch, and the first one builds this class

        own = [entry.name for entry in fields(cls)]
        changes = {name: given.pop(name) for name in own if name in given}
        places = sources.places_of(f"{cls.__name__}.from_pretrained", given, own)
        return replace(checkpoint.config_of(source, **places), **changes)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a `config.json`, as transformers reads it, to a folder that is made if it is not there."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.save_json(Path(folder) / "config.json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SegGptConfig:
        """Build from the content of a `config.json`; keys of no meaning here are kept in `extra`.

        Raises:
            ValueError: a value is impossible, or `model_type` is another network's.
        """
        if values.get("model_type", "seggpt") != "seggpt":
            raise _refused("model_type", values["model_type"], "'seggpt'")
        own = {entry.name for entry in fields(cls)} - {"extra"}
        return cls(
            **{name: value for name, value in values.items() if name in own},
            extra={name: value for name, value in values.items() if name not in own},
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of a `config.json` that transformers reads."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "extra"}
        own["image_size"] = list(self.image_size)
        own["intermediate_hidden_state_indices"] = list(self.intermediate_hidden_state_indices)
        named = {"architectures": ["SegGptForImageSegmentation"], "model_type": "seggpt"}
        return {**named, **dict(self.extra), **own}

    @classmethod
    def from_json_file(cls, path: str | Path) -> SegGptConfig:
        """Read a `config.json`.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a JSON object, or a value is impossible.
        """
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a {type(values).__name__}; a config.json holds an object")
        return cls.from_dict(values)

    def save_json(self, path: str | Path) -> None:
        """Write a `config.json`."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refused(name: str, got: object, allowed: str) -> ValueError:
    return ValueError(f"{name} is {got!r}; it must be {allowed}")


def _as_pair(name: str, value: object) -> tuple[int, int]:
    if _is_integer(value):
        return value, value  # type: ignore[return-value]  # narrowed by _is_integer
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_integer(side) for side in value):
        return value[0], value[1]
    raise _refused(name, value, "whole numbers, (height, width)")


def _as_square(name: str, value: object) -> object:
    if isinstance(value, (list, tuple)):
        if len(value) != 2 or value[0] != value[1]:
            raise _refused(name, value, "one whole number, or the same one twice")
        return value[0]
    return value
