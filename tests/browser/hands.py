"""What a person does on the playground, and what can be seen there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.app.conftest import ROOT

EXAMPLES = ROOT / "examples"
MONKEY = [(0.19, 0.5), (0.25, 0.42), (0.38, 0.4), (0.47, 0.48), (0.5, 0.62), (0.44, 0.73), (0.3, 0.73), (0.21, 0.62)]
"""Around the monkey of examples/prompt_image.jpg, in shares of its width and height."""
COUNT = """(canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let at = 3; at < data.length; at += 4) if (data[at]) count += 1;
  return count / (canvas.width * canvas.height);
}"""


def covered(canvas: Locator) -> float:
    """The share of a canvas that is not transparent."""
    share: float = canvas.evaluate(COUNT)
    return share


def add_example(page: Page, name: str = "prompt_image.jpg") -> None:
    before = page.locator("#examples .badge").count()
    page.set_input_files("#example-file", EXAMPLES / name)
    expect(page.locator("#examples .badge")).to_have_count(before + 1)


def add_inputs(page: Page, *names: str) -> None:
    page.set_input_files("#input-file", [EXAMPLES / name for name in names])
    expect(page.locator(f"[aria-label='{names[-1]}'].result")).to_be_visible()


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a place of the picture is, given in shares."""
    box = page.locator("#paint").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def outline(page: Page, places: list[tuple[float, float]]) -> None:
    """Draw a closed line with the mouse."""
    page.mouse.move(*at(page, *places[0]))
    page.mouse.down()
    for place in [*places[1:], places[0]]:
        page.mouse.move(*at(page, *place), steps=5)
    page.mouse.up()


def paint_monkey(page: Page) -> None:
    add_example(page)
    outline(page, MONKEY)
    page.keyboard.press("f")
    page.mouse.click(*at(page, 0.35, 0.56))


def segment(page: Page) -> None:
    page.keyboard.press("Control+Enter")
    expect(page.locator("#segment-text")).to_have_text("Segment")
    expect(page.locator("#status")).to_have_text("Done.")


def mask_of(page: Page, name: str) -> np.ndarray:
    """The mask that the download button gives, (H, W) bool."""
    with page.expect_download() as download:
        page.get_by_label(f"Download the mask of {name}").click()
    assert download.value.suggested_filename == f"{Path(name).stem}_mask.png"
    return np.asarray(Image.open(download.value.path()).convert("L")) > 127


def truth(name: str) -> np.ndarray:
    return np.asarray(Image.open(EXAMPLES / name).convert("L")) > 127


def iou(got: np.ndarray, wanted: np.ndarray) -> float:
    return float((got & wanted).sum() / (got | wanted).sum())
