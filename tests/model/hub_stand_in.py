"""A small Hugging Face hub on loopback: what huggingface_hub asks of the real one when it fetches a model.

Speaks /api/models/..., /tree/..., /resolve/... and, on another host name, the storage that large files are redirected
to, with byte ranges. Says what it was asked (`requests`), and can stall, cut or damage a transfer.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE_BYTES = 16_384  # from here on a file lies in the storage (LFS), as on the real hub


@dataclass
class Asked:
    method: str
    path: str
    range: str | None
    authorization: str | None
    host: str


@dataclass
class Repository:
    """Files by name; `token` makes it private, `is_gated` asks for terms to be accepted."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    is_gated: bool = False


@dataclass
class HubStandIn:
    """Used as a context manager; `endpoint` is its URL."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    stall_after_bytes: int | None = None
    cut_after_bytes: int | None = None
    is_damaging: bool = False
    broken_status: int | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> HubStandIn:
        stand_in = self

        class Handler(_Handler):
            hub = stand_in

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def transfers(self) -> list[Asked]:
        """The requests that reached the storage for bytes."""
        return [asked for asked in self.requests if asked.method == "GET" and asked.path.startswith("/storage/")]


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Silent: `requests` is the log."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers = self.headers
        path = self.path.partition("?")[0]
        self.hub.requests.append(
            Asked(self.command, path, headers["Range"], headers["Authorization"], str(headers["Host"]))
        )
        if self.hub.broken_status is not None:
            return self._reply(self.hub.broken_status)
        if match := re.fullmatch(r"/storage/(\w+)", path):
            return self._send_stored(match[1])
        patterns = (
            (r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?", self._tree),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        )
        for pattern, answer in patterns:
            if match := re.fullmatch(pattern, path):
                name, revision, *rest = match.groups()
                repository = self._allowed(name, revision)
                return answer(name, repository, *rest) if repository else None
        return self._reply(404)

    def _allowed(self, name: str, revision: str | None) -> Repository | None:
        repository = self.hub.repositories.get(name)
        authorization = self.headers["Authorization"]
        if repository is not None and repository.token and authorization not in (None, f"Bearer {repository.token}"):
            self._reply(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None or (repository.token and authorization is None):
            self._reply(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif repository.is_gated:
            self._reply(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif revision not in (None, COMMIT, *repository.revisions):
            self._reply(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        else:
            return repository
        return None

    def _info(self, name: str, repository: Repository) -> None:
        siblings = [{"rfilename": file} for file in repository.files]
        self._json({"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings})

    def _tree(self, _: str, repository: Repository) -> None:
        entries = []
        for path, content in repository.files.items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": _git_id(content)}
            if len(content) >= _LARGE_BYTES:
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def _resolve(self, _: str, repository: Repository, file: str) -> None:
        commit = {"X-Repo-Commit": COMMIT}
        content = repository.files.get(file)
        if content is None:
            return self._reply(404, {**commit, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        if len(content) < _LARGE_BYTES:
            return self._reply(200, {**commit, "ETag": f'"{_git_id(content)}"'}, content)
        digest = hashlib.sha256(content).hexdigest()
        location = f"http://localhost:{self.hub.port}/storage/{digest}"
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "Location": location}
        return self._reply(302, {**commit, **linked})

    def _send_stored(self, digest: str) -> None:
        files = [file for repository in self.hub.repositories.values() for file in repository.files.values()]
        content = next(file for file in files if hashlib.sha256(file).hexdigest() == digest)
        if self.hub.is_damaging:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")[1])
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._reply(206 if start else 200, headers, content[start:])

    def _json(self, value: object) -> None:
        self._reply(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.path.startswith("/storage/") and self.hub.cut_after_bytes is not None:
            cut, self.hub.cut_after_bytes = self.hub.cut_after_bytes, None
            self.wfile.write(body[:cut])
            self.close_connection = True
        elif self.path.startswith("/storage/") and self.hub.stall_after_bytes is not None:
            stall, self.hub.stall_after_bytes = self.hub.stall_after_bytes, None
            self.wfile.write(body[:stall])
            self.hub.stalled.set()
            self.hub.released.wait(30)
            self.close_connection = True
        else:
            self.wfile.write(body)


def _git_id(content: bytes) -> str:
    # git's own name for a file, not a safeguard
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
