"""Tuned prompts: their files, and how they are registered and served by a real server."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from app.errors import InvalidTunedPrompt
from app.examples import Example
from app.images import Limits, decode_image
from app.labels import BINARY
from app.prompt_archive import NewPrompt, TunedFor, prompt_id
from app.prompts import PromptStore
from app.tuned import read_tuned
from model.checkpoint import fingerprint, load, resolve
from model.colours import levels, normalise
from model.tuned_prompt import TunedPrompt
from seggpt import AsyncClient, Client, RefusedError
from tests.app.conftest import TINY, RunningServer, decoded, encoded, form, picture, running_server
from tests.app.test_bad_input import is_problem

SIZE = TINY.half_size


def learned(tiny_folder: Path, count: int = 2, size: tuple[int, int] = SIZE, seed: int = 0) -> TunedPrompt:
    """Noise, as learned pictures often look."""
    random = np.random.default_rng(seed)
    images, masks = (torch.from_numpy(random.integers(0, 256, (count, *size, 3), dtype=np.uint8)) for _ in range(2))
    return TunedPrompt(images, masks, "tiny", fingerprint(resolve(tiny_folder)), 0.25, 0.5)


def file_of(prompt: TunedPrompt, folder: Path) -> bytes:
    prompt.save(folder / "tuned.safetensors", "seggpt")
    return (folder / "tuned.safetensors").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "prompts"


@pytest.fixture(scope="module")
def keeper(folder: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a store of its own."""
    log = tmp_path_factory.mktemp("keeper") / "log"
    with running_server(log, checkpoint=tiny_folder, prompts=folder, max_body_bytes=4_000_000) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def client(keeper: RunningServer) -> Iterator[httpx.Client]:
    """Of a server without prompts."""
    for entry in keeper.client.get("/v1/prompts").json()["prompts"]:
        keeper.client.delete(f"/v1/prompts/{entry['id']}")
    yield keeper.client
    assert "Traceback" not in keeper.log.read_text()


def post(client: httpx.Client, data: bytes, **fields: str) -> httpx.Response:
    files = {"tuned": ("tuned.safetensors", data, "application/octet-stream")}
    return client.post("/v1/prompts", files=files, data=fields)


def cell(seed: int) -> Image.Image:
    """A picture of the network's own size, so that nothing is resized."""
    return picture(seed, SIZE)


def painted(tiny_folder: Path, prompt: TunedPrompt, image: Image.Image) -> np.ndarray:
    """(h, w) uint8: the network's own answer, without any service."""
    network = load(resolve(tiny_folder))
    count = len(prompt.images)
    with torch.inference_mode():
        output = network(
            normalise(torch.from_numpy(np.array(image)).unsqueeze(0)),
            normalise(prompt.images),
            normalise(prompt.masks),
            group_sizes=[count],
            answer_only=True,
        )
    return levels(output.pred_masks)[1][0, ..., 3].numpy()


def test_a_tuned_prompt_is_registered_and_served_as_it_was_tuned(
    client: httpx.Client, tiny_folder: Path, tmp_path: Path
) -> None:
    prompt = learned(tiny_folder)
    answer = post(client, file_of(prompt, tmp_path), name="learned", labels='["screw"]')
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["mask_kind"], body["examples"], body["name"]) == ("tuned", 2, "learned")
    assert body["labels"] == [{"index": 1, "name": "screw", "colour": "#ffffff"}]
    again = post(client, file_of(prompt, tmp_path), labels='["screw"]')
    assert (again.status_code, again.json()) == (200, body)
    assert client.get("/v1/prompts/learned").json() == body
    image = [("image", ("i.png", encoded(cell(1)), "image/png"))]
    for lookup in ("learned", body["id"]):
        served = decoded(client.post("/v1/segment", files=image, data={"prompt": lookup, "output": "soft"}))
        wanted = painted(tiny_folder, prompt, cell(1))
        assert np.abs(served.astype(int) - wanted.astype(int)).max() <= 1  # other kernels round differently
    assert decoded(client.get("/v1/prompts/learned/preview")).shape == (SIZE[0], 2 * SIZE[1] + 8, 3)


def test_it_is_used_like_any_other(client: httpx.Client, tiny_folder: Path, tmp_path: Path) -> None:
    tuned = post(client, file_of(learned(tiny_folder, 1), tmp_path), name="learned").json()
    client.post("/v1/prompts", files=form(4)[1:], data={"name": "disc", "labels": '["disc"]'})
    image = form(0, size=(200, 300))[:1]
    plain = decoded(client.post("/v1/segment", files=image, data={"prompt": "learned"}))
    assert set(np.unique(plain)) <= {0, 255}
    tiled = client.post("/v1/segment", files=image, data={"prompt": "learned", "tile": "120x100"})
    assert decoded(tiled).shape == (200, 300)
    both = client.post(
        "/v1/segment", files=image, data={"prompt": ["learned", "disc"]}, headers={"accept": "application/json"}
    )
    assert [label["name"] for label in both.json()["labels"]] == ["object", "disc"]
    beside = client.post("/v1/segment", files=form(5, size=(200, 300)), data={"prompt": "learned"})
    assert beside.status_code == 200, beside.text
    lines = client.post(
        "/v1/segment/batch", files=[("image", one[1]) for one in (*image, *image)], data={"prompt": tuned["id"]}
    ).text.splitlines()
    assert [json.loads(line).get("status") for line in lines] == [200, 200, None]


def test_pairs_learned_to_be_used_together_are_not_made_tiles(
    client: httpx.Client, tiny_folder: Path, tmp_path: Path
) -> None:
    post(client, file_of(learned(tiny_folder, 2), tmp_path), name="two")
    post(client, file_of(learned(tiny_folder, 1), tmp_path), name="one")
    image = form(0)[:1]
    refused = client.post("/v1/segment", files=image, data={"prompt": "two", "ensemble": "spatial"})
    is_problem(refused, "invalid-request", 422, "'two' was learned as 2 pairs", "allowed is ensemble=feature")
    plain, spatial = (
        client.post("/v1/segment", files=image, data={"prompt": "one", "ensemble": ensemble, "output": "soft"})
        for ensemble in ("feature", "spatial")
    )
    assert (decoded(plain) == decoded(spatial)).all()


def test_json_and_the_clients_register_it_too(
    keeper: RunningServer, client: httpx.Client, tiny_folder: Path, tmp_path: Path
) -> None:
    data = file_of(learned(tiny_folder), tmp_path)
    by_json = client.post("/v1/prompts", json={"tuned": base64.b64encode(data).decode(), "name": "j"})
    assert by_json.status_code == 201, by_json.text
    with Client(keeper.url) as blocking:
        prompt = blocking.prompts.register(tuned=tmp_path / "tuned.safetensors")
        assert (prompt.id, prompt.mask_kind) == (by_json.json()["id"], "tuned")
        assert blocking.prompts.register(tuned=data).id == prompt.id
        with pytest.raises(RefusedError) as refused:
            blocking.prompts.register(tuned=b"none")
        assert refused.value.slug == "invalid-tuned-prompt"


@pytest.mark.anyio
async def test_the_asynchronous_client_registers_it(keeper: RunningServer, tiny_folder: Path, tmp_path: Path) -> None:
    data = file_of(learned(tiny_folder, seed=5), tmp_path)
    async with AsyncClient(keeper.url) as client:
        assert (await client.prompts.register(tuned=data)).mask_kind == "tuned"


def test_one_for_another_checkpoint_is_refused_when_registered_and_when_used(
    client: httpx.Client, folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    prompt = replace(learned(tiny_folder), checkpoint="owner/name", fingerprint="ab" * 32)
    answer = post(client, file_of(prompt, tmp_path))
    is_problem(answer, "other-checkpoint", 422, "'owner/name'", "abababababab", "seggpt tune")
    assert client.get("/v1/prompts").json()["prompts"] == []
    # As when the service was started again with another checkpoint.
    tuned = read_tuned(file_of(prompt, tmp_path), 16)
    PromptStore(str(folder)).put(NewPrompt(tuned.examples, "tuned", BINARY, "foreign", tuned.tuned_for))
    image = form(0)[:1]
    is_problem(
        client.post("/v1/segment", files=image, data={"prompt": "foreign"}), "other-checkpoint", 422, "'foreign'"
    )
    batch = client.post("/v1/segment/batch", files=image, data={"prompt": "foreign"})
    is_problem(batch, "other-checkpoint", 422, "'foreign'")
    assert client.get("/v1/prompts/foreign").json()["state"] == "ok"


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: object, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


# What is set where in the header (None takes it away), and what the problem says.
WRONG: dict[str, tuple[tuple[str, ...], object, str]] = {
    "format": (("__metadata__", "format"), "pt", "allowed is 'seggpt-tuned-prompt-1'"),
    "fingerprint": (("__metadata__", "fingerprint"), "xyz", "64 hexadecimal digits"),
    "checkpoint": (("__metadata__", "checkpoint"), "a\nb", "for which checkpoint"),
    "no metadata": (("__metadata__",), None, "its format is"),
    "type": (("prompt_images", "dtype"), "F32", "got F32 of shape"),
    "channels": (("prompt_images", "shape"), [2, 48, 64, 4], "allowed is U8 of shape"),
    "sizes": (("prompt_images", "shape"), [2, 64, 48, 3], "they must be equal"),
    "none": (("prompt_images", "shape"), [0, 48, 64, 3], "allowed is U8 of shape"),
    "words": (("prompt_images", "shape"), ["2", 48, 64, 3], "allowed is U8 of shape"),
    "offsets": (("prompt_images", "data_offsets"), [0, 10**12], "damaged or cut short"),
    "a third": (("other",), {}, "allowed are prompt_images and prompt_masks"),
    "missing": (("prompt_images",), None, "allowed are prompt_images and prompt_masks"),
    "no object": (("prompt_images",), 7, "prompt_images: got None"),
}


def changed(data: bytes, path: tuple[str, ...], value: object) -> bytes:
    """A file with one thing wrong."""
    header, body = header_of(data)
    place = header
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return with_header(header, body)


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_seggpt_tune_did_not_write_is_refused(
    client: httpx.Client, tiny_folder: Path, tmp_path: Path, what: str
) -> None:
    path, value, said = WRONG[what]
    answer = post(client, changed(file_of(learned(tiny_folder), tmp_path), path, value))
    is_problem(answer, "invalid-tuned-prompt", 422, "tuned: ", said, "seggpt tune")
    assert answer.json()["field"] == "tuned"
    assert client.get("/v1/prompts").json()["prompts"] == []


@pytest.mark.parametrize(
    "data", [b"", b"1234567", b"\xff" * 100, bytes(100), with_header(b"{" * 60_000, b""), with_header([], b"")]
)
def test_bytes_that_are_no_such_file(data: bytes) -> None:
    with pytest.raises(InvalidTunedPrompt):
        read_tuned(data, 16)


def test_no_cut_of_a_file_passes(tiny_folder: Path, tmp_path: Path) -> None:
    data = file_of(learned(tiny_folder, 1), tmp_path)
    for length in [*range(0, 700, 7), *range(700, len(data), 997), len(data) - 1]:
        with pytest.raises(InvalidTunedPrompt):
            read_tuned(data[:length], 16)


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"files": [form()[1]]}, "prompt_image"),
        ({"data": {"mask_kind": "binary"}}, "mask_kind"),
    ],
)
def test_a_tuned_prompt_has_its_own_examples(
    client: httpx.Client, tiny_folder: Path, tmp_path: Path, extra: dict[str, Any], word: str
) -> None:
    data = file_of(learned(tiny_folder), tmp_path)
    files = [("tuned", ("t", data, "application/octet-stream")), *extra.get("files", ())]
    answer = client.post("/v1/prompts", files=files, data=extra.get("data"))
    is_problem(answer, "invalid-request", 422, f"got tuned and {word}")


def test_other_refusals(client: httpx.Client, tiny_folder: Path, tmp_path: Path) -> None:
    many = post(client, file_of(learned(tiny_folder, 17), tmp_path))
    is_problem(many, "example-count", 422, "got 17 learned examples; allowed are 1 to 16")
    size = post(client, file_of(learned(tiny_folder, size=(64, 64)), tmp_path))
    is_problem(size, "invalid-tuned-prompt", 422, "got 64x64 learned pixels", "takes 64x48")
    data = file_of(learned(tiny_folder), tmp_path)
    is_problem(post(client, data, labels='["a", "b"]'), "invalid-labels", 422, "allowed is one")
    is_problem(client.post("/v1/prompts", data={"tuned": "text"}, files={}), "unsupported-media-type", 415)
    is_problem(
        client.post("/v1/segment", files=[*form(), ("tuned", ("t", data, ""))]), "invalid-request", 422, "'tuned'"
    )


def test_its_pixels_are_kept_without_loss_and_its_id_is_of_pixels_and_checkpoint(
    tiny_folder: Path, tmp_path: Path
) -> None:
    prompt = learned(tiny_folder)
    read = read_tuned(file_of(prompt, tmp_path), 16)
    limits = Limits(1_000_000, 1000)
    for example, image, mask in zip(read.examples, prompt.images, prompt.masks, strict=True):
        for data, pixels in ((example.image, image), (example.mask, mask)):
            assert np.array_equal(np.asarray(decode_image(data, limits)), pixels.numpy())
    new = NewPrompt(read.examples, "tuned", BINARY, tuned_for=read.tuned_for)
    retold = read_tuned(file_of(replace(prompt, checkpoint="renamed", iou_after=0.9), tmp_path), 16)
    assert prompt_id(replace(new, tuned_for=retold.tuned_for)) == prompt_id(new)
    assert prompt_id(replace(new, tuned_for=TunedFor("tiny", "cd" * 32))) != prompt_id(new)


def test_ids_of_other_prompts_have_not_changed() -> None:
    plain = NewPrompt((Example(b"image", b"mask"),), "binary", BINARY)
    assert prompt_id(plain) == "049e04051364e5f29a31391d17553606"
