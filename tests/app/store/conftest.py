"""Where stores are: a local folder and an S3 stand-in, with the same promises in both."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from app.examples import Example
from app.labels import BINARY, Label
from app.prompt_archive import NewPrompt
from app.prompts import PromptStore

CATS = NewPrompt((Example(b"a cat", b"its mask"),), "binary", BINARY, "cats")
DOGS = NewPrompt((Example(b"a dog", b"its mask"), Example(b"two", b"masks")), "binary", BINARY, None)
CLASSES = NewPrompt(
    (Example(b"street", b"classes"),), "index", (Label(3, "car", (255, 0, 0)), Label(7, "Straße", (0, 9, 1))), "street"
)


class Place:
    """Where a store is, and what an outsider does to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)

    def store(self) -> PromptStore:
        """As another process opens it."""
        return PromptStore(self.url)

    def path(self, identity: str) -> str:
        return f"{self._root}/prompts/{identity}.zip"

    def read(self, identity: str) -> bytes:
        return self._fs.cat_file(self.path(identity))

    def write(self, identity: str, content: bytes) -> None:
        self._fs.makedirs(f"{self._root}/prompts", exist_ok=True)
        self._fs.pipe_file(self.path(identity), content)

    def files(self, folder: str) -> list[str]:
        try:
            return [path.rpartition("/")[2] for path in self._fs.ls(f"{self._root}/{folder}", detail=False)]
        except FileNotFoundError:
            return []

    def write_file(self, name: str, content: bytes) -> None:
        self._fs.makedirs(f"{self._root}/{name.rpartition('/')[0]}", exist_ok=True)
        self._fs.pipe_file(f"{self._root}/{name}", content)

    def remove(self, identity: str) -> None:
        self._fs.rm_file(self.path(identity))


@pytest.fixture(scope="module")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto's server in a process of its own, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while True:  # the test's own timeout is the limit
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        log.close()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A new bucket's url."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"b{time.monotonic_ns()}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/some/prompts"


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place(str(tmp_path / "deep" / "prompts"))
    return Place(request.getfixturevalue("bucket"))
