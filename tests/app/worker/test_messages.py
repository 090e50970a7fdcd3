"""Messages between the processes survive the wire exactly, and nothing else passes."""

from __future__ import annotations

import json

import pytest

from app.worker import messages
from app.worker.messages import MessageError, decode, encode

BATCH = messages.RunBatch(
    7,
    (
        messages.GroupRun(messages.GroupCells(0, ((1, 2),)), "instance", "9f0c"),
        messages.GroupRun(messages.GroupCells(3, ((4, 5), (6, 7))), "semantic", None),
    ),
)
EVERY_KIND = [
    messages.Prepared({"weights": "/w", "revision": None}, (64, 32), (32, 32), 8, ("cuda:0", "cuda:1"), 2, "0f"),
    messages.Configure(
        checkpoint={"weights": "/w", "config": {"image_size": [64, 32]}, "source": "s"},
        device="cuda:0",
        dtype="auto",
        threads=2,
        max_batch_pairs=8,
        warmup_limit_s=5.0,
        prompt_cache_bytes=2**28,
        cell_count=48,
        cell_height=32,
        cell_width=32,
    ),
    BATCH,
    messages.Stop(),
    messages.Loading("warm-up"),
    messages.Ready("cpu", "a processor", "float32", "fused", "packed", 1_800_000, 1, 12.5, 2),
    messages.Warmed(2, 20.0),
    messages.BatchDone(7, ("done", "out-of-memory", "not-finite"), 1, 0.1, 2.0, 0.3),
    messages.BatchFailed(7, "poisoned", "two\nlines and a “quote”"),
    messages.LoadFailed("weights are damaged"),
]


@pytest.mark.parametrize("message", EVERY_KIND, ids=lambda message: type(message).__name__)
def test_a_message_is_one_line_and_comes_back_equal(message: messages.Message):
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_every_kind_of_message_is_tested_here():
    assert {type(message).__name__ for message in EVERY_KIND} == set(messages._TYPES)


def test_a_group_counts_one_pair_per_example():
    assert [run.cells.pairs for run in BATCH.groups] == [1, 2]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"RunBatch\n", "not JSON"),
        (b"\xff\n", "not JSON"),
        (b"[1]\n", "a message is an object"),
        (b"{}\n", "unknown message type None"),
        (b'{"type": "Exec", "code": "1"}\n', "unknown message type 'Exec'"),
        (b'{"type": ["Stop"]}\n', "unknown message type"),
        (b'{"type": "Stop", "now": true}\n', "Stop has the fields"),
        (b'{"type": "Loading"}\n', "Loading has the fields stage"),
        (b'{"type": "Loading", "stage": 3}\n', "Loading.stage must be"),
        (b'{"type": "RunBatch", "batch_id": true, "groups": []}\n', "RunBatch.batch_id must be"),
        (b'{"type": "RunBatch", "batch_id": 1.5, "groups": []}\n', "RunBatch.batch_id must be"),
        (b'{"type": "RunBatch", "batch_id": 1, "groups": 2}\n', "RunBatch.groups must be"),
        (b'{"type": "RunBatch", "batch_id": 1, "groups": [2]}\n', "GroupRun needs an object"),
        (b'{"type": "BatchFailed", "batch_id": 1, "reason": "mood", "message": ""}\n', "BatchFailed.reason must be"),
        (b'{"type": "Warmed", "max_batch_pairs": 1, "forward_ms": null}\n', "Warmed.forward_ms must be"),
    ],
)
def test_a_line_that_is_not_exactly_a_message_is_refused(line: bytes, complaint: str):
    with pytest.raises(MessageError, match=complaint):
        decode(line)


def test_an_example_needs_exactly_two_cells():
    line = json.loads(encode(BATCH))
    line["groups"][0]["cells"]["examples"] = [[1, 2, 3]]
    with pytest.raises(MessageError, match="examples must be"):
        decode(json.dumps(line).encode())


def test_whole_numbers_are_read_as_the_floats_that_they_are():
    message = decode(b'{"type": "Warmed", "max_batch_pairs": 2, "forward_ms": 3}')
    assert isinstance(message, messages.Warmed)
    assert isinstance(message.forward_ms, float)
