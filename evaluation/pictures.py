"""Pictures of a report: small, with what is marked outlined, as data URIs."""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.questions import Area

HEIGHT = 180  # pixels on the page
MOST_WIDTH = 300
SCALE = 2  # sharper on dense screens
GREEN, ORANGE = (46, 204, 113), (255, 122, 26)
TINT = 0.35
JPEG_QUALITY = 82


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) on the page, aspect kept."""
    factor = min(HEIGHT / image.height, MOST_WIDTH / image.width)
    return max(1, round(image.height * factor)), max(1, round(image.width * factor))


def outlined(image: Image.Image, area: Area | None = None, colour: tuple[int, int, int] = GREEN) -> str:
    """A JPEG data URI of a picture, its marked area tinted and outlined.

    Args:
        image: RGB.
        area: (H, W) bool of its size; None marks nothing.
        colour: RGB.
    """
    height, width = (SCALE * side for side in shown_size(image))
    pixels = np.array(image.resize((width, height), Image.Resampling.LANCZOS))
    if area is not None:
        mask = np.asarray(Image.fromarray(area).resize((width, height), Image.Resampling.NEAREST))
        pixels[mask] = ((1 - TINT) * pixels[mask] + TINT * np.array(colour)).astype(np.uint8)
        _draw_outline(pixels, mask, colour)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _draw_outline(pixels: NDArray[np.uint8], mask: Area, colour: tuple[int, int, int]) -> None:
    """A dark line under a coloured one, legible on any ground."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pixels, contours, -1, (20, 20, 20), 5, cv2.LINE_AA)
    cv2.drawContours(pixels, contours, -1, colour, 3, cv2.LINE_AA)
