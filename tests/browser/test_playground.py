"""The playground in a real Chromium: what a person asks for is what the service is asked, and what is shown."""

from __future__ import annotations

import shlex
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Route, expect

from tests.app.conftest import RunningServer
from tests.browser.conftest import Watched
from tests.browser.hands import (
    EXAMPLES,
    MONKEY,
    add_example,
    add_inputs,
    covered,
    iou,
    mask_of,
    outline,
    paint_monkey,
    segment,
    truth,
)

pytestmark = pytest.mark.browser


def test_a_painted_thing_is_found_kept_and_found_again_in_another_picture(
    watched: Watched, service: RunningServer, tmp_path: Path
) -> None:
    page = watched.page
    expect(page.locator("#segment")).to_be_disabled()
    paint_monkey(page)
    assert 0.06 < covered(page.locator("#paint")) < 0.16
    add_inputs(page, "image.jpg")
    segment(page)
    overlay = page.locator(".result canvas")
    assert covered(overlay) > 0.02
    assert iou(mask_of(page, "image.jpg"), truth("image_mask.png")) > 0.6

    page.fill("#prompt-name", "monkey")
    page.click("#keep")
    expect(page.locator("#status")).to_contain_text("Kept as “monkey”")
    (prompt,) = service.client.get("/v1/prompts").json()["prompts"]
    assert prompt["name"] == "monkey"

    page.reload()  # nothing of what was painted is left
    flipped = tmp_path / "flipped.png"
    Image.open(EXAMPLES / "image.jpg").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(flipped)
    page.get_by_text("Saved").click()
    page.get_by_role("radio", name="monkey").check()
    preview = page.locator(".prompt img")
    expect(preview).to_be_visible()
    assert preview.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    page.set_input_files("#input-file", flipped)
    expect(page.locator(".result")).to_have_count(1)
    segment(page)
    (form,) = watched.sent()
    assert form["prompt"] == [prompt["id"]]
    assert "prompt_image" not in form
    assert iou(mask_of(page, "flipped.png"), truth("image_mask.png")[:, ::-1]) > 0.4

    page.get_by_label("Rename monkey").click()
    page.get_by_label("Name (empty for none)").fill("ape")
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name="ape")).to_be_checked()
    assert service.client.get("/v1/prompts/ape").json()["id"] == prompt["id"]
    page.get_by_label("Delete ape").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".prompt")).to_have_count(0)
    assert service.client.get("/v1/prompts").json()["prompts"] == []


def test_the_threshold_acts_at_once_and_as_the_service_would(watched: Watched, service: RunningServer) -> None:
    page = watched.page
    page.click(".demo")
    expect(page.locator("#painted")).to_have_text("10 % marked")
    expect(page.locator(".result")).to_have_count(1)
    segment(page)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    overlay = page.locator(".result canvas")
    shares = {}
    for threshold in (0.2, 0.5, 0.8):
        page.locator("#threshold").fill(str(threshold))
        page.evaluate("() => new Promise(requestAnimationFrame)")
        shares[threshold] = covered(overlay)
        files = {
            "image": (EXAMPLES / "image.jpg").read_bytes(),
            "prompt_image": (EXAMPLES / "prompt_image.jpg").read_bytes(),
            "prompt_mask": (EXAMPLES / "prompt_mask.png").read_bytes(),
        }
        fields = {"threshold": str(threshold), "upsampling": "bilinear"}
        answer = service.client.post("/v1/segment", files=files, data=fields)
        wanted = np.asarray(Image.open(BytesIO(answer.content))) > 127
        assert np.array_equal(mask_of(page, "mountain.jpg"), wanted)
        assert shares[threshold] == pytest.approx(wanted.mean(), abs=1e-6)
    assert shares[0.2] > shares[0.5] > shares[0.8] > 0
    assert not [url for url in asked if "/v1/" in url]
    page.locator("#opacity").fill("0")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    assert 0 < covered(overlay) < shares[0.8]  # the outline stays


def test_the_same_example_is_sent_with_the_same_bytes(watched: Watched) -> None:
    page = watched.page
    paint_monkey(page)
    add_inputs(page, "image.jpg")
    segment(page)
    segment(page)
    first, second = watched.sent()
    assert first == second
    page.keyboard.press("Control+z")
    outline(page, MONKEY)
    segment(page)
    assert watched.sent()[2]["prompt_mask"] != first["prompt_mask"]
    assert watched.sent()[2]["prompt_image"] == first["prompt_image"]


def test_several_examples_and_several_pictures_go_through_at_once(watched: Watched) -> None:
    page = watched.page
    paint_monkey(page)
    page.keyboard.press("b")
    add_example(page, "image.jpg")
    outline(page, [(0.6, 0.5), (0.9, 0.5), (0.9, 0.7), (0.6, 0.7)])
    page.click("#fill-outlines")
    add_inputs(page, "image.jpg", "airplane_image.jpg", "prompt_image.jpg")
    segment(page)
    forms = watched.sent()
    assert len({form["image"][0] for form in forms}) == len(forms) == 3
    assert all(len(set(form["prompt_image"])) == len(set(form["prompt_mask"])) == 2 for form in forms)
    expect(page.locator(".result[data-state=done]")).to_have_count(3)


def test_what_goes_wrong_is_said_next_to_its_picture(watched: Watched) -> None:
    page = watched.page
    watched.expected.append("/v1/segment")
    paint_monkey(page)
    add_inputs(page, "image.jpg")
    tall = BytesIO()
    Image.new("L", (1, 17_000)).save(tall, "PNG")  # more than the service takes, and a browser shows it
    page.set_input_files("#input-file", {"name": "tall.png", "mimeType": "image/png", "buffer": tall.getvalue()})
    expect(page.locator(".result")).to_have_count(2)
    page.click("#segment")
    expect(page.locator("#status")).to_contain_text("1 done, 1 failed")
    expect(page.locator("[aria-label='tall.png'] [role=alert]")).to_contain_text("17000")
    expect(page.locator("[aria-label='image.jpg'] [role=alert]")).to_be_empty()
    page.set_input_files("#input-file", {"name": "no.png", "mimeType": "image/png", "buffer": b"no"})
    expect(page.locator("#status")).to_have_text("no.png is not a picture that this browser can show")


def test_a_busy_service_is_asked_again_after_the_time_it_names(watched: Watched) -> None:
    page = watched.page
    watched.expected.append("/v1/segment")
    paint_monkey(page)
    add_inputs(page, "image.jpg")
    answers = iter([429, 503])

    def busy(route: Route) -> None:
        status = next(answers, None)
        if status is None:
            route.continue_()
        else:
            headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
            route.fulfill(status=status, headers=headers, body='{"title": "Busy", "detail": "too many wait"}')

    page.route("**/v1/segment", busy)
    start = page.evaluate("performance.now()")
    page.click("#segment")
    expect(page.locator(".result [data-part=note]")).to_contain_text("trying again in 1 s")
    expect(page.locator("#status")).to_have_text("Done.")
    assert page.evaluate("performance.now()") - start > 2000
    assert covered(page.locator(".result canvas")) > 0


def test_an_answer_to_an_earlier_mask_says_so(watched: Watched) -> None:
    page = watched.page
    paint_monkey(page)
    add_inputs(page, "image.jpg")
    segment(page)
    expect(page.locator(".result.outdated")).to_have_count(0)
    page.keyboard.press("Control+z")
    expect(page.locator(".result.outdated")).to_have_count(1)
    page.keyboard.press("Control+Shift+z")
    segment(page)
    expect(page.locator(".result.outdated")).to_have_count(0)


def test_the_curl_line_does_the_same(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    paint_monkey(page)
    add_inputs(page, "image.jpg")
    segment(page)
    page.locator("#threshold").fill("0.4")
    with page.expect_download() as download:
        page.click("#save-mask")
    page.click("#copy")
    line = page.evaluate("navigator.clipboard.readText()")
    download.value.save_as(tmp_path / download.value.suggested_filename)
    for name in ("image.jpg", "prompt_image.jpg"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    subprocess.run([*shlex.split(line.replace("\\\n", " ")), "--silent", "--fail"], cwd=tmp_path, check=True)
    answer = np.asarray(Image.open(tmp_path / "image_mask.png")) > 127
    assert np.array_equal(answer, mask_of(page, "image.jpg"))


@pytest.mark.parametrize("size", [(1280, 900), (390, 844), (320, 568)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window(
    context: BrowserContext, service: RunningServer, size: tuple[int, int], scheme: str
) -> None:
    page = Watched(context, service.url).page
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.click(".demo")
    expect(page.locator(".result")).to_have_count(1)
    segment(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    expect(page.locator("#segment")).to_be_in_viewport()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(17, 18, 20)") == (scheme == "dark")


def test_every_control_has_a_name(watched: Watched) -> None:
    page = watched.page
    page.click(".demo")
    expect(page.locator(".result")).to_have_count(1)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button:not(dialog *), input:not([type=file]), select")]
          .filter((element) => !(element.getAttribute("aria-label") || element.textContent.trim() ||
            element.labels?.length))
          .map((element) => element.outerHTML)"""
    )
    assert nameless == []


def test_a_prompt_with_a_long_name_fits_a_phone(watched: Watched, service: RunningServer) -> None:
    page = watched.page
    page.set_viewport_size({"width": 320, "height": 568})
    page.click(".demo")
    expect(page.locator("#keep")).to_be_enabled()
    page.fill("#prompt-name", "a name as long as names may be " * 3)
    page.click("#keep")
    expect(page.locator("#status")).to_contain_text("Kept as")
    page.get_by_text("Saved").first.click()
    card, item = page.locator("#show").bounding_box(), page.locator(".prompt").bounding_box()
    assert card is not None
    assert item is not None
    assert item["x"] + item["width"] < card["x"] + card["width"]
    (prompt,) = service.client.get("/v1/prompts").json()["prompts"]
    service.client.delete(f"/v1/prompts/{prompt['id']}")
