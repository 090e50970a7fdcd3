"""Several classes, several concepts, both ensembles and tiles through the HTTP door, against the network itself."""

from __future__ import annotations

import json
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from pycocotools import mask as coco

from app.labels import palette
from app.main import create_app
from app.preprocess import stitched
from app.settings import Settings
from model import SegGptForImageSegmentation
from model.checkpoint import load, resolve
from model.colours import colours, decode_colours, normalise
from tests.app.conftest import RunningServer, disc, encoded, picture

LABELS = json.dumps([{"name": "left", "index": 3}, {"name": "right", "index": 9}])
SIZE = (90, 120)


@pytest.fixture(scope="module")
def model(tiny_folder) -> SegGptForImageSegmentation:
    return load(resolve(tiny_folder), dtype=torch.float32).eval()


def halves(left: int, right: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A mask of two classes beside each other, with background around them."""
    index = np.zeros(size, np.uint8)
    index[20:70, 10:55] = left
    index[20:70, 65:110] = right
    return Image.fromarray(index)


def ask(server: RunningServer, *, accept: str = "image/png", files: list | None = None, **fields: str):
    parts = [("image", ("input.png", encoded(picture(1))))]
    parts += files if files is not None else example(halves(3, 9))
    return server.client.post("/v1/segment", files=parts, data=fields, headers={"Accept": accept})


def example(mask: Image.Image, seed: int = 2) -> list:
    return [("prompt_image", ("p.png", encoded(picture(seed)))), ("prompt_mask", ("m.png", encoded(mask)))]


def pixels(response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(BytesIO(response.content)))


def cells(server: RunningServer, *images: Image.Image, resample=Image.Resampling.BICUBIC) -> list[np.ndarray]:
    size = server.client.get("/v1/models").json()["models"][0]["picture_size"]
    return [np.asarray(image.resize((size["width"], size["height"]), resample)) for image in images]


@torch.inference_mode()
def network(model, image: np.ndarray, examples: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
    """Painted RGB of a forward of nothing but these, (3, h, w) in [0, 255]."""
    columns = [[image] * len(examples), *zip(*examples, strict=True)]
    rows = [normalise(torch.from_numpy(np.stack(column)), torch.float32) for column in columns]
    output = model(*rows, embedding_type="instance", group_sizes=[len(examples)], answer_only=True)
    return colours(output.pred_masks)[0]


def grown(small: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    tensor = torch.from_numpy(small.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(tensor, size, mode="nearest")[0, 0].numpy().astype(np.uint8)


def expected_classes(server, model, places: np.ndarray) -> np.ndarray:
    """Class places of the two-class question, by the model's own decoding of its own palette."""
    image, prompt = cells(server, picture(1), picture(2))
    (mask,) = cells(server, Image.fromarray(places), resample=Image.Resampling.NEAREST)
    shown = palette(2)[mask]
    found, _ = decode_colours(network(model, image, [(prompt, shown)]), torch.tensor(palette(2), dtype=torch.float32))
    return found.numpy().astype(np.uint8)


@pytest.mark.parametrize("kind", ["index", "colour"])
def test_several_classes_are_one_forward_and_come_back_by_their_index(server, model, kind: str) -> None:
    mask, labels = halves(3, 9), LABELS
    if kind == "colour":
        table = np.zeros((256, 3), np.uint8)
        table[3], table[9] = (255, 0, 0), (0, 0, 255)
        mask = Image.fromarray(table[np.asarray(mask)])
        labels = json.dumps(
            [{"name": "left", "index": 3, "colour": "#ff0000"}, {"name": "right", "index": 9, "colour": "#0000ff"}]
        )
    answer = ask(server, files=example(mask), mask_kind=kind, labels=labels)
    got = pixels(answer)
    assert Image.open(BytesIO(answer.content)).mode == "P"
    expected = np.array([0, 3, 9], np.uint8)[grown(expected_classes(server, model, np.asarray(halves(1, 2))))]
    assert len(np.unique(expected)) > 1
    assert (got == expected).mean() > 0.99


@pytest.mark.parametrize(("kind", "said"), [("index", "the index 5"), ("colour", "the colour #000005")])
def test_a_class_without_a_label_is_refused_however_few_pixels_it_has(server, kind: str, said: str) -> None:
    mask = halves(3, 9)
    mask.putpixel((1, 1), 5)  # nothing is left of it at the network's size
    if kind == "colour":
        mask = Image.merge("RGB", [Image.new("L", mask.size), Image.new("L", mask.size), mask])
    labels = [{"name": str(value), "index": value, "colour": f"#{value:06x}"} for value in (3, 9)]
    answer = ask(server, files=example(mask), mask_kind=kind, labels=json.dumps(labels))
    assert (answer.status_code, answer.json()["field"]) == (422, "prompt_mask[0]")
    assert f"got {said}; `labels` has" in answer.json()["detail"]


def test_the_overlay_of_the_only_class_is_the_same_by_its_name(server) -> None:
    plain, named = (ask(server, files=example(disc()), output="overlay", **by) for by in ({}, {"label": "object"}))
    assert (pixels(plain) == pixels(named)).all()


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_a_class_that_no_example_shows_is_nowhere(server, upsampling: str) -> None:
    fields = {"mask_kind": "index", "labels": LABELS, "upsampling": upsampling}
    files = example(halves(3, 0))
    index = pixels(ask(server, files=files, **fields))
    assert set(np.unique(index)) == {0, 3}
    body = ask(server, accept="application/json", files=files, **fields).json()
    assert [label["name"] for label in body["labels"]] == ["left", "right"]
    assert [segment["label"] for segment in body["segments"]] == ["left"]
    assert pixels(ask(server, files=files, output="soft", label="right", **fields)).max() == 0
    both = pixels(ask(server, files=files + example(halves(0, 9), 3), **fields))
    assert 9 in both


def test_every_output_of_several_classes_shows_the_same(server) -> None:
    asked = {"mask_kind": "index", "labels": LABELS}
    index = pixels(ask(server, **asked))
    colour = pixels(ask(server, output="colour", **asked))
    table = np.zeros((256, 3), np.uint8)
    body = ask(server, accept="application/json", **asked).json()
    for label in body["labels"]:
        table[label["index"]] = list(bytes.fromhex(label["colour"][1:]))
    assert (colour == table[index]).all()
    assert (pixels(ask(server, output="mask", **asked)) == np.where(index > 0, 255, 0)).all()
    assert (pixels(ask(server, output="mask", label="right", **asked)) == np.where(index == 9, 255, 0)).all()
    soft = pixels(ask(server, output="soft", label="right", **asked))
    assert (soft[index == 9] >= 127).all()
    overlay = pixels(ask(server, output="overlay", **asked))
    assert overlay.shape[1:] == (SIZE[1], 3)
    areas = {segment["index"]: segment["area"] for segment in body["segments"]}
    assert areas == {value: int((index == value).sum()) for value in np.unique(index) if value}


def test_smooth_edges_are_the_networks_answer_enlarged_by_bilinear(server, model) -> None:
    soft, nearest = (
        pixels(ask(server, files=example(disc()), output="soft", upsampling=how)) for how in ("bilinear", "nearest")
    )
    image, prompt = cells(server, picture(1), picture(2))
    (mask,) = cells(server, disc(), resample=Image.Resampling.NEAREST)
    grey = network(model, image, [(prompt, np.repeat(mask[..., None], 3, axis=2))]).mean(0)
    wanted = torch.nn.functional.interpolate(grey[None, None], SIZE, mode="bilinear")[0, 0].numpy()
    assert np.abs(soft - wanted).max() <= 2  # the worker's whole levels, and those of the larger picture
    assert np.abs(nearest - wanted).max() > 10


@pytest.mark.parametrize("fields", [{}, {"mask_kind": "index", "labels": LABELS}, {"tile": "64x64"}])
def test_every_smooth_output_shows_the_same_pixels(server, fields: dict[str, str]) -> None:
    files = example(halves(3, 9)) if fields.get("labels") else example(disc())
    fields = {**fields, "upsampling": "bilinear"}
    index = pixels(ask(server, files=files, output="index", **fields))
    body = ask(server, accept="application/json", files=files, tolerance="0", **fields).json()
    assert body["segments"]
    for segment in body["segments"]:
        area = coco.decode(segment["rle"]).astype(bool)
        assert (area == (index == segment["index"])).all()
        assert segment["area"] == area.sum()
    parts = ask(server, accept="application/json", files=files, instances="true", **fields).json()["segments"]
    assert sum(part["area"] for part in parts) == (index > 0).sum()
    if not fields.get("labels"):
        mask, soft = (pixels(ask(server, files=files, output=output, **fields)) for output in ("mask", "soft"))
        assert ((mask > 0) == (index > 0)).all()
        assert ((mask > 0) == (soft > 127)).all()
        shown = pixels(ask(server, files=files, output="overlay", **fields))
        assert (shown[mask > 0] == np.asarray(picture(1))[mask > 0]).all()


def test_the_spatial_ensemble_sees_its_examples_as_the_tiles_of_one_picture(server, model) -> None:
    files = example(disc(), 2) + example(disc(centre=(0.3, 0.6)), 3)
    got = pixels(ask(server, files=files, ensemble="spatial", output="soft"))
    image, one, two = cells(server, picture(1), picture(2), picture(3))
    masks = [
        np.repeat(cell[..., None], 3, axis=2)
        for cell in cells(server, disc(), disc(centre=(0.3, 0.6)), resample=Image.Resampling.NEAREST)
    ]
    together = (stitched([one, two], are_masks=False), stitched(masks, are_masks=True))
    grey = network(model, image, [together]).mean(dim=0).numpy()
    assert np.abs(got.astype(float) - grown(np.ceil(grey - 0.5))).max() <= 1
    feature = pixels(ask(server, files=files, ensemble="feature", output="soft"))
    assert (feature != got).any()


def test_tiles_show_the_network_more_of_a_large_picture(server) -> None:
    large = picture(5, (400, 500))
    files = [*example(disc())]

    def answer(**fields: str):
        parts = [("image", ("large.png", encoded(large))), *files]
        return server.client.post("/v1/segment", files=parts, data={"output": "soft", **fields})

    plain, tiled = answer(), answer(tile="auto")
    assert pixels(plain).shape == pixels(tiled).shape == (400, 500)
    assert "tiles" not in plain.headers["server-timing"]
    done, of = tiled.headers["server-timing"].partition('tiles;desc="')[2].partition('"')[0].split(" of ")
    assert done == of
    assert int(of) > 20
    assert len(np.unique(pixels(tiled))) > len(np.unique(pixels(plain)))
    # A tile as large as the picture is the picture.
    assert (pixels(answer(tile="500x400")) == pixels(plain)).all()


@pytest.mark.parametrize(
    ("fields", "slug"),
    [
        ({"tile": "20"}, "invalid-request"),
        ({"tile": "3x3"}, "invalid-request"),
        ({"mask_kind": "index"}, "invalid-labels"),
        ({"mask_kind": "index", "labels": '["only"]'}, "invalid-labels"),
        ({"mask_kind": "index", "labels": LABELS, "output": "soft"}, "invalid-request"),
        ({"mask_kind": "index", "labels": LABELS, "label": "middle"}, "invalid-request"),
        ({"mask_kind": "index", "labels": LABELS, "min_area": "5"}, "invalid-request"),
        ({"mask_kind": "index", "labels": LABELS, "instances": "true", "output": "mask"}, "invalid-request"),
        ({"prompt": "no-such-prompt"}, "prompt-not-found"),
        ({"ensemble": "average"}, "invalid-request"),
        ({"upsampling": "cubic"}, "invalid-request"),
    ],
)
def test_what_cannot_be_answered_is_refused(server, fields: dict[str, str], slug: str) -> None:
    answer = ask(server, **fields)
    assert answer.json()["type"].endswith(f":{slug}"), answer.text


def test_the_accept_header_chooses_the_format(server) -> None:
    files = example(disc())
    assert ask(server, accept="*/*", files=files).headers["content-type"] == "image/png"
    assert ask(server, accept="application/*", files=files).headers["content-type"] == "application/json"
    liked = ask(server, accept="image/png;q=0.5, application/json", files=files)
    assert (liked.headers["content-type"], liked.headers["vary"]) == ("application/json", "Accept")
    refused = ask(server, accept="text/html, image/png;q=0", files=files)
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (406, "not-acceptable")


def test_connected_parts_are_told_apart(server) -> None:
    body = ask(server, accept="application/json", files=example(disc()), instances="true", min_area="4").json()
    numbers = [segment["instance"] for segment in body["segments"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all(segment["area"] >= 4 for segment in body["segments"])
    shown = pixels(ask(server, files=example(disc()), instances="true", min_area="4"))
    assert {number: int((shown == number).sum()) for number in np.unique(shown) if number} == {
        segment["instance"]: segment["area"] for segment in body["segments"]
    }


def test_fields_that_a_form_leaves_empty_mean_nothing(server) -> None:
    empty = dict.fromkeys(("prompt", "labels", "label", "tile", "threshold", "output", "mask_kind"), "")
    files = example(disc())
    assert (pixels(ask(server, files=files, **empty)) == pixels(ask(server, files=files))).all()


def test_the_documentation_page_fills_in_nothing_that_changes_the_answer() -> None:
    fields = create_app(Settings()).openapi()["components"]["schemas"]["Body_segment"]["properties"]
    assert {name: fields[name]["examples"][0] for name in ("prompt", "labels", "label", "tile")} == {
        "prompt": [], "labels": "", "label": "", "tile": ""
    }  # fmt: skip


def test_tiles_are_those_of_the_upright_picture_also_when_only_its_end_tells_how_it_lies(server) -> None:
    upright = picture(5, (500, 400))
    lying = encoded(upright.transpose(Image.Transpose.ROTATE_90))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content
    late = lying[:-12] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + lying[-12:]  # before IEND
    for tile, tiles in (
        ("400x500", 1),
        ("500x400", 2),
    ):  # one tile upright, several as it lies; and the other way round
        answers = [
            server.client.post(
                "/v1/segment", files=[("image", ("i.png", image)), *example(disc())], data={"tile": tile}
            )
            for image in (encoded(upright), late)
        ]
        assert (pixels(answers[0]) == pixels(answers[1])).all()
        for answer in answers:
            assert ("tiles;desc" in answer.headers["server-timing"]) == (tiles > 1)
