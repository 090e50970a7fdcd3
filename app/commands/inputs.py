"""Which pictures the words of a command line mean, and what their outputs are called."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


class InputsError(ValueError):
    """The words name nothing, or two pictures would have one output."""


@dataclass(frozen=True, slots=True)
class Input:
    """A picture, its name below the folder that was given, and what it is called in journals: where it truly lies."""

    path: Path
    name: PurePosixPath
    key: str


def find(words: Sequence[str], outputs: Path | None) -> list[Input]:
    """The pictures: files as they are, folders with all below them, globs (`**` too); each once, in the words' order.

    Args:
        words: of the command line.
        outputs: a folder within those given is not looked into: what is written there is no input.

    Raises:
        InputsError: a word means no picture, or the folder that is to be written to.
    """
    found: dict[str, Input] = {}
    for word in words:
        pictures = _meant(word, outputs)
        if not pictures:
            raise InputsError(f"{word}: no such file, or no picture in it ({', '.join(sorted(SUFFIXES))})")
        for one in pictures:
            found.setdefault(one.key, one)
    return list(found.values())


def output_names(inputs: Iterable[Input], suffix: str) -> list[PurePosixPath]:
    """The output of each input: a/b.jpg becomes a/b.png, or a/b.jpg.png where a/b.webp would become the same.

    Raises:
        InputsError: two would still have the same.
    """
    names = [one.name for one in inputs]
    short = [name.with_suffix(suffix) for name in names]
    long = [name.with_name(name.name + suffix) for name in names]
    of_short = Counter(short)
    chosen = [short[place] if of_short[short[place]] == 1 else long[place] for place in range(len(names))]
    name, times = Counter(chosen).most_common(1)[0]
    if times > 1:
        raise InputsError(
            f"{times} pictures would have the output {name}; give the folder above them, or write to two folders"
        )
    return chosen


def check_overwrites(inputs: Iterable[Input], examples: Iterable[str], written: Iterable[Path]) -> None:
    """Refuse outputs that would replace what is read.

    Raises:
        InputsError: one would.
    """
    folder = cache(os.path.realpath)  # there are few of them, and many outputs
    read = {*(one.key for one in inputs), *map(os.path.realpath, examples)}
    if replaced := read & {os.path.join(folder(path.parent), path.name) for path in written}:  # noqa: PTH118
        raise InputsError(f"{min(replaced)} is read, and an output would replace it; write to another folder")


def _input(path: Path, name: PurePosixPath) -> Input:
    return Input(path, name, os.path.realpath(path))


def _meant(word: str, outputs: Path | None) -> list[Input]:
    path = Path(word)
    if path.is_file():
        return [_input(path, PurePosixPath(path.name))]
    if path.is_dir():
        if outputs is not None and path.resolve() == outputs.resolve():
            raise InputsError(f"{word}: outputs would lie among the pictures; write to another folder, or one within")
        return _outside(outputs, path, _below(path))
    root = _fixed(path)
    found: list[Input] = []
    for match in sorted(map(Path, glob.glob(word, recursive=True))):  # noqa: PTH207 - pathlib's knows no absolute ones
        if match.is_file() and match.suffix.lower() in SUFFIXES:
            found.append(_input(match, PurePosixPath(match.relative_to(root).as_posix())))
    return _outside(outputs, root, found)


def _below(folder: Path) -> list[Input]:
    files = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    relative = sorted(PurePosixPath(path.relative_to(folder).as_posix()) for path in files)
    return [_input(folder / name, name) for name in relative if not any(part.startswith(".") for part in name.parts)]


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
    if outputs is None or root.resolve() not in outputs.resolve().parents:
        return found
    return [one for one in found if not Path(one.key).is_relative_to(outputs.resolve())]
