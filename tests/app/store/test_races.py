"""Several processes in one store, and their deaths."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.errors import NameTaken, PromptNotFound
from app.examples import Example
from app.labels import BINARY
from app.prompt_archive import NewPrompt, prompt_id
from app.prompts import PromptStore
from tests.app.conftest import ROOT
from tests.app.store import putter
from tests.app.store.conftest import CATS, Place


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Results or problems of calls that begin together."""
    barrier = threading.Barrier(len(calls))

    def call(number: int) -> Any:
        barrier.wait()
        try:
            return calls[number]()
        except (NameTaken, PromptNotFound) as problem:
            return problem

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(call, range(len(calls))))


def test_of_several_that_put_the_same_at_once_one_is_first(place: Place) -> None:
    for round_ in range(3):
        prompt = replace(CATS, examples=(Example(b"%d" % round_, b"mask"),), name=f"cats {round_}")
        results = at_once([partial(place.store().put, prompt) for _ in range(4)])
        assert sorted(is_new for _, is_new in results) == [False, False, False, True]
        assert {stored for stored, _ in results} == {place.store().get(f"cats {round_}")}


def test_of_several_that_want_a_name_at_once_one_gets_it(place: Place) -> None:
    prompts = [NewPrompt((Example(b"%d" % number, b"mask"),), "binary", BINARY) for number in range(4)]
    ids = [place.store().put(prompt)[0].id for prompt in prompts]
    results = at_once([partial(place.store().rename, identity, "cats") for identity in ids])
    winners = [result for result in results if not isinstance(result, NameTaken)]
    assert len(winners) == 1
    assert place.store().get("cats").id == winners[0].id
    assert [entry.name for entry in place.store().list().prompts].count("cats") == 1


def test_deleting_and_renaming_at_once_leaves_no_half_prompt(place: Place) -> None:
    for _ in range(3):
        put, _ = place.store().put(CATS)
        stores = [place.store() for _ in range(3)]
        at_once([partial(stores[0].delete, put.id), partial(stores[1].rename, put.id, "felines"), stores[2].list])
        assert place.store().list().prompts == ()
        for lookup in (put.id, "cats", "felines"):
            with pytest.raises(PromptNotFound):
                place.store().get(lookup)


def test_a_prompt_survives_kill_9_at_any_moment_whole_or_not_at_all(tmp_path: Path) -> None:
    """100 times, while others go on reading: what is listed can be served, and is what was put."""
    drawn = random.Random(4)
    folder = str(tmp_path / "prompts")
    command = [sys.executable, "-m", "tests.app.store.putter", folder]
    known: dict[str, NewPrompt] = {}
    halves = 0
    store = PromptStore(folder)
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for round_ in range(100):
            first = round_ * 10_000
            process.stdin.write(f"{first}\n")
            process.stdin.flush()
            pid = int(process.stdout.readline())
            time.sleep(drawn.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
            assert process.stdout.readline() == "dead\n"
            incoming = Path(folder, "incoming")
            halves += incoming.is_dir() and any(incoming.iterdir())
            after: str | None = None
            while True:
                page = store.list(1000, after)
                for entry in page.prompts:
                    if entry.id in known:
                        continue
                    assert not entry.is_damaged
                    stored = PromptStore(folder).get(entry.id)
                    assert stored.name is not None, "a prompt without the name that it was put with"
                    number = int(stored.name.split()[1])
                    wanted = putter.prompt(number)
                    assert stored.examples == wanted.examples
                    assert stored.name in {f"prompt {number}", f"renamed {number}"}
                    assert store.get(stored.name) == stored
                    known[entry.id] = wanted
                after = page.next
                if after is None:
                    break
            # The dead one's lock is gone and the name that it claimed is free: another may have both at once.
            wanted = putter.prompt(first)
            if prompt_id(wanted) not in known:
                put, is_new = store.put(wanted)
                assert is_new
                assert put.name == wanted.name
                known[put.id] = wanted
        process.stdin.close()
    assert len(known) > 50, "the kills came before anything was written"
    assert halves > 0, "no kill came in the middle of a write"
