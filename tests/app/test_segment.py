"""What `POST /v1/segment` answers, against transformers run on the same pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegGptForImageSegmentation as ReferenceModel
from transformers.models.seggpt.image_processing_pil_seggpt import SegGptImageProcessorPil

from tests.app.conftest import RunningServer, decoded, disc, encoded, form, picture
from tests.model.test_ensemble import mend

STAGES = ("decode", "preprocess", "queue", "forward", "postprocess", "encode")


@pytest.fixture(scope="module")
def reference(tiny_folder: Path) -> Any:
    """transformers' whole way, its ensemble mended, from pictures to a mask at the input image's size."""
    model = mend(ReferenceModel.from_pretrained(tiny_folder).eval())
    processor = SegGptImageProcessorPil(size={"height": 48, "width": 64})

    def segment(
        image: Image.Image, examples: Sequence[tuple[Image.Image, Image.Image]], embedding_type: str = "instance"
    ) -> np.ndarray:
        inputs = processor(
            images=[image] * len(examples),
            prompt_images=[prompt for prompt, _ in examples],
            prompt_masks=[np.asarray(mask) // 255 for _, mask in examples],
            num_labels=1,
            return_tensors="pt",
        )
        with torch.inference_mode():
            outputs = model(**inputs, embedding_type=embedding_type, feature_ensemble=len(examples) > 1)
        sizes = [(image.height, image.width)] * len(examples)
        classes = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes, num_labels=1)
        return classes[0].numpy().astype(np.uint8) * 255

    return segment


def agreement(got: np.ndarray, wanted: np.ndarray) -> float:
    assert got.shape == wanted.shape
    assert 0.02 < (wanted > 0).mean() < 0.98, "a constant mask would show nothing"
    return float((got == wanted).mean())


@pytest.mark.parametrize("embedding_type", ["instance", "semantic"])
@pytest.mark.parametrize("size", [(90, 120), (61, 47), (333, 500)])
def test_the_mask_is_the_one_of_transformers(
    server: RunningServer, reference: Any, size: tuple[int, int], embedding_type: str
) -> None:
    files = form(3, size=size)
    answer = server.client.post("/v1/segment", files=files, data={"embedding_type": embedding_type})
    wanted = reference(picture(3, size), [(picture(1051), disc(centre=(0.3, 0.5)))], embedding_type)
    assert agreement(decoded(answer), wanted) > 0.9995


def test_instance_is_the_default_embedding_type(server: RunningServer) -> None:
    plain = server.client.post("/v1/segment", files=form(3)).content
    assert server.client.post("/v1/segment", files=form(3), data={"embedding_type": "instance"}).content == plain
    assert server.client.post("/v1/segment", files=form(3), data={"embedding_type": "semantic"}).content != plain


def test_a_mask_is_the_soft_answer_cut_at_the_threshold(server: RunningServer) -> None:
    soft = decoded(server.client.post("/v1/segment", files=form(4), data={"output": "soft"}))
    assert soft.dtype == np.uint8
    assert len(np.unique(soft)) > 20
    for threshold in (0, 0.3, 0.5, 0.77, 1):
        mask = decoded(server.client.post("/v1/segment", files=form(4), data={"threshold": threshold}))
        assert np.array_equal(mask, np.where(soft > threshold * 255, 255, 0))


def test_an_overlay_darkens_all_but_the_mask(server: RunningServer) -> None:
    mask = decoded(server.client.post("/v1/segment", files=form(5)))
    overlay = decoded(server.client.post("/v1/segment", files=form(5), data={"output": "overlay"}))
    image = np.asarray(picture(5))
    assert np.array_equal(overlay[mask == 255], image[mask == 255])
    assert np.array_equal(overlay[mask == 0], (image[mask == 0] * 0.4).astype(np.uint8))


@pytest.mark.parametrize("examples", [2, 3])
def test_several_examples_are_the_ensemble_of_the_original(
    server: RunningServer, reference: Any, examples: int
) -> None:
    answer = server.client.post("/v1/segment", files=form(6, examples=examples))
    shown = [(picture(1000 + 17 * 6 + index), disc(centre=(0.3 + 0.1 * index, 0.5))) for index in range(examples)]
    assert agreement(decoded(answer), reference(picture(6), shown)) > 0.9995


def test_the_same_example_twice_is_that_example(server: RunningServer) -> None:
    once = form(7)
    soft = {"output": "soft"}
    single = decoded(server.client.post("/v1/segment", files=once, data=soft)).astype(int)
    double = decoded(server.client.post("/v1/segment", files=once + once[1:], data=soft)).astype(int)
    assert np.abs(single - double).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_every_file_type_is_read(server: RunningServer, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    files = form(8)
    files[0] = ("image", ("image", encoded(picture(8), kind, **options), "application/octet-stream"))
    got = decoded(server.client.post("/v1/segment", files=files))
    wanted = decoded(server.client.post("/v1/segment", files=form(8)))
    assert agreement(got, wanted) > (0.97 if kind == "JPEG" else 0.99999)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_is_read(server: RunningServer, mode: str) -> None:
    grey = picture(9).convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = grey.convert("RGB").convert(mode) if mode in ("P", "CMYK") else grey.convert(mode)
    files = form(9)
    files[0] = ("image", ("image", encoded(image, "TIFF" if mode == "CMYK" else "PNG"), "image/png"))
    got = decoded(server.client.post("/v1/segment", files=files))
    if mode == "1":
        assert got.shape == (90, 120)
        return
    files[0] = ("image", ("image", encoded(grey), "image/png"))
    assert agreement(got, decoded(server.client.post("/v1/segment", files=files))) > 0.97


@pytest.mark.parametrize("kind", ["0/1", "boolean", "palette", "RGB", "16-bit", "RGBA"])
def test_every_kind_of_mask_means_the_same(server: RunningServer, kind: str) -> None:
    grey = disc(centre=(0.3, 0.5))
    zero_one = np.asarray(grey) // 255
    if kind == "palette":
        image = Image.fromarray(zero_one).convert("P")
        image.putpalette([0, 0, 0, 0, 0, 128])
    elif kind == "RGB":
        image = Image.fromarray(zero_one[..., None] * np.array([0, 64, 0], np.uint8))
    elif kind == "RGBA":
        image = Image.new("RGBA", grey.size, "white")
        image.putalpha(grey)
    else:
        image = {
            "0/1": Image.fromarray(zero_one),
            "boolean": grey.convert("1"),
            "16-bit": Image.fromarray(zero_one.astype(np.uint16) * 65535),
        }[kind]
    files = form(10)
    wanted = server.client.post("/v1/segment", files=files).content
    files[2] = ("prompt_mask", ("mask.png", encoded(image), "image/png"))
    assert server.client.post("/v1/segment", files=files).content == wanted


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_turns_image_prompt_and_mask_alike(server: RunningServer, orientation: int) -> None:
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = [picture(11), picture(1187), disc(centre=(0.3, 0.4)).convert("L")]
    turned = [encoded(image.transpose(back), exif=exif) for image in upright]
    names = ("image", "prompt_image", "prompt_mask")
    got = server.client.post("/v1/segment", files=dict(zip(names, turned, strict=True)))
    wanted = server.client.post(
        "/v1/segment", files=dict(zip(names, [encoded(image) for image in upright], strict=True))
    )
    assert np.array_equal(decoded(got), decoded(wanted))


def test_a_mask_may_be_a_smaller_version_of_its_image(server: RunningServer) -> None:
    files = form(12)
    wanted = decoded(server.client.post("/v1/segment", files=files))
    files[2] = ("prompt_mask", ("mask.png", encoded(disc((45, 60), (0.3, 0.5))), "image/png"))
    assert agreement(decoded(server.client.post("/v1/segment", files=files)), wanted) > 0.9


def test_an_answer_carries_no_metadata(server: RunningServer) -> None:
    exif = Image.Exif()
    exif[0x010E] = "who took it"
    files = form(13)
    files[0] = ("image", ("image.jpg", encoded(picture(13), "JPEG", exif=exif), "image/jpeg"))
    for output in ("mask", "soft", "overlay"):
        answer = server.client.post("/v1/segment", files=files, data={"output": output})
        assert b"who took it" not in answer.content
        assert Image.open(BytesIO(answer.content)).info == {}


def test_server_timing_names_the_six_stages(server: RunningServer) -> None:
    answer = server.client.post("/v1/segment", files=form(14))
    entries = dict(entry.split(";dur=") for entry in answer.headers["server-timing"].split(", "))
    assert list(entries) == [*STAGES, "total"]
    assert all(float(entries[stage]) > 0 for stage in ("decode", "preprocess", "forward", "encode"))
    assert sum(float(entries[stage]) for stage in STAGES) <= float(entries["total"])


def test_a_request_id_is_kept_and_a_bad_one_replaced(server: RunningServer) -> None:
    assert (
        server.client.get("/health/live", headers={"X-Request-ID": "job-7:a.b"}).headers["x-request-id"] == "job-7:a.b"
    )
    fresh = server.client.get("/health/live", headers={"X-Request-ID": 'x" injected'}).headers["x-request-id"]
    assert len(fresh) == 32
    problem = server.client.post("/v1/segment", headers={"X-Request-ID": "mine"})
    assert problem.headers["x-request-id"] == "mine"
    assert problem.json()["instance"].endswith(":mine")
    assert [entry.split(";")[0] for entry in problem.headers["server-timing"].split(", ")] == [*STAGES, "total"]


def test_the_log_has_one_json_line_per_request_with_its_stages(server: RunningServer) -> None:
    server.client.post("/v1/segment", files=form(15), headers={"X-Request-ID": "look-for-me"})
    while "look-for-me" not in server.log.read_text():  # it is written when the answer is on its way already
        time.sleep(0.01)
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (line,) = [line for line in lines if line["request_id"] == "look-for-me"]
    assert line["status"] == 200
    assert line["path"] == "/v1/segment"
    assert {f"{stage}_ms" for stage in STAGES} <= line.keys()


def test_a_request_without_a_connection_kept_open_is_answered(server: RunningServer) -> None:
    answer = httpx.post(f"{server.url}/v1/segment", files=form(16), headers={"Connection": "close"}, timeout=60)
    assert decoded(answer).shape == (90, 120)
