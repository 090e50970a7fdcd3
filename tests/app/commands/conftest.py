"""An example, a service and pictures, as words of a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.app.conftest import RunningServer, disc, picture


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An example, as words of a command line."""
    folder = tmp_path_factory.mktemp("example")
    picture(1000).save(folder / "image.png")
    disc(centre=(0.4, 0.5)).save(folder / "mask.png")
    return ["--prompt-image", str(folder / "image.png"), "--prompt-mask", str(folder / "mask.png")]


@pytest.fixture
def at(server: RunningServer, shown: list[str]) -> list[str]:
    """The example and the service."""
    return [*shown, "--url", server.url]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures in a folder, in folders, of several kinds; and things that are none."""
    folder = tmp_path / "in"
    (folder / "deep" / "er").mkdir(parents=True)
    for index, name in enumerate(["a.png", "b.jpg", "b.webp", "deep/a.png", "deep/er/c.JPEG", "deep/d.tiff"]):
        picture(index, (60 + index, 80)).save(folder / name)
    (folder / "notes.txt").write_text("none")
    (folder / "deep" / ".hidden.png").write_bytes(b"none")
    return folder
