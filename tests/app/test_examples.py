"""Examples that come again: the same answer without decoding, for the same bytes and no others, in bounded memory."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.examples import Example, ExampleCache, KnownExample, example_key, prompt_name
from app.labels import BINARY, parse_labels
from tests.app.conftest import RunningServer, decoded, disc, encoded, form, picture, running_server


def key(image: bytes, mask: bytes) -> bytes:
    return example_key(Example(image, mask), "binary", BINARY)


def example(value: int, side: int = 4) -> KnownExample:
    pixels = np.full((side, side, 3), value, np.uint8)
    return KnownExample(pixels, pixels, frozenset())


def counted(server: RunningServer) -> dict[str, float]:
    names = {f"{kind} {result}": f'seggpt_{kind}_total{{result="{result}"}}' for kind in ("examples", "prompts")
             for result in ("hit", "miss")}  # fmt: skip
    return {short: server.metric(name) for short, name in names.items()}


def changed(before: dict[str, float], server: RunningServer) -> dict[str, float]:
    now = counted(server)
    return {name: now[name] - before[name] for name in now if now[name] != before[name]}


def ask(server: RunningServer, seed: int, shown: list[tuple[bytes, bytes]], kind: str = "instance") -> httpx.Response:
    files = [("image", ("image.png", encoded(picture(seed)), "image/png"))]
    for image, mask in shown:
        files += [("prompt_image", ("p.png", image, "image/png")), ("prompt_mask", ("m.png", mask, "image/png"))]
    return server.client.post("/v1/segment", files=files, data={"embedding_type": kind, "output": "soft"})


def drawn(seed: int, centre: float = 0.4) -> tuple[bytes, bytes]:
    return encoded(picture(seed)), encoded(disc(centre=(centre, 0.5)))


# One server


def test_an_example_that_comes_again_is_not_decoded_and_answers_the_same(server: RunningServer) -> None:
    before = counted(server)
    first = ask(server, 1, [drawn(2001)])
    assert changed(before, server) == {"examples miss": 1, "prompts miss": 1}
    again = ask(server, 1, [drawn(2001)])
    assert changed(before, server) == {"examples miss": 1, "prompts miss": 1, "examples hit": 1, "prompts hit": 1}
    assert again.content == first.content
    other = ask(server, 2, [drawn(2001)])
    assert other.content != first.content, "another input image"


def test_what_is_known_of_a_prompt_is_used_for_no_other(server: RunningServer) -> None:
    one, two = drawn(2010, 0.3), drawn(2011, 0.6)
    answers = {
        "one": ask(server, 3, [one]),
        "its mask": ask(server, 3, [(one[0], two[1])]),
        "its image": ask(server, 3, [(two[0], one[1])]),
        "its kind": ask(server, 3, [one], "semantic"),
        "both": ask(server, 3, [one, two]),
    }
    assert len({decoded(answer).tobytes() for answer in answers.values()}) == len(answers)
    before = counted(server)
    assert ask(server, 3, [one]).content == answers["one"].content
    assert ask(server, 3, [one], "semantic").content == answers["its kind"].content
    assert changed(before, server) == {"examples hit": 2, "prompts hit": 2}


def test_the_order_of_examples_is_part_of_the_prompt(server: RunningServer) -> None:
    # It is not without effect: the answer's first pixel row sees the first example's canvas above it.
    one, two = drawn(2020, 0.3), drawn(2021, 0.6)
    forth = ask(server, 4, [one, two])
    before = counted(server)
    back = ask(server, 4, [two, one])
    assert changed(before, server) == {"examples hit": 2, "prompts miss": 1}
    assert ask(server, 4, [one, two]).content == forth.content
    assert ask(server, 4, [two, one]).content == back.content


def test_a_new_example_beside_a_known_one_is_checked_as_ever(server: RunningServer) -> None:
    known = drawn(2030)
    assert ask(server, 5, [known]).status_code == 200
    refused = ask(server, 5, [known, (known[0], encoded(disc((90, 90))))])
    assert refused.json()["type"] == "urn:seggpt:problem:mask-aspect"
    assert refused.json()["field"] == "prompt_mask[1]"
    refused = ask(server, 5, [(known[0], known[1][:-80])])
    assert refused.json()["type"] == "urn:seggpt:problem:undecodable-image"
    again = ask(server, 5, [(known[0], known[1][:-80])])
    assert again.json()["type"] == "urn:seggpt:problem:undecodable-image", "what was refused is not kept"


def test_the_pictures_of_a_refused_input_image_are_named_with_a_known_example(server: RunningServer) -> None:
    files = form(2040)
    assert server.client.post("/v1/segment", files=files).status_code == 200
    files[0] = ("image", ("image.png", files[0][1][1][:-200], "image/png"))
    refused = server.client.post("/v1/segment", files=files)
    assert (refused.status_code, refused.json()["field"]) == (422, "image")


# Servers of their own


def test_a_worker_that_is_started_again_has_forgotten_and_answers_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", checkpoint=tiny_folder) as server:
        server.wait_until_ready()
        first = ask(server, 1, [drawn(2050)])
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        again = ask(server, 1, [drawn(2050)])
        assert again.content == first.content
        assert counted(server) == {"examples miss": 1, "examples hit": 1, "prompts miss": 2, "prompts hit": 0}
        assert ask(server, 1, [drawn(2050)]).content == first.content
        assert counted(server)["prompts hit"] == 1


def test_nothing_is_kept_where_nothing_may_be(tiny_folder: Path, tmp_path: Path) -> None:
    settings = {"example_cache_bytes": 0, "prompt_cache_bytes": 0}
    with running_server(tmp_path / "log", checkpoint=tiny_folder, **settings) as server:
        server.wait_until_ready()
        answers = [ask(server, 1, [drawn(2060)]).content for _ in range(3)]
        assert len(set(answers)) == 1
        assert counted(server) == {"examples miss": 3, "examples hit": 0, "prompts miss": 3, "prompts hit": 0}


# The cache alone


def test_those_used_longest_ago_make_room() -> None:
    cache = ExampleCache(3 * example(0).nbytes)
    for value in (1, 2, 3):
        cache.put(bytes([value]), example(value))
    assert cache.get(b"\1") is not None  # used again: the second is now the oldest
    cache.put(b"\4", example(4))
    assert cache.get(b"\2") is None
    kept = [cache.get(bytes([value])) for value in (1, 3, 4)]
    assert [one.image[0, 0, 0] for one in kept if one is not None] == [1, 3, 4]
    assert cache.held_bytes == 3 * example(0).nbytes


def test_bytes_are_counted_once_for_an_example_that_was_decoded_twice() -> None:
    cache = ExampleCache(10 * example(0).nbytes)
    for _ in range(3):
        cache.put(b"same", example(1))
    assert cache.held_bytes == example(0).nbytes


def test_an_example_larger_than_the_cache_is_not_kept_and_evicts_nothing() -> None:
    cache = ExampleCache(2 * example(0).nbytes)
    cache.put(b"small", example(1))
    cache.put(b"large", example(2, side=40))
    assert cache.get(b"large") is None
    assert cache.get(b"small") is not None


@pytest.mark.parametrize("other", [(b"ab", b"c"), (b"", b"abc"), (b"abc", b""), (b"a", b"cb")])
def test_a_key_is_of_both_files_and_of_where_one_ends(other: tuple[bytes, bytes]) -> None:
    assert key(b"a", b"bc") == key(b"a", b"bc")
    assert key(*other) != key(b"a", b"bc")


def test_a_key_tells_what_the_masks_values_mean() -> None:
    example = Example(b"image", b"mask")
    one, other = parse_labels('["cat"]', "index"), parse_labels('[{"name": "cat", "index": 2}]', "index")
    binary = example_key(example, "binary", BINARY)
    assert len({binary, example_key(example, "index", one), example_key(example, "index", other)}) == 3
    assert example_key(example, "binary", parse_labels('["cat"]', "binary")) == binary


def test_a_prompts_name_is_of_its_examples_in_their_order() -> None:
    one, two = key(b"1", b"1"), key(b"2", b"2")
    lists = ([one], [two], [one, two], [two, one], [one, one])
    assert len({prompt_name(keys, ensemble) for keys in lists for ensemble in ("feature", "spatial")}) == 10
