"""A place for files, local or remote: a folder written so that a kill leaves no half file, or whatever fsspec opens.

Knows keys ("prompts/4f1c.zip") and bytes, and nothing of what they mean. All calls block. Whatever a storage raises
becomes a `PromptStoreUnavailable` without addresses or credentials in it; what is absent is None.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final

import fsspec
from fsspec.utils import get_protocol

from app.errors import PromptStoreUnavailable

_INCOMING: Final = "incoming"
_LOCK: Final = ".lock"
_LOCK_WAIT_S: Final = 20.0
_LOCK_POLL_S: Final = 0.01
# s3fs tries again by itself; botocore's own attempts within each of those would multiply the wait.
_S3_OPTIONS: Final[dict[str, Any]] = {"config_kwargs": {"retries": {"max_attempts": 0}}}
_OPTIONS: Final = {"s3": _S3_OPTIONS, "s3a": _S3_OPTIONS}
# What storages call the thing that changes whenever an object's content does.
_VERSION_WORDS: Final = ("ETag", "etag", "md5Hash", "content_md5")
_TIME_WORDS: Final = ("LastModified", "last_modified", "updated", "mtime", "created")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Tells two contents of one key apart without reading them.

    Args:
        version: equal only for the same content; None where the storage has nothing of that kind.
        bytes: the content's length.
    """

    version: str | None
    bytes: int


class Objects(ABC):
    """Immutable contents under keys "folder/file".

    Attributes:
        is_locked: whether `changing` keeps all other processes out.
    """

    is_locked: bool

    @abstractmethod
    def changing(self) -> AbstractContextManager[object]:
        """To be entered around several calls that belong together, by whoever writes or removes."""

    @abstractmethod
    def list(self, folder: str) -> dict[str, Stamp]:
        """The files of a folder by their name, half-written ones left out; empty if there is no such folder."""

    @abstractmethod
    def stamp(self, key: str) -> Stamp | None:
        """The state of a key, None if it is absent."""

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """The content of a key, None if it is absent."""

    @abstractmethod
    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The contents of those keys that exist."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> None:
        """Put a content at a key, in one step for every reader: the former content, if any, or all of this one."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> bool:
        """As `write`, but only if the key is absent; whether it was."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Make a key absent."""


def open_objects(url: str) -> Objects:
    """The place that `url` names; a folder is made when something is first put there.

    Raises:
        ValueError: no installed package knows the url's protocol, or the url cannot be read. The text names the
            protocol only.
    """
    protocol = get_protocol(url)
    if protocol in {"file", "local"}:
        return Folder(Path(url.removeprefix(f"{protocol}://")).expanduser().absolute())
    if protocol not in fsspec.available_protocols():
        raise ValueError(f"fsspec knows no {protocol}:// urls; allowed is a folder, or such as s3://bucket/prompts")
    try:
        # Listings must not be kept: other processes change what they show. Neither must the instance be shared.
        options = {"use_listings_cache": False, "skip_instance_cache": True, **_OPTIONS.get(protocol, {})}
        file_system, root = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        hint = "pip install 'seggpt-serve[s3]'" if protocol in _OPTIONS else str(error)
        raise ValueError(f"{protocol}:// needs a package that is not installed: {hint}") from error
    except Exception as error:  # the boundary to any storage's constructor; its words may hold credentials
        raise ValueError(f"a {protocol}:// url that cannot be opened ({type(error).__name__})") from error
    return Bucket(file_system, root)


class Folder(Objects):
    """A local folder, which several processes of this machine, or of several with a file system that has locks, share.

    A file is written beside its place, flushed to the disk and renamed: readers see all of it or nothing, also after a
    kill or a power cut. What a kill leaves in `incoming` nobody reads; the next writer sweeps it away.
    """

    is_locked = True

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep all other writers out, threads and processes; the system lets go when a process dies."""
        with _unavailable("written"):
            self._make_folder(self._root / _INCOMING)
            lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._acquire(lock)
            with _unavailable("written"):
                for left_over in (self._root / _INCOMING).iterdir():
                    left_over.unlink()  # whoever wrote it holds no lock, so it is dead
            yield
        finally:
            os.close(lock)

    def list(self, folder: str) -> dict[str, Stamp]:
        """See `Objects.list`."""
        stamps = {}
        with _unavailable("read"):
            try:
                files = list(self._root.joinpath(folder).iterdir())
            except FileNotFoundError:
                return {}
            for file in files:
                with suppress(FileNotFoundError):  # removed a moment ago
                    status = file.stat()
                    if S_ISREG(status.st_mode):
                        stamps[file.name] = _stamp_of(status)
        return stamps

    def stamp(self, key: str) -> Stamp | None:
        """See `Objects.stamp`."""
        with _unavailable("read"):
            try:
                return _stamp_of((self._root / key).stat())
            except FileNotFoundError:
                return None

    def read(self, key: str) -> bytes | None:
        """See `Objects.read`."""
        with _unavailable("read"):
            try:
                return (self._root / key).read_bytes()
            except FileNotFoundError:
                return None

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """See `Objects.read_many`."""
        contents = ((key, self.read(key)) for key in keys)
        return {key: content for key, content in contents if content is not None}

    def write(self, key: str, content: bytes) -> None:
        """See `Objects.write`; inside `changing`."""
        place = self._root / key
        incoming = self._root / _INCOMING / uuid.uuid4().hex
        with _unavailable("written"):
            self._make_folder(place.parent)
            try:
                with incoming.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                incoming.replace(place)
            except OSError:
                incoming.unlink(missing_ok=True)
                raise
            _flush_folder(place.parent)

    def create(self, key: str, content: bytes) -> bool:
        """See `Objects.create`; inside `changing`, so nobody else creates it between the two steps."""
        if self.stamp(key) is not None:
            return False
        self.write(key, content)
        return True

    def remove(self, key: str) -> None:
        """See `Objects.remove`."""
        place = self._root / key
        with _unavailable("written"):
            try:
                place.unlink()
            except FileNotFoundError:
                return
            _flush_folder(place.parent)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        _flush_folder(folder.parent)

    def _acquire(self, lock: int) -> None:
        end = time.monotonic() + _LOCK_WAIT_S
        while True:
            with _unavailable("written"):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if time.monotonic() >= end:
                        raise TimeoutError from None
            time.sleep(_LOCK_POLL_S)


class Bucket(Objects):
    """Whatever fsspec opens: object storage, where one put is one step for every reader.

    There is no lock. `create` is exclusive where the storage has conditional puts (S3, Google's, in memory); elsewhere
    two that create one key in the same moment both believe to be first, and the later one's content stays.
    """

    is_locked = False

    def __init__(self, file_system: Any, root: str) -> None:
        self._fs = file_system
        self._root = root.rstrip("/")

    def changing(self) -> AbstractContextManager[object]:
        """Nothing to hold."""
        return nullcontext()

    def list(self, folder: str) -> dict[str, Stamp]:
        """See `Objects.list`."""
        with _unavailable("read"):
            try:
                entries = self._fs.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        return {
            entry["name"].rpartition("/")[2]: _stamp_from(entry)
            for entry in entries
            if entry["type"] == "file" and not entry["name"].endswith("/")
        }

    def stamp(self, key: str) -> Stamp | None:
        """See `Objects.stamp`."""
        with _unavailable("read"):
            try:
                return _stamp_from(self._fs.info(self._path(key)))
            except FileNotFoundError:
                return None

    def read(self, key: str) -> bytes | None:
        """See `Objects.read`."""
        with _unavailable("read"):
            try:
                return bytes(self._fs.cat_file(self._path(key)))
            except FileNotFoundError:
                return None

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """See `Objects.read_many`; beside each other where the storage can."""
        by_path = {self._path(key): key for key in keys}
        if not by_path:
            return {}
        with _unavailable("read"):
            # cat of a list answers with a mapping, whose values are contents or exceptions.
            contents = self._fs.cat(list(by_path), recursive=False, on_error="return")
            for content in contents.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
        return {by_path[path]: content for path, content in contents.items() if isinstance(content, bytes)}

    def write(self, key: str, content: bytes) -> None:
        """See `Objects.write`."""
        with _unavailable("written"):
            self._fs.pipe_file(self._path(key), content)

    def create(self, key: str, content: bytes) -> bool:
        """See `Objects.create`."""
        with _unavailable("written"):
            try:
                self._fs.pipe_file(self._path(key), content, mode="create")
            except FileExistsError:
                return False
        return True

    def remove(self, key: str) -> None:
        """See `Objects.remove`."""
        with _unavailable("written"):
            try:
                self._fs.rm_file(self._path(key))
            except FileNotFoundError:
                return

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


def _stamp_of(status: os.stat_result) -> Stamp:
    return Stamp(f"{status.st_ino}-{status.st_mtime_ns}-{status.st_ctime_ns}", status.st_size)


def _stamp_from(info: Mapping[str, Any]) -> Stamp:
    versions = [str(info[word]) for word in (*_VERSION_WORDS, *_TIME_WORDS) if info.get(word) is not None]
    return Stamp(versions[0] if versions else None, int(info["size"] or 0))


def _flush_folder(folder: Path) -> None:
    """Make what a folder lists survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _unavailable(done: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the boundary to any storage: there is no common base of what they raise
        message = f"the prompt store cannot be {done} now: {_reason(error)}"
        logger.warning("%s", message)
        raise PromptStoreUnavailable(message) from error


def _reason(error: Exception) -> str:
    """Words that hold no path, address or credential: the system's own, or the kind of error."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket or folder"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return type(error).__name__
