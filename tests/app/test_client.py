"""The Python client against a running service."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app.client
import seggpt
from seggpt import (
    AsyncClient,
    BatchItem,
    Client,
    NameTakenError,
    NotFoundError,
    PictureError,
    Png,
    RefusedError,
    Segmentation,
    UnreachableError,
)
from tests.app.conftest import ROOT, RunningServer, decoded, disc, encoded, form, picture, running_server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def example(seed: int = 0) -> tuple[Image.Image, Image.Image]:
    """Another one for each seed."""
    return picture(2000 + seed), disc(centre=(0.4, 0.5))


def same(one: Segmentation, other: Segmentation) -> bool:
    """Whether two answers say the same."""
    return (one.height, one.labels, one.segments) == (other.height, other.labels, other.segments)


def test_one_import_brings_neither_torch_nor_the_service() -> None:
    code = "import seggpt, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "httpx" in loaded
    assert not loaded & {"torch", "fastapi", "starlette", "uvicorn", "pydantic", "model", "numba", "tqdm"}


def test_all_public_names_are_there_under_both_addresses() -> None:
    assert sorted(seggpt.__all__) == seggpt.__all__
    for name in seggpt.__all__:
        assert getattr(seggpt, name) is getattr(app.client, name)


def test_types_reach_users() -> None:
    for package in (seggpt, sys.modules["app"]):
        assert package.__file__ is not None
        assert Path(package.__file__).with_name("py.typed").exists()


def test_a_mask_is_what_the_service_answers(client: Client, server: RunningServer) -> None:
    sent = form(3)
    image, prompt_image, prompt_mask = (file[1] for _, file in sent)
    got = client.segment(image, examples=[(prompt_image, prompt_mask)], threshold=0.3)
    plain = server.client.post("/v1/segment", files=sent, data={"threshold": "0.3"})
    assert isinstance(got, Png)
    assert got == plain.content
    assert (got.to_array() == decoded(plain)).all()
    assert got.to_image().size == (120, 90)


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "view", "array", "alpha"])
def test_pictures_may_be_whatever_users_have(client: Client, tmp_path: Path, kind: str) -> None:
    image = picture(5)
    path = tmp_path / "an image.png"
    image.save(path)
    given = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "view": memoryview(path.read_bytes()),
        "array": np.asarray(image),
        "alpha": np.asarray(image.convert("RGBA")),
    }[kind]
    assert client.segment(given, examples=[example()]) == client.segment(image, examples=[example()])


@pytest.mark.parametrize("mode", ["I", "F", "I;16B"])
def test_deep_pillow_images_reach_the_service_with_their_values(client: Client, mode: str) -> None:
    grey = picture(5).convert("L")
    grey.putpixel((0, 0), 0)
    grey.putpixel((1, 0), 255)  # the whole range, so that scaling by it gives back the same grey
    scale = 1 / 255 if mode == "F" else 257
    deep = grey.convert("F" if mode == "F" else "I").point(lambda value: value * scale).convert(mode)
    assert client.segment(deep, examples=[example()]) == client.segment(grey, examples=[example()])


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "I;16L"])
def test_deep_pillow_masks_keep_their_indices(client: Client, mode: str) -> None:
    shown, _ = example()
    indices = Image.fromarray(np.arange(90 * 120, dtype=np.int32).reshape(90, 120) // 3600)
    options = {"mask_kind": "index", "labels": ["cat", "dog"]}
    given = indices.convert("I;16").convert("I").convert(mode)
    assert given.mode == mode
    wanted = client.segment(picture(1), examples=[(shown, indices.convert("L"))], **options)
    assert client.segment(picture(1), examples=[(shown, given)], **options) == wanted


@pytest.mark.parametrize("mode", ["La", "PA", "RGBa"])
def test_transparency_of_unusual_pillow_images_reaches_the_service(client: Client, mode: str) -> None:
    seen = picture(4).convert("LA" if mode == "La" else "RGBA")
    seen.putalpha(disc())
    given = seen.convert("LA").convert("PA") if mode == "PA" else seen.convert(mode)
    wanted = given.convert("LA" if mode == "La" else "RGBA").convert("RGBA")
    assert client.segment(given, examples=[example()]) == client.segment(wanted, examples=[example()])


def test_a_mask_may_be_an_array_of_truth(client: Client) -> None:
    shown, mask = example()
    truth = np.asarray(mask) > 0
    assert client.segment(picture(1), examples=[(shown, truth)]) == client.segment(picture(1), examples=[(shown, mask)])


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)])
def test_an_array_that_is_no_picture_is_refused_before_anything_is_sent(array: np.ndarray) -> None:
    with pytest.raises(PictureError, match="allowed are uint8 or bool"):
        Client("http://127.0.0.1:1").segment(array, examples=[])  # no connection, nothing to close


def test_a_file_that_is_not_there_is_named(client: Client) -> None:
    with pytest.raises(PictureError, match=r"nowhere\.png: No such file"):
        client.segment("nowhere.png", examples=[example()])


def test_segments_have_the_pixels_of_the_mask(client: Client) -> None:
    image = picture(7, (200, 300))
    answer = client.segment(image, examples=[example()], json=True)
    mask = client.segment(image, examples=[example()]).to_array() > 0
    assert (answer.height, answer.width) == (200, 300)
    assert [label.name for label in answer.labels] == ["object"]
    (segment,) = answer.segments
    assert (segment.to_array() == mask).all()
    assert segment.area == mask.sum()
    assert segment.instance is None
    assert answer.body["height"] == 200


def test_classes_and_instances_are_asked_for_by_name(client: Client) -> None:
    shown, _ = example()
    mask = np.zeros((90, 120), np.uint8)
    mask[10:40, 10:50], mask[50:80, 60:110] = 1, 2
    answer = client.segment(
        picture(9), examples=[(shown, mask)], mask_kind="index", labels=["cat", "dog"], instances=True, json=True
    )
    assert [label.name for label in answer.labels] == ["cat", "dog"]
    assert answer.segments
    assert all(isinstance(segment.instance, int) for segment in answer.segments)


def test_an_option_that_is_none_is_refused(client: Client) -> None:
    with pytest.raises(TypeError, match="treshold"):
        client.segment(picture(0), examples=[example()], treshold=0.5)  # type: ignore[call-overload]


def test_a_refusal_tells_what_and_where(client: Client) -> None:
    with pytest.raises(RefusedError) as caught:
        client.segment(picture(0), examples=[(picture(1), disc((90, 90)))])
    error = caught.value
    assert (error.slug, error.status, error.field) == ("mask-aspect", 422, "prompt_mask[0]")
    assert "90x90" in error.detail
    assert error.title
    assert str(error.instance).startswith("urn:seggpt:request:")
    assert str(error) == f"{error.detail} (422 mask-aspect)"


def test_the_service_tells_of_itself(client: Client, server: RunningServer) -> None:
    health = client.health()
    assert health.ok
    assert "1 of 1" in health.detail
    (model,) = client.models()
    assert model.picture_size == (48, 64)
    assert [worker.state for worker in model.workers] == ["ready"]


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:70000", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="address"):
            kind(url)


def test_times_must_be_above_nothing() -> None:
    with pytest.raises(ValueError, match="limit_s"):
        Client(limit_s=0)


# Batches.


def mixed(tmp_path: Path) -> list[object]:
    """Seven pictures of which the third is damaged and the fifth is not there."""
    (tmp_path / "damaged.png").write_bytes(encoded(picture(0))[:100])
    odd = {2: tmp_path / "damaged.png", 4: tmp_path / "nowhere.png"}
    return [odd.get(index, picture(100 + index)) for index in range(7)]


def check_mixed(items: list[BatchItem], single: list[Png | Segmentation]) -> None:
    assert sorted(item.index for item in items) == list(range(7))
    by_index = sorted(items, key=lambda item: item.index)
    assert [item.error is not None for item in by_index] == [index in {2, 4} for index in range(7)]
    assert isinstance(by_index[2].error, RefusedError)
    assert by_index[2].name == "damaged.png"
    assert isinstance(by_index[4].error, PictureError)
    with pytest.raises(PictureError):
        by_index[4].result()
    for item, alone in zip([item for item in by_index if item.error is None], single, strict=True):
        got = item.result()
        if isinstance(got, Segmentation):
            assert isinstance(alone, Segmentation)
            assert same(got, alone)
        else:
            assert got == alone


@pytest.mark.parametrize("per_call", [2, 3, 64])
def test_a_batch_answers_as_single_calls_do_and_a_bad_picture_fails_alone(
    client: Client, tmp_path: Path, per_call: int
) -> None:
    pictures = mixed(tmp_path)
    single = [client.segment(one, examples=[example()]) for one in pictures if isinstance(one, Image.Image)]
    check_mixed(list(client.segment_batch(iter(pictures), examples=[example()], images_per_call=per_call)), single)


def test_a_batch_can_be_of_segments(client: Client, tmp_path: Path) -> None:
    pictures = mixed(tmp_path)
    single = [client.segment(one, examples=[example()], json=True) for one in pictures if isinstance(one, Image.Image)]
    check_mixed(list(client.segment_batch(pictures, examples=[example()], json=True, output="soft")), single)


def test_a_batch_without_a_picture_that_can_be_read_is_no_failure_of_the_service(client: Client) -> None:
    items = list(client.segment_batch(["a.png", "b.png"], examples=[example()]))
    assert [type(item.error) for item in items] == [PictureError, PictureError]


def test_a_batch_that_is_refused_as_a_whole_raises(client: Client) -> None:
    with pytest.raises(NotFoundError) as caught:
        list(client.segment_batch([picture(0)], prompt="no-such-prompt"))
    assert caught.value.slug == "prompt-not-found"


def test_a_batch_in_calls_of_nothing_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="got 0 for images_per_call"):
        client.segment_batch([picture(1)], images_per_call=0, examples=[(picture(0), disc())])


def test_pictures_of_a_batch_are_taken_call_by_call(client: Client) -> None:
    taken = []

    def pictures():
        for index in range(9):
            taken.append(index)
            yield picture(index)

    items = client.segment_batch(pictures(), examples=[example()], images_per_call=3)
    next(items)
    assert taken == [0, 1, 2]
    assert len(list(items)) == 8
    assert taken == list(range(9))


def test_file_names_reach_the_answers_whatever_is_in_them(client: Client, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ('a "quoted" name.png', "späße 猫.png", "semi;colon.png")]
    for path in paths:
        picture(1).save(path)
    items = sorted(client.segment_batch(paths, examples=[example()]), key=lambda item: item.index)
    assert [item.error for item in items] == [None] * 3
    assert [item.name for item in items[1:]] == [path.name for path in paths[1:]]


# Registered prompts.


def test_a_prompt_lives_from_registration_to_removal(client: Client) -> None:
    pairs = [example(11), example(12)]
    prompt = client.prompts.register(pairs, name="blue thing")
    try:
        assert (prompt.name, prompt.mask_kind, prompt.examples, prompt.state) == ("blue thing", "binary", 2, "ok")
        assert abs(prompt.created_at - datetime.now(UTC)) < timedelta(minutes=5)
        assert prompt.size_bytes > 0
        assert client.prompts.register(pairs).id == prompt.id
        assert client.prompts.get("blue thing") == client.prompts.get(prompt) == prompt
        image = picture(3)
        with_examples = client.segment(image, examples=pairs)
        assert client.segment(image, prompt=prompt) == with_examples
        assert client.segment(image, prompt="blue thing") == with_examples
        assert client.segment(image, prompt=[prompt.id]) == with_examples
        assert client.prompts.preview(prompt).to_image().format == "PNG"
        assert client.prompts.rename(prompt, "red thing").name == "red thing"
        with pytest.raises(NotFoundError):
            client.prompts.get("blue thing")
        assert client.prompts.rename(prompt, None).name is None
    finally:
        client.prompts.delete(prompt)
    with pytest.raises(NotFoundError) as caught:
        client.prompts.delete(prompt)
    assert caught.value.slug == "prompt-not-found"


def test_prompts_are_listed_page_by_page(client: Client) -> None:
    prompts = [client.prompts.register([example(20 + index)]) for index in range(5)]
    try:
        wanted = {prompt.id for prompt in prompts}
        for page in (None, 1, 2, 5):
            assert wanted == {prompt.id for prompt in client.prompts.list(page)} & wanted
    finally:
        for prompt in prompts:
            client.prompts.delete(prompt)


def test_a_name_that_is_taken_is_an_error_of_its_own(client: Client) -> None:
    prompts = [client.prompts.register([example(30)], name="the one")]
    try:
        with pytest.raises(NameTakenError):
            prompts.append(client.prompts.register([example(31)], name="the one"))
    finally:
        for prompt in prompts:
            client.prompts.delete(prompt)


@pytest.mark.parametrize("name", ["a/b", "..", "%2e%2e", "a?b#c", "späße"])
def test_odd_names_of_prompts_reach_the_service_as_they_are(client: Client, name: str) -> None:
    with pytest.raises((NotFoundError, RefusedError, ValueError)) as caught:
        client.prompts.get(name)
    if isinstance(caught.value, NotFoundError):
        assert caught.value.slug == "prompt-not-found" or "/" in name


# The asynchronous client.


@pytest.mark.anyio
async def test_the_asynchronous_client_answers_the_same(server: RunningServer, client: Client, tmp_path: Path) -> None:
    image = picture(4)
    async with AsyncClient(server.url) as other:
        assert await other.segment(image, examples=[example()]) == client.segment(image, examples=[example()])
        answer = await other.segment(image, examples=[example()], json=True)
        assert same(answer, client.segment(image, examples=[example()], json=True))
        assert await other.health() == client.health()
        assert await other.models() == client.models()
        with pytest.raises(RefusedError, match="mask-aspect"):
            await other.segment(image, examples=[(picture(1), disc((90, 90)))])
        pictures = mixed(tmp_path)
        single = [client.segment(one, examples=[example()]) for one in pictures if isinstance(one, Image.Image)]
        items = [item async for item in other.segment_batch(pictures, examples=[example()], images_per_call=4)]
        check_mixed(items, single)


@pytest.mark.anyio
async def test_the_asynchronous_client_keeps_prompts(server: RunningServer) -> None:
    async with AsyncClient(server.url) as client:
        prompts = [await client.prompts.register([example(40 + index)]) for index in range(3)]
        try:
            listed = {prompt.id async for prompt in client.prompts.list(1)}
            assert listed >= {prompt.id for prompt in prompts}
            assert (await client.prompts.rename(prompts[0], "first")).name == "first"
            assert await client.prompts.get("first") == await client.prompts.get(prompts[0].id)
            assert (await client.prompts.preview(prompts[0])).to_image().format == "PNG"
        finally:
            for prompt in prompts:
                await client.prompts.delete(prompt)


@pytest.mark.anyio
async def test_nobody_there_is_said_by_both_clients() -> None:
    with (
        Client("http://127.0.0.1:1", limit_s=0.2) as blocking,
        pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:1"),
    ):
        blocking.models()
    async with AsyncClient("http://127.0.0.1:1", limit_s=0.2) as client:
        with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:1"):
            await client.models()


def test_a_damaged_prompt_is_listed_as_one(tiny_folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "prompts"
    with running_server(tmp_path / "log", checkpoint=tiny_folder, prompts=store) as server:
        server.wait_until_ready()
        with Client(server.url) as client:
            prompt = client.prompts.register([example()])
            (archive,) = store.rglob(f"{prompt.id}*")
            archive.write_bytes(archive.read_bytes()[:-1])
            (listed,) = client.prompts.list()
            assert (listed.id, listed.state, listed.created_at, listed.examples) == (prompt.id, "damaged", None, None)
            shown = subprocess.run(
                [sys.executable, "-c", "import app.cli; app.cli.main()", "prompts", "list", "--url", server.url],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            assert f"{prompt.id}" in shown.stdout
            assert "damaged" in shown.stdout
            client.prompts.delete(prompt)
            assert list(client.prompts.list()) == []
