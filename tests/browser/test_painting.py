"""Painting masks in a real Chromium: mouse, touch and keyboard, undo, brush sizes, dropped files."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.app.conftest import RunningServer
from tests.browser.conftest import Watched
from tests.browser.hands import MONKEY, add_example, add_inputs, at, covered, outline, segment

pytestmark = pytest.mark.browser


def test_everything_that_is_painted_can_be_undone_and_done_again(watched: Watched) -> None:
    page = watched.page
    add_example(page)
    canvas = page.locator("#paint")
    outline(page, MONKEY)
    shares = [0.0, covered(canvas)]
    page.click("#fill-outlines")
    shares.append(covered(canvas))
    page.keyboard.press("e")
    page.mouse.click(*at(page, 0.35, 0.56))
    shares.append(covered(canvas))
    assert shares[2] > shares[3] > shares[1] > 0
    page.click("#clear")
    assert covered(canvas) == 0
    for share in reversed(shares):
        page.keyboard.press("Control+z")
        assert covered(canvas) == share
    expect(page.locator("#undo")).to_be_disabled()
    for share in shares[1:]:
        page.keyboard.press("Control+Shift+z")
        assert covered(canvas) == share


def test_the_brackets_and_the_slider_change_the_brush(watched: Watched) -> None:
    page = watched.page
    add_example(page)
    canvas = page.locator("#paint")
    sizes = {}
    for size in (10, 40):
        page.locator("#size").fill(str(size))
        page.mouse.click(*at(page, 0.5, 0.5))
        sizes[size] = covered(canvas)
        page.keyboard.press("Control+z")
    assert sizes[40] / sizes[10] == pytest.approx(16, rel=0.15)
    page.keyboard.press("]")
    page.keyboard.press("]")
    assert int(page.locator("#size-text").inner_text()) > 40
    page.keyboard.press("[")
    page.keyboard.press("[")
    page.keyboard.press("[")
    assert int(page.locator("#size-text").inner_text()) < 40


def test_a_mask_can_be_painted_and_asked_about_with_the_keyboard_alone(watched: Watched) -> None:
    page = watched.page
    add_example(page)
    add_inputs(page, "image.jpg")
    page.evaluate("document.activeElement.blur()")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "stage":
            break
    else:
        pytest.fail("the stage cannot be reached with Tab")
    assert page.locator("#stage").evaluate("(stage) => getComputedStyle(stage).outlineStyle") == "solid"
    ring = page.locator(".ring")
    expect(ring).to_be_visible()
    before = ring.bounding_box()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    after = ring.bounding_box()
    assert before is not None
    assert after is not None
    assert before["x"] - after["x"] == pytest.approx(5 * 14, abs=1)
    expect(page.locator("#status")).to_have_text("36 % from the left, 50 % from the top, not painted.")
    canvas = page.locator("#paint")
    assert covered(canvas) == 0
    page.keyboard.press("Space")
    dot = covered(canvas)
    assert dot > 0
    page.keyboard.down("Space")
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    page.keyboard.up("Space")
    assert covered(canvas) > 2 * dot
    page.keyboard.press("ArrowUp")  # Space is up: the brush moves and paints nothing
    page.keyboard.press("Control+z")
    assert covered(canvas) == dot
    page.keyboard.press("e")
    page.keyboard.press("Control+Shift+z")
    segment(page)
    assert page.locator(".result").get_attribute("data-state") == "done"


def test_dropped_files_go_where_they_are_dropped(watched: Watched) -> None:
    page = watched.page
    drop = """(box) => {
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 32;
      return new Promise((resolve) => canvas.toBlob((blob) => {
        const data = new DataTransfer();
        data.items.add(new File([blob], "dropped.png", { type: "image/png" }));
        box.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        resolve();
      }));
    }"""
    page.locator("#find").evaluate(drop)
    expect(page.locator(".result")).to_have_count(1)
    expect(page.locator("#examples .badge")).to_have_count(0)
    page.locator("#show").evaluate(drop)
    expect(page.locator("#examples .badge")).to_have_count(1)
    expect(page.locator(".result")).to_have_count(1)


def test_two_fingers_zoom_and_paint_nothing(browser: Browser, service: RunningServer) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = Watched(context, service.url).page
    add_example(page)
    canvas = page.locator("#paint")
    canvas.scroll_into_view_if_needed()
    fingers = context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(places)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    left, right, far = at(page, 0.4, 0.5), at(page, 0.6, 0.5), at(page, 0.9, 0.5)
    width = page.locator(".sheet").bounding_box()
    touch("touchStart", left)
    touch("touchMove", (left[0] + 5, left[1]))
    assert covered(canvas) > 0
    touch("touchStart", left, right)
    touch("touchMove", left, far)
    touch("touchEnd")
    zoomed = page.locator(".sheet").bounding_box()
    assert covered(canvas) == 0
    assert width is not None
    assert zoomed is not None
    assert zoomed["width"] > 1.5 * width["width"]
    touch("touchStart", left)
    touch("touchMove", right)
    touch("touchEnd")
    assert covered(canvas) > 0
    context.close()
