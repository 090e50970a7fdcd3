"""Which pictures the words of a command line mean, and what their outputs are called.

There may be 100,000 of them: paths are plain strings here, and only what may be a link is resolved.
"""
# ruff: noqa: PTH113, PTH114, PTH118, PTH207 - an object for each path, and resolving each, took 15 seconds of that

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


class InputsError(ValueError):
    """The words name nothing, or two pictures would have one output."""


@dataclass(frozen=True, slots=True)
class Input:
    """A picture, its name below the folder that was given, and what it is called in journals: where it truly lies."""

    path: str
    name: str
    key: str


def find(words: Sequence[str], outputs: Path | None) -> list[Input]:
    """The pictures: files as they are, folders with all below them, globs (`**` too); each once, in the words' order.

    Args:
        words: of the command line.
        outputs: a folder within those given is not looked into: what is written there is no input.

    Raises:
        InputsError: a word means no picture, or the folder that is to be written to.
        OSError: a folder cannot be looked into.
    """
    found: dict[str, Input] = {}
    for word in words:
        if not word:  # of a variable that is not set; it would mean the current folder
            raise InputsError("got nothing for a picture")
        pictures = _meant(word, outputs)
        if not pictures:
            raise InputsError(f"{word}: no such file, or no picture in it ({', '.join(sorted(SUFFIXES))})")
        for one in pictures:
            found.setdefault(one.key, one)
    return list(found.values())


def output_names(inputs: Iterable[Input], suffix: str) -> list[str]:
    """The output of each input: a/b.jpg becomes a/b.png, or a/b.jpg.png where a/b.webp would become the same.

    Raises:
        InputsError: two would still have the same.
    """
    long = [one.name + suffix for one in inputs]
    short = [_split(one.name)[0] + suffix for one in inputs]
    of_short = Counter(short)
    chosen = [short[place] if of_short[short[place]] == 1 else long[place] for place in range(len(short))]
    name, times = Counter(chosen).most_common(1)[0]
    if times > 1:
        raise InputsError(
            f"{times} pictures would have the output {name}; give the folder above them, or write to two folders"
        )
    return chosen


def check_overwrites(inputs: Iterable[Input], examples: Iterable[str], folder: Path, written: Iterable[str]) -> None:
    """Refuse outputs that would replace what is read.

    Args:
        inputs: are read.
        examples: are read, too.
        folder: where outputs go.
        written: their names below it.

    Raises:
        InputsError: one would.
    """
    read = {*(one.key for one in inputs), *map(os.path.realpath, examples)}
    start, place = _start(folder), _places()
    if replaced := read & {place(start + name) for name in written}:
        raise InputsError(f"{min(replaced)} is read, and an output would replace it; write to another folder")


def _meant(word: str, outputs: Path | None) -> list[Input]:
    path = Path(word)
    if path.is_file():
        return [Input(str(path), path.name, os.path.realpath(path))]
    if path.is_dir():
        if outputs is not None and os.path.realpath(path) == os.path.realpath(outputs):
            raise InputsError(f"{word}: outputs would lie among the pictures; write to another folder, or one within")
        return _outside(outputs, path, _below(path))
    root = _fixed(path)
    return _outside(outputs, root, _matches(word, root))


def _below(folder: Path) -> list[Input]:
    """All pictures, hidden ones and those in linked folders left out; a link to a picture is one.

    Raises:
        OSError: a folder cannot be looked into.
    """
    start, real = _start(folder), _start(os.path.realpath(folder))
    found: list[Input] = []
    left = [""]
    while left:
        above = left.pop()
        with os.scandir(start + above or ".") as entries:
            for entry in entries:
                name = above + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    left.append(f"{name}/")
                elif _is_picture(name) and _is_file(entry):
                    key = os.path.realpath(entry.path) if entry.is_symlink() else real + name
                    found.append(Input(start + name, name, key))
    return sorted(found, key=_order)


def _matches(pattern: str, root: Path) -> list[Input]:
    """All pictures that a glob means."""
    start, place = _start(root), _places()
    found: list[Input] = []
    for match in glob.glob(pattern, recursive=True):
        if not (_is_picture(match) and os.path.isfile(match)):
            continue
        path = str(Path(match)) if "//" in match or "./" in match else match
        key = os.path.realpath(path) if os.path.islink(path) else place(path)
        found.append(Input(path, path.removeprefix(start), key))
    return sorted(found, key=_order)


def _start(folder: Path | str) -> str:
    """What the paths of all that is in the folder begin with."""
    return "" if str(folder) == "." else os.path.join(folder, "")


def _places() -> Callable[[str], str]:
    """Where a path truly lies, if its last part is no link; its folder is resolved once, not once for each path."""
    resolved = cache(lambda folder: _start(os.path.realpath(folder)))

    def place(path: str) -> str:
        above, slash, name = path.rpartition("/")
        return resolved(above or slash) + name

    return place


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)


def _order(one: Input) -> list[str]:
    return one.name.split("/")


def _is_picture(name: str) -> bool:
    return _split(name)[1].lower() in SUFFIXES


def _split(name: str) -> tuple[str, str]:
    """Before a file's suffix, and the suffix with its dot; no suffix in .jpg or in "a."."""
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if name.rfind("/") + 1 < dot < len(name) - 1 else (name, "")


def _fixed(pattern: Path) -> Path:
    """The folders of a glob before its first wildcard."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _outside(outputs: Path | None, root: Path, found: list[Input]) -> list[Input]:
    """Without what lies in an outputs folder within the root."""
    if outputs is None:
        return found
    real = Path(os.path.realpath(outputs))
    if Path(os.path.realpath(root)) not in real.parents:
        return found
    start = _start(real)
    return [one for one in found if not one.key.startswith(start)]
