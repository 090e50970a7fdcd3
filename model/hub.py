"""Files of one repository on the Hugging Face hub, in the cache that every Hugging Face tool shares.

Knows names, revisions and bytes; does not know what a checkpoint is. A large file is fetched here, not by
`hf_hub_download`: that one throws away what it had when it is interrupted, and weights are gigabytes.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented there, but not re-exported for types
    WeakFileLock,
    build_hf_headers,
    tqdm,
)

# What can go wrong on the wire, whichever HTTP library this version of huggingface_hub builds its own error on.
_TRANSPORT_ERRORS: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNAUTHORISED = (401, 403)
_LOG_INTERVAL_S = 5.0


class HubError(Exception):
    """A repository, revision or file cannot be had; one line that says which and why."""


@dataclass(frozen=True)
class HubRepository:
    """One repository at one revision.

    Args:
        name: "owner/name".
        revision: branch, tag or commit; None means the default branch.
        cache_dir: folder of the cache; None means Hugging Face's own.
        token: for private repositories; None means `HF_TOKEN` or the stored login.
        local_files_only: use the cache, never the network.
        endpoint: URL of the hub; None means `HF_ENDPOINT` or huggingface.co.
    """

    name: str
    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | None = None
    local_files_only: bool = False
    endpoint: str | None = None

    def snapshot(self, names: Sequence[str]) -> Path:
        """Bring those of the small files `names` that exist into the cache.

        Returns:
            The folder of this revision, named by its commit hash.

        Raises:
            HubError: no such repository or revision, no access, or no network and an empty cache.
        """
        with self._explained("files"):
            return Path(
                snapshot_download(
                    self.name,
                    revision=self.revision,
                    cache_dir=self.cache_dir,
                    token=self.token,
                    local_files_only=self.local_files_only,
                    endpoint=self.endpoint,
                    allow_patterns=list(names),
                    tqdm_class=_Quiet,
                )
            )

    def fetch(self, name: str, commit: str) -> Path:
        """Bring one large file into the cache, going on where an interrupted download stopped.

        Progress shows on stderr. A second process that wants the same file waits for the first.

        Args:
            name: the file's name in the repository.
            commit: commit hash, as named by the folder that `snapshot` returned.

        Raises:
            HubError: no such file, no access, no network, or the bytes are not those that the hub announced.
        """
        with self._explained(name):
            if not self.local_files_only and not (self._folder("") / "snapshots" / commit / name).exists():
                self._download(name, commit)
            # The bytes lie in the cache by now: this links them into the snapshot, as every Hugging Face tool does.
            return Path(
                hf_hub_download(
                    self.name,
                    name,
                    revision=commit,
                    cache_dir=self.cache_dir,
                    token=self.token,
                    local_files_only=self.local_files_only,
                    endpoint=self.endpoint,
                )
            )

    def _folder(self, place: str) -> Path:
        return Path(self.cache_dir or constants.HF_HUB_CACHE, place, f"models--{self.name.replace('/', '--')}")

    def _download(self, name: str, commit: str) -> None:
        url = hf_hub_url(self.name, name, revision=commit, endpoint=self.endpoint)
        metadata = get_hf_file_metadata(url, token=self.token, endpoint=self.endpoint)
        if metadata.etag is None:
            return  # An unusual mirror: nothing to name the part by; hf_hub_download says what is wrong.
        blobs, locks = self._folder("") / "blobs", self._folder(".locks")
        for folder in (blobs, locks):
            folder.mkdir(parents=True, exist_ok=True)
        part = blobs / f"{metadata.etag}.incomplete"  # the name under which `hf cache prune` clears it
        with WeakFileLock(locks / f"{metadata.etag}.lock"):
            if (blobs / metadata.etag).exists():
                return
            if part.exists() and metadata.size is not None and part.stat().st_size > metadata.size:
                part.unlink()
            # Unbuffered, so that a process that is killed leaves every chunk it received.
            with part.open("ab", buffering=0) as file:
                http_get(
                    url,
                    file,
                    resume_size=part.stat().st_size,
                    headers={**build_hf_headers(token=self.token), "Accept-Encoding": "identity"},
                    expected_size=metadata.size,
                    displayed_filename=name,
                    tqdm_class=_Progress,
                )
            if _SHA256.fullmatch(metadata.etag) and _sha256(part) != metadata.etag:
                part.unlink()
                raise HubError(f"{name} of {self.name} arrived damaged (its SHA-256 is wrong); download it again")
            part.replace(blobs / metadata.etag)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn the ways in which a hub can fail into one line each."""
        at = f"hub repository {self.name}" + (f" at revision {self.revision}" if self.revision else "")
        try:
            yield
        except HFValidationError as error:
            raise HubError(f"{self.name!r} is not a hub repository; it must look like owner/name") from error
        except GatedRepoError as error:
            raise HubError(f"{at} is gated: accept its terms on the hub, then set HF_TOKEN") from error
        except RepositoryNotFoundError as error:
            raise HubError(f"{at} does not exist, or is private and HF_TOKEN does not open it") from error
        except RevisionNotFoundError as error:
            raise HubError(f"hub repository {self.name} has no revision {self.revision!r}") from error
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise HubError(self._unreachable(at, error)) from error
        except EntryNotFoundError as error:
            raise HubError(f"{at} has no {what}") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            raise HubError(f"{at}: the hub answered HTTP {status}{_hint(status)}") from error
        except _TRANSPORT_ERRORS as error:
            raise HubError(f"{at}: {_one_line(error)}; what has arrived is kept, try again") from error

    def _unreachable(self, at: str, error: Exception) -> str:
        cause = error.__cause__
        if cause is None or isinstance(cause, OfflineModeIsEnabled):
            return f"{at} is not wholly in the cache, and the network may not be used (offline)"
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            return f"{at} is not in the cache and the hub answered HTTP {status}{_hint(status)}"
        return f"{at} is not in the cache and the hub cannot be reached ({_one_line(cause)})"


class _Progress(tqdm):
    """A bar on a terminal; elsewhere, such as in a container's log, a line now and then."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not sys.stderr.isatty():
            kwargs |= {"disable": False, "mininterval": _LOG_INTERVAL_S}
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]


class _Quiet(tqdm):
    """No bar: two small JSON files are not worth one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hint(status: int) -> str:
    return "; set HF_TOKEN to a valid token" if status in _UNAUTHORISED else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
