"""Checkpoints from a hub: kept, resumed, verified, and every failure one line. The hub is a stand-in on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import SegGptConfig, SegGptForImageSegmentation, SegGptImageProcessor
from model.checkpoint import load, resolve, save
from tests.model.conftest import TINY, draw_weights, reference_of, refusal_of, relative_rms
from tests.model.hub_stand_in import COMMIT, HubStandIn, Repository

ROOT = Path(__file__).parents[2]
NAME = "someone/seggpt-tiny"
CHUNK_BYTES = 10 * 2**20  # huggingface_hub writes what it receives in pieces of this size
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(saved) -> Iterator[HubStandIn]:
    """A hub with one repository; beside the checkpoint lies what must not be fetched."""
    files = {**files_of(saved.folder), "pytorch_model.bin": b"pickle", "README.md": b"a model"}
    with HubStandIn({NAME: Repository(files)}) as stand_in:
        yield stand_in


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def closed_endpoint() -> str:
    """A port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# --- what works


def test_a_repository_without_settings_for_pictures_is_asked_once(saved, cache):
    files = {name: content for name, content in files_of(saved.folder).items() if name != "preprocessor_config.json"}
    with HubStandIn({NAME: Repository(files)}) as hub:
        processor = SegGptImageProcessor.from_pretrained(NAME, cache_dir=cache, endpoint=hub.endpoint)
        asked = [(one.method, one.path) for one in hub.requests]
    assert processor.to_dict() == SegGptImageProcessor(TINY.half_size).to_dict()
    assert len(asked) == len(set(asked))


def test_a_repository_becomes_a_network(hub, cache, saved, answer):
    checkpoint = resolve(NAME, cache_dir=cache, endpoint=hub.endpoint)
    assert checkpoint.config == TINY
    assert (checkpoint.revision, checkpoint.source, checkpoint.layout) == (COMMIT, NAME, "huggingface")
    assert torch.equal(answer(load(checkpoint)), answer(saved.model))
    model = SegGptForImageSegmentation.from_pretrained(NAME, cache_dir=cache, endpoint=hub.endpoint)
    assert torch.equal(answer(model), answer(saved.model))


def test_only_the_files_of_a_checkpoint_are_fetched_and_never_a_pickle(hub, cache):
    checkpoint = resolve(NAME, cache_dir=cache, endpoint=hub.endpoint)
    assert sorted(path.name for path in checkpoint.weights.parent.iterdir()) == sorted(FILES)
    assert not any("pytorch_model" in asked.path or "README" in asked.path for asked in hub.requests)


def test_a_processor_and_a_config_come_without_the_weights(hub, cache):
    processor = SegGptImageProcessor.from_pretrained(NAME, cache_dir=cache, endpoint=hub.endpoint)
    assert processor.size == TINY.half_size
    assert SegGptConfig.from_pretrained(NAME, cache_dir=cache, endpoint=hub.endpoint) == TINY
    assert hub.transfers() == []


def test_a_second_time_the_weights_come_from_the_cache(hub, cache):
    first = resolve(NAME, cache_dir=cache, endpoint=hub.endpoint)
    assert resolve(NAME, cache_dir=cache, endpoint=hub.endpoint) == first
    assert len(hub.transfers()) == 1


def test_a_warm_cache_answers_offline_and_without_a_network(hub, cache):
    first = resolve(NAME, cache_dir=cache, endpoint=hub.endpoint)
    asked = len(hub.requests)
    assert resolve(NAME, cache_dir=cache, endpoint=hub.endpoint, local_files_only=True) == first
    assert len(hub.requests) == asked
    assert resolve(NAME, cache_dir=cache, endpoint=closed_endpoint()) == first
    hub.broken_status = 503
    assert resolve(NAME, cache_dir=cache, endpoint=hub.endpoint) == first


@pytest.mark.parametrize("revision", ["main", "v1", COMMIT])
def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, cache, revision):
    hub.repositories[NAME].revisions = ("main", "v1")
    assert resolve(NAME, revision=revision, cache_dir=cache, endpoint=hub.endpoint).revision == COMMIT
    again = resolve(NAME, revision=revision, cache_dir=cache, endpoint=hub.endpoint, local_files_only=True)
    assert again.revision == COMMIT


def test_shards_are_fetched(hub, cache, tmp_path, answer):
    theirs = reference_of(TINY, seed=1)
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="500KB")
    hub.repositories["someone/shards"] = Repository(files_of(tmp_path / "shards"))
    checkpoint = resolve("someone/shards", cache_dir=cache, endpoint=hub.endpoint)
    assert len(hub.transfers()) == len(list((tmp_path / "shards").glob("model-*"))) > 1
    assert relative_rms(answer(load(checkpoint)), answer(theirs)) <= 1e-5


def test_a_token_opens_a_private_repository_and_stays_with_the_hub(hub, cache):
    hub.repositories[NAME].token = "hf_secret"
    resolve(NAME, cache_dir=cache, endpoint=hub.endpoint, token="hf_secret")
    assert {asked.authorization for asked in hub.requests if asked.path.startswith("/api")} == {"Bearer hf_secret"}
    assert [asked.authorization for asked in hub.transfers()] == [None]  # the storage is another host


def test_huggingface_tools_find_what_was_downloaded(hub, cache):
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    checkpoint = resolve(NAME, cache_dir=cache, endpoint=hub.endpoint)
    assert try_to_load_from_cache(NAME, "model.safetensors", cache_dir=cache) == str(checkpoint.weights)
    report = scan_cache_dir(cache)
    assert report.warnings == []
    assert {file.file_name for repo in report.repos for revision in repo.revisions for file in revision.files} == set(
        FILES
    )


# --- what breaks on the way


def test_a_cut_connection_is_taken_up_where_it_was_cut(hub, cache, large):
    hub.repositories["someone/large"] = Repository(large)
    hub.cut_after_bytes = CHUNK_BYTES + 5000
    checkpoint = resolve("someone/large", cache_dir=cache, endpoint=hub.endpoint)
    assert [asked.range for asked in hub.transfers()] == [None, f"bytes={CHUNK_BYTES}-"]
    assert checkpoint.weights.read_bytes() == large["model.safetensors"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A checkpoint of three pieces: 25 MB, nearly all of it decoder."""
    folder = tmp_path_factory.mktemp("large")
    model = SegGptForImageSegmentation(replace(TINY, decoder_hidden_size=90))
    draw_weights(model, seed=0)
    save(model, folder)
    files = files_of(folder)
    assert 2 * CHUNK_BYTES < len(files["model.safetensors"]) < 3 * CHUNK_BYTES
    return files


def start(hub: HubStandIn, cache: Path, source: str, **environment: str) -> subprocess.Popen[str]:
    """The command that the service runs as a child."""
    command = [sys.executable, "-m", "app.worker.prepare", "--checkpoint", source, "--devices", "cpu"]
    return subprocess.Popen(
        [*command, "--cache-dir", str(cache)],
        cwd=ROOT,
        env={**os.environ, "HF_ENDPOINT": hub.endpoint, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_download_ends_at_once_and_goes_on_later(hub, cache, large, number, capsys):
    hub.repositories["someone/large"] = Repository(large)
    hub.stall_after_bytes = CHUNK_BYTES + 5000
    child = start(hub, cache, "someone/large")
    assert hub.stalled.wait(60)
    part = wait_for_part(cache, CHUNK_BYTES)
    told = time.monotonic()
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert time.monotonic() - told < 2
    assert child.returncode == -number
    assert out == ""
    assert "Traceback" not in err
    assert "model.safetensors:" in err  # progress, also where there is no terminal
    assert part.stat().st_size == CHUNK_BYTES

    checkpoint = resolve("someone/large", cache_dir=cache, endpoint=hub.endpoint)
    assert [asked.range for asked in hub.transfers()] == [None, f"bytes={CHUNK_BYTES}-"]
    assert checkpoint.weights.read_bytes() == large["model.safetensors"]
    assert not part.exists()
    assert "100%" in capsys.readouterr().err


def wait_for_part(cache: Path, size: int) -> Path:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for part in cache.glob("models--*/blobs/*.incomplete"):
            if part.stat().st_size >= size:
                return part
        time.sleep(0.02)
    raise AssertionError("nothing arrived")


def test_damaged_bytes_are_refused_and_thrown_away(hub, cache):
    hub.is_damaging = True
    assert "arrived damaged" in refusal_of(NAME, cache_dir=cache, endpoint=hub.endpoint)
    assert list(cache.rglob("*.incomplete")) == []
    hub.is_damaging = False
    assert resolve(NAME, cache_dir=cache, endpoint=hub.endpoint).config == TINY


@pytest.mark.parametrize("kept", [b"another file's bytes", bytes(10**7)], ids=["other bytes", "too many bytes"])
def test_a_kept_part_that_is_not_of_this_file_does_no_harm(hub, cache, kept):
    first = resolve(NAME, cache_dir=cache, endpoint=hub.endpoint)
    blob = first.weights.resolve()
    blob_bytes = blob.stat().st_size
    blob.unlink()
    blob.with_name(blob.name + ".incomplete").write_bytes(kept)
    if len(kept) < blob_bytes:  # it is taken up, found wrong by its hash, and thrown away
        assert "arrived damaged" in refusal_of(NAME, cache_dir=cache, endpoint=hub.endpoint)
    assert resolve(NAME, cache_dir=cache, endpoint=hub.endpoint) == first


def test_two_downloads_at_once_share_one_transfer(hub, cache):
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(resolve, NAME, cache_dir=cache, endpoint=hub.endpoint) for _ in range(2)]
        first, second = (one.result(timeout=60) for one in both)
    assert first == second
    assert len(hub.transfers()) == 1


# --- what is refused


def test_a_repository_that_does_not_exist_is_refused(hub, cache):
    message = refusal_of("someone/nothing", cache_dir=cache, endpoint=hub.endpoint)
    assert message == "hub repository someone/nothing does not exist, or is private and HF_TOKEN does not open it"


def test_a_revision_that_does_not_exist_is_refused(hub, cache):
    message = refusal_of(NAME, revision="v9", cache_dir=cache, endpoint=hub.endpoint)
    assert message == f"hub repository {NAME} has no revision 'v9'"


def test_a_private_repository_without_or_with_a_wrong_token_is_refused(hub, cache):
    hub.repositories[NAME].token = "hf_secret"
    assert "HF_TOKEN does not open it" in refusal_of(NAME, cache_dir=cache, endpoint=hub.endpoint, token=False)
    message = refusal_of(NAME, cache_dir=cache, endpoint=hub.endpoint, token="hf_wrong")
    assert "HTTP 401; set HF_TOKEN to a valid token" in message
    assert "hf_" not in message


def test_the_command_takes_its_token_from_the_environment(hub, cache):
    hub.repositories[NAME].token = "hf_secret"
    refused = start(hub, cache, NAME, HF_TOKEN="")
    out, err = refused.communicate(timeout=60)
    assert (refused.returncode, err) == (2, "")
    assert "HF_TOKEN does not open it" in json.loads(out)["message"]
    allowed = start(hub, cache, NAME, HF_TOKEN="hf_secret")
    out, err = allowed.communicate(timeout=60)
    assert allowed.returncode == 0, err
    said = json.loads(out)["checkpoint"]
    assert (said["source"], said["revision"], said["layout"]) == (NAME, COMMIT, "huggingface")
    assert Path(said["weights"]).is_file()


def test_a_gated_repository_says_what_to_do(hub, cache):
    hub.repositories[NAME].is_gated = True
    assert "is gated: accept its terms" in refusal_of(NAME, cache_dir=cache, endpoint=hub.endpoint)


def test_an_empty_cache_offline_or_without_a_network_is_refused(hub, cache):
    assert "offline" in refusal_of(NAME, cache_dir=cache, endpoint=hub.endpoint, local_files_only=True)
    assert hub.requests == []
    assert "the hub cannot be reached" in refusal_of(NAME, cache_dir=cache, endpoint=closed_endpoint())


def test_a_half_filled_cache_offline_is_refused(hub, cache):
    checkpoint = resolve(NAME, cache_dir=cache, endpoint=hub.endpoint)
    checkpoint.weights.unlink()
    assert "offline" in refusal_of(NAME, cache_dir=cache, endpoint=hub.endpoint, local_files_only=True)


def test_a_broken_hub_is_refused(hub, cache):
    hub.broken_status = 500
    assert "answered HTTP 500" in refusal_of(NAME, cache_dir=cache, endpoint=hub.endpoint)


@pytest.mark.parametrize(
    ("missing", "said"), [("config.json", "has no config.json"), ("model.safetensors", "has no model.safetensors")]
)
def test_a_repository_that_is_no_checkpoint_is_refused(hub, cache, missing, said):
    del hub.repositories[NAME].files[missing]
    assert said in refusal_of(NAME, cache_dir=cache, endpoint=hub.endpoint)


def test_a_checkpoint_of_another_network_on_the_hub_is_refused(hub, cache):
    hub.repositories[NAME].files["config.json"] = b'{"model_type": "vit"}'
    assert "model_type is 'vit'" in refusal_of(NAME, cache_dir=cache, endpoint=hub.endpoint)


@pytest.mark.parametrize("name", ["a--b/c", "-a/b", "a/b.", "a/" + 100 * "b"])
def test_a_name_that_no_repository_can_have_is_refused(hub, cache, name):
    assert "must look like owner/name" in refusal_of(name, cache_dir=cache, endpoint=hub.endpoint)
