"""Registers prompts until it is killed. Run by test_races: `python -m tests.app.store.putter FOLDER`.

Each line on standard input forks a child that registers, renames and deletes prompts without end; its pid is printed,
and once it is dead, "dead". Forks are made here, where there are no threads and everything is imported already.
"""

from __future__ import annotations

import itertools
import os
import random
import sys

from app.examples import Example
from app.labels import BINARY
from app.prompt_archive import NewPrompt
from app.prompts import PromptStore


def prompt(number: int) -> NewPrompt:
    """The prompt of a number: a name, and up to some hundred kilobytes that are drawn from it."""
    drawn = random.Random(number)
    examples = tuple(
        Example(drawn.randbytes(drawn.randrange(1, 200_000)), drawn.randbytes(drawn.randrange(1, 20_000)))
        for _ in range(drawn.randint(1, 2))
    )
    return NewPrompt(examples, "binary", BINARY, f"prompt {number}")


def work(folder: str, first: int) -> None:
    """Never ends."""
    store = PromptStore(folder)
    for number in itertools.count(first):
        stored, _ = store.put(prompt(number))
        if number % 3 == 1:
            store.rename(stored.id, f"renamed {number}")
        if number % 3 == 2:
            store.delete(stored.id)


def main() -> None:
    """Serve standard input."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            work(sys.argv[1], int(line))
        print(pid, flush=True)  # noqa: T201
        os.waitpid(pid, 0)
        print("dead", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
