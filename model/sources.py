"""What a user names a checkpoint by - hub id, folder or file - to the files on this machine.

Knows how files are called, not what is in them; how they come from the hub is known by `model.hub`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from model.hub import HubError, HubRepository
from model.weights import FILE_SUFFIXES, CheckpointError, files_of

BUNDLED = Path(__file__).parent / "checkpoints" / "seggpt-mini"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_BUNDLED_NAME = "bundled"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Arguments of transformers' `from_pretrained` that change nothing here: weights are always mapped, never unpickled, and
# no code comes with them; attention weights are given by whatever attends.
_WITHOUT_EFFECT = (
    "attn_implementation",
    "backend",
    "low_cpu_mem_usage",
    "trust_remote_code",
    "use_fast",
    "use_safetensors",
)


@dataclass(frozen=True)
class Source:
    """What was asked for.

    Args:
        name: a folder with config.json and model.safetensors (or its index and shards); a lone .safetensors or
            original .pth; a hub id, "owner/name"; or "bundled", the small one that comes along.
        revision, cache_dir, token, local_files_only, endpoint: as `model.hub.HubRepository` takes them.
    """

    name: str | Path
    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | None = None
    local_files_only: bool = False
    endpoint: str | None = None

    def folder(self) -> Path:
        """The folder of config.json and preprocessor_config.json; from the hub these come without the weights.

        Raises:
            CheckpointError: it is no folder, file or hub id, or the hub does not give it.
        """
        path = self._path
        if self.name != "" and path.is_dir():
            return path
        if path.is_file():
            return path.parent
        try:
            return self._repository().snapshot((CONFIG, PREPROCESSOR, INDEX))
        except HubError as error:
            raise CheckpointError(str(error)) from error

    def weights(self) -> tuple[Path, str | None]:
        """The absolute path of a file of weights, or of an index of several; and its commit, if it is from the hub.

        Raises:
            CheckpointError: as `folder`; or there are no weights.
        """
        path, folder = self._path, self.folder()
        if path.is_file():
            return path.absolute(), None
        if folder == path:
            return _weights_in(folder).absolute(), None
        repository = self._repository()
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"hub repository {repository.name} has no {CONFIG}: it is no checkpoint")
        index = folder / INDEX
        try:
            for file in files_of(index) if index.is_file() else (folder / WEIGHTS,):
                repository.fetch(file.name, folder.name)  # safetensors, never a pickle
        except HubError as error:
            raise CheckpointError(str(error)) from error
        return _weights_in(folder).absolute(), folder.name

    @property
    def _path(self) -> Path:
        return BUNDLED if self.name == _BUNDLED_NAME else Path(self.name).expanduser()

    def _repository(self) -> HubRepository:
        if not isinstance(self.name, str) or not _HUB_ID.fullmatch(self.name) or self._path.suffix in FILE_SUFFIXES:
            raise CheckpointError(f"{self.name}: no such file or folder, nor a hub id (owner/name)")
        return HubRepository(self.name, self.revision, self.cache_dir, self.token, self.local_files_only, self.endpoint)


_PLACES = tuple(entry.name for entry in fields(Source) if entry.name != "name")


def places_of(door: str, given: Mapping[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """The fields of `Source` among what a `from_pretrained` was given beside its own arguments.

    Args:
        door: what was called, for the message.
        given: arguments by name.
        own: names of the arguments that it takes itself, for the message.

    Raises:
        TypeError: there is no such argument.
    """
    unknown = sorted(set(given) - {*_PLACES, *_WITHOUT_EFFECT})
    if unknown:
        raise TypeError(f"{door} got {', '.join(unknown)}; it takes {', '.join((*own, *_PLACES))}")
    return {name: given[name] for name in _PLACES if name in given}


def _weights_in(folder: Path) -> Path:
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; a checkpoint folder has {CONFIG} and {WEIGHTS}")
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} has neither {WEIGHTS} nor {INDEX}; name an original .pth by its path")
