"""What `/v1/prompts` answers, on a real server whose store is a folder."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

from app.objects import Folder
from app.prompts import PromptStore
from tests.app.conftest import RunningServer, decoded, disc, encoded, form, picture, running_server
from tests.app.test_bad_input import is_problem

Files = list[tuple[str, tuple[str, bytes, str]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "prompts"


@pytest.fixture(scope="module")
def keeper(folder: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a store of its own."""
    log = tmp_path_factory.mktemp("keeper") / "log"
    with running_server(
        log, checkpoint=tiny_folder, prompts=folder, max_image_pixels=2_000_000, max_body_bytes=1_000_000
    ) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def client(keeper: RunningServer) -> Iterator[httpx.Client]:
    """Of a server without prompts."""
    for entry in keeper.client.get("/v1/prompts").json()["prompts"]:
        keeper.client.delete(f"/v1/prompts/{entry['id']}")
    yield keeper.client
    assert "Traceback" not in keeper.log.read_text()


def examples(seed: int = 0, count: int = 1) -> Files:
    return form(seed, examples=count)[1:]


def classes_mask() -> Image.Image:
    """Indices 0, 3 and 7 in three vertical stripes."""
    return Image.fromarray(np.repeat(np.array([[0, 3, 7]], np.uint8), 40, axis=1).repeat(90, axis=0))


def register(client: httpx.Client, seed: int = 0, count: int = 1, **data: str) -> dict[str, Any]:
    answer = client.post("/v1/prompts", files=examples(seed, count), data=data)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_registering_answers_what_is_kept_and_where(client: httpx.Client, folder: Path) -> None:
    answer = client.post("/v1/prompts", files=examples(1, 2), data={"name": "discs", "labels": '["disc"]'})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert answer.headers["location"] == f"/v1/prompts/{body['id']}"
    created_at = datetime.fromisoformat(body.pop("created_at"))
    assert timedelta(0) <= datetime.now(UTC) - created_at < timedelta(minutes=5)
    identity = body.pop("id")
    assert len(identity) == 32
    assert body.pop("bytes") == (folder / "prompts" / f"{identity}.zip").stat().st_size
    assert body == {
        "name": "discs",
        "mask_kind": "binary",
        "labels": [{"index": 1, "name": "disc", "colour": "#ffffff"}],
        "examples": 2,
        "state": "ok",
    }
    for lookup in (identity, "discs"):
        assert client.get(f"/v1/prompts/{lookup}").json() == answer.json()
    assert PromptStore(str(folder)).get("discs").examples[0].image == examples(1)[0][1][1]


def test_registering_again_finds_it(client: httpx.Client) -> None:
    first = client.post("/v1/prompts", files=examples(2))
    second = client.post("/v1/prompts", files=examples(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert first.headers["location"] == second.headers["location"]
    assert len(client.get("/v1/prompts").json()["prompts"]) == 1


@pytest.mark.parametrize(("kind", "labels"), [("index", '[{"name": "a", "index": 3}, {"name": "b", "index": 7}]')])
def test_index_masks_keep_their_classes(client: httpx.Client, kind: str, labels: str) -> None:
    files = examples(3)
    files[1] = ("prompt_mask", ("m.png", encoded(classes_mask()), "image/png"))
    answer = client.post("/v1/prompts", files=files, data={"mask_kind": kind, "labels": labels})
    assert answer.status_code == 201, answer.text
    assert [(label["index"], label["name"]) for label in answer.json()["labels"]] == [(3, "a"), (7, "b")]
    assert answer.json()["mask_kind"] == "index"
    wrong = client.post("/v1/prompts", files=files, data={"mask_kind": kind, "labels": '["a"]'})
    is_problem(wrong, "invalid-labels", 422, "prompt_mask[0]")


def test_a_registered_prompt_answers_as_its_examples_do(client: httpx.Client) -> None:
    stored = register(client, 4, 2, name="discs")
    image = form(4)[:1]
    wanted = decoded(client.post("/v1/segment", files=form(4, examples=2), data={"output": "soft"}))
    for lookup in (stored["id"], "discs"):
        answer = client.post("/v1/segment", files=image, data={"prompt": lookup, "output": "soft"})
        assert np.array_equal(decoded(answer), wanted)
    client.delete("/v1/prompts/discs")
    gone = client.post("/v1/segment", files=image, data={"prompt": "discs"})
    is_problem(gone, "prompt-not-found", 404, "discs")


def test_pages_of_the_list(client: httpx.Client) -> None:
    wanted = sorted(register(client, seed)["id"] for seed in range(5))
    seen: list[str] = []
    after: str | None = None
    while True:
        page = client.get("/v1/prompts", params={"limit": 2, **({"after": after} if after else {})}).json()
        seen += [entry["id"] for entry in page["prompts"]]
        after = page["next"]
        if after is None:
            break
    assert seen == wanted
    for wrong in ({"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"after": "discs"}):
        is_problem(client.get("/v1/prompts", params=wrong), "invalid-request", 422, next(iter(wrong)))


def test_query_parameters_that_mean_nothing(client: httpx.Client) -> None:
    is_problem(client.get("/v1/prompts?page=2"), "invalid-request", 422, "'page'", "after, limit")
    is_problem(client.get("/v1/prompts?limit=2&limit=3"), "invalid-request", 422, "2 query parameters 'limit'")
    stored = register(client, 15)
    for method in ("GET", "PATCH", "DELETE"):
        answer = client.request(method, f"/v1/prompts/{stored['id']}?force=1")
        is_problem(answer, "invalid-request", 422, "'force'", "allowed are none")
    assert client.get(f"/v1/prompts/{stored['id']}").json() == stored


def test_renaming(client: httpx.Client) -> None:
    stored = register(client, 6, name="discs")
    other = register(client, 7)
    name = "Scheiben & Räder? 100%"
    renamed = client.patch("/v1/prompts/discs", json={"name": name})
    assert renamed.status_code == 200, renamed.text
    assert renamed.json() == {**stored, "name": name}
    assert client.get("/v1/prompts/" + quote(name, safe="")).json() == renamed.json()
    is_problem(client.get("/v1/prompts/discs"), "prompt-not-found", 404, "discs")
    is_problem(client.patch(f"/v1/prompts/{other['id']}", json={"name": name}), "name-taken", 409, stored["id"])
    assert client.patch(f"/v1/prompts/{stored['id']}", json={"name": None}).json()["name"] is None
    assert client.patch(f"/v1/prompts/{other['id']}", json={"name": name}).json()["name"] == name


@pytest.mark.parametrize(
    ("options", "slug", "status", "word"),
    [
        ({"content": b"{", "headers": {"content-type": "application/json"}}, "malformed-json", 400, "JSON"),
        ({"content": b"\xff", "headers": {"content-type": "application/json"}}, "malformed-json", 400, "JSON"),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, "unsupported-media-type", 415, "text/plain"),
        ({"json": {}}, "invalid-request", 422, "name"),
        ({"json": []}, "invalid-request", 422, "body"),
        ({"json": {"name": 7}}, "invalid-request", 422, "name"),
        ({"json": {"name": "x", "id": "y"}}, "invalid-request", 422, "id"),
        ({"json": {"name": "a/b"}}, "invalid-request", 422, "slash"),
        ({"json": {"name": "x" * 10_000}}, "body-too-large", 413, "8192"),
    ],
)
def test_a_rename_that_cannot_be(
    client: httpx.Client, options: dict[str, Any], slug: str, status: int, word: str
) -> None:
    stored = register(client, 8, name="discs")
    is_problem(client.patch("/v1/prompts/discs", **options), slug, status, word)
    assert client.get(f"/v1/prompts/{stored['id']}").json() == stored


def test_deleting(client: httpx.Client) -> None:
    stored = register(client, 9, name="discs")
    answer = client.delete("/v1/prompts/discs")
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "DELETE"):
        is_problem(client.request(method, f"/v1/prompts/{stored['id']}"), "prompt-not-found", 404, stored["id"])
    assert client.get("/v1/prompts").json() == {"prompts": [], "next": None}


def test_a_path_that_is_no_prompt_s(client: httpx.Client) -> None:
    for path in ("a%2Fb", "a/b", "x" * 300, "%00"):
        assert client.get(f"/v1/prompts/{path}").status_code == 404
    is_problem(client.put("/v1/prompts/discs"), "method-not-allowed", 405, "PUT")


@pytest.mark.parametrize(
    ("files", "data", "slug", "status", "word"),
    [
        (examples()[:1], {}, "invalid-request", 422, "prompt_mask"),
        (examples(0, 2)[:3], {}, "example-count", 422, "2 prompt images and 1"),
        (examples(0, 17), {}, "example-count", 422, "17"),
        (form(0), {}, "invalid-request", 422, "'image'"),
        (examples(), {"threshold": "0.5"}, "invalid-request", 422, "'threshold'"),
        (examples(), {"name": ["one", "two"]}, "invalid-request", 422, "2 fields 'name'"),
        (examples(), {"name": "a/b"}, "invalid-request", 422, "slash"),
        (examples(), {"mask_kind": "soft"}, "invalid-request", 422, "mask_kind"),
        (examples(), {"labels": "cat"}, "invalid-labels", 422, "cat"),
        (examples(), {"labels": '["cat", "dog"]'}, "invalid-labels", 422, "binary"),
        (examples(), {"mask_kind": "index"}, "invalid-labels", 422, "labels"),
    ],
)
def test_a_registration_that_cannot_be(
    client: httpx.Client, files: Files, data: dict[str, Any], slug: str, status: int, word: str
) -> None:
    is_problem(client.post("/v1/prompts", files=files, data=data), slug, status, word)
    assert client.get("/v1/prompts").json()["prompts"] == []


@pytest.mark.parametrize(
    ("index", "content", "slug", "status", "word"),
    [
        (0, b"", "undecodable-image", 422, "prompt_image[0]"),
        (0, encoded(picture(0))[:-200], "undecodable-image", 422, "prompt_image[0]"),
        (1, b"GIF89a", "unsupported-image-type", 415, "prompt_mask[0]"),
        (1, encoded(Image.new("L", (120, 90))), "empty-mask", 422, "prompt_mask[0]"),
        (1, encoded(disc((90, 90))), "mask-aspect", 422, "prompt_mask[0]"),
        (0, encoded(Image.new("1", (2000, 1001))), "image-too-large", 422, "prompt_image[0]"),
    ],
)
def test_pictures_that_could_not_be_used_are_not_registered(
    client: httpx.Client, index: int, content: bytes, slug: str, status: int, word: str
) -> None:
    files = examples(0)
    files[index] = (files[index][0], ("file", content, "image/png"))
    is_problem(client.post("/v1/prompts", files=files), slug, status, word)
    assert client.get("/v1/prompts").json()["prompts"] == []


@pytest.mark.parametrize("path", ["/v1/segment", "/v1/segment/batch"])
def test_a_prompt_is_used_once_however_it_is_called(client: httpx.Client, path: str) -> None:
    stored = register(client, 12, name="discs")
    for calls in (["discs", "discs"], ["discs", stored["id"]], [stored["id"], "discs"]):
        answer = client.post(path, files=form(0)[:1], data={"prompt": calls})
        is_problem(answer, "invalid-request", 422, "the prompt 'discs' twice; allowed is once")


def test_a_body_that_is_too_large(client: httpx.Client) -> None:
    files = [("prompt_image", ("big", bytes(1_100_000), "image/png")), *examples()[1:]]
    is_problem(client.post("/v1/prompts", files=files), "body-too-large", 413, "1000000")


def test_a_form_of_another_kind(client: httpx.Client) -> None:
    answer = client.post("/v1/prompts", content=b"hello", headers={"content-type": "text/plain"})
    is_problem(answer, "unsupported-media-type", 415, "text/plain")


def test_a_damaged_prompt_is_reported_and_never_served(client: httpx.Client, folder: Path) -> None:
    stored = register(client, 10, name="discs")
    file = folder / "prompts" / f"{stored['id']}.zip"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    for path in ("discs", stored["id"], "discs/preview"):
        is_problem(client.get(f"/v1/prompts/{path}"), "prompt-damaged", 500, stored["id"])
    is_problem(
        client.post("/v1/segment", files=form(0)[:1], data={"prompt": "discs"}), "prompt-damaged", 500, stored["id"]
    )
    (entry,) = client.get("/v1/prompts").json()["prompts"]
    assert entry == {
        "id": stored["id"],
        "name": None,
        "created_at": None,
        "mask_kind": None,
        "labels": [],
        "examples": None,
        "bytes": len(data) // 2,
        "state": "damaged",
    }
    again = client.post("/v1/prompts", files=examples(10), data={"name": "discs"})
    assert again.status_code == 201, again.text
    assert client.get("/v1/prompts/discs").json()["state"] == "ok"


def preview(client: httpx.Client, lookup: str) -> np.ndarray:
    return decoded(client.get(f"/v1/prompts/{lookup}/preview")).astype(int)


def test_a_preview_shows_images_with_their_masks_tinted(client: httpx.Client) -> None:
    files = examples(11)
    files[1] = ("prompt_mask", ("m.png", encoded(classes_mask()), "image/png"))
    labels = '[{"name": "a", "index": 3, "colour": "#00ff00"}, {"name": "b", "index": 7, "colour": "#0000ff"}]'
    indexed = client.post("/v1/prompts", files=files, data={"mask_kind": "index", "labels": labels}).json()
    colours = np.array([[0, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    files[1] = (
        "prompt_mask",
        ("m.png", encoded(Image.fromarray(colours[np.asarray(classes_mask()) // 3])), "image/png"),
    )
    coloured = client.post("/v1/prompts", files=files, data={"mask_kind": "colour", "labels": labels}).json()
    image = np.asarray(Image.open(BytesIO(files[0][1][1]))).astype(int)
    for stored in (indexed, coloured):
        shown = preview(client, stored["id"])
        assert shown.shape == image.shape == (90, 120, 3)
        assert np.array_equal(shown[:, :40], image[:, :40])
        for left, colour in ((40, (0, 255, 0)), (80, (0, 0, 255))):
            part = slice(left, left + 40)
            towards = np.array(colour) * 0.55 + image[:, part] * 0.45
            assert np.abs(shown[:, part] - towards).max() <= 1


def test_a_preview_is_small_and_has_at_most_four_examples(client: httpx.Client) -> None:
    register(client, 12, 5, name="five")
    shown = preview(client, "five")
    assert shown.shape == (90, 4 * 120 + 3 * 8, 3)
    image = np.asarray(picture(1000 + 17 * 12)).astype(int)
    inside = np.asarray(disc(centre=(0.3, 0.5))) > 0
    assert np.array_equal(shown[:, :120][~inside], image[~inside])
    assert np.abs(shown[:, :120][inside] - (image[inside] * 0.45 + np.array([255, 40, 90]) * 0.55)).max() <= 1
    large = [
        ("prompt_image", ("i.jpg", encoded(picture(1, (1200, 800)), "JPEG"), "image/jpeg")),
        ("prompt_mask", ("m.png", encoded(disc((1200, 800))), "image/png")),
    ]
    stored = client.post("/v1/prompts", files=large).json()
    assert preview(client, stored["id"]).shape == (512, 341, 3)


def test_prompts_survive_kill_9_and_a_restart(tiny_folder: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "first", checkpoint=tiny_folder, prompts=tmp_path / "kept") as first:
        first.wait_until_ready()
        stored = register(first.client, 13, name="discs")
        renamed = first.client.patch("/v1/prompts/discs", json={"name": "rounds"}).json()
        other = register(first.client, 14)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with running_server(tmp_path / "second", checkpoint=tiny_folder, prompts=tmp_path / "kept") as second:
        # Before it is ready: showing prompts needs no worker, registering does.
        while True:
            try:
                assert second.client.get("/v1/prompts/rounds").json() == {**stored, "name": "rounds"} == renamed
                break
            except httpx.TransportError:
                assert second.process.poll() is None
        listed = {entry["id"] for entry in second.client.get("/v1/prompts").json()["prompts"]}
        assert listed == {stored["id"], other["id"]}
        second.wait_until_ready()
        answer = second.client.post("/v1/segment", files=form(13)[:1], data={"prompt": "rounds"})
        assert decoded(answer).shape == (90, 120)


def test_a_store_that_cannot_be_written_is_unavailable(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with running_server(tmp_path / "log", checkpoint=tiny_folder, prompts=tmp_path / "file" / "x") as running:
        running.wait_until_ready()
        for method, path in (("GET", ""), ("GET", "/discs"), ("DELETE", "/discs"), ("GET", "/discs/preview")):
            answer = running.client.request(method, f"/v1/prompts{path}")
            is_problem(answer, "prompt-store-unavailable", 503, "not a directory")
            assert str(tmp_path) not in answer.text
        answer = running.client.post("/v1/prompts", files=examples())
        is_problem(answer, "prompt-store-unavailable", 503, "cannot be written")
        assert running.client.post("/v1/segment", files=form()).status_code == 200


def test_a_store_that_does_not_answer_in_time(tiny_folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with running_server(tmp_path / "log", checkpoint=tiny_folder, prompts=kept, deadline_s=2) as running:
        running.wait_until_ready()
        stored = register(running.client)
        with Folder(kept).changing():  # as another process does that hangs
            start = time.monotonic()
            is_problem(running.client.delete(f"/v1/prompts/{stored['id']}"), "deadline-exceeded", 504, "store")
            assert 1.5 < time.monotonic() - start < 30
            assert running.client.get(f"/v1/prompts/{stored['id']}").json() == stored
