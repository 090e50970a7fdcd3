"""From the network's small answer to the input image's size. Sizes are (height, width).

Nearest says which pixel of the answer each pixel of a full-size picture shows. Everything full-size is made by this one
rule, so masks, run lengths, areas and outlines agree pixel by pixel. Where smooth edges are asked for, the answer is
enlarged by bilinear before classes are told, and the rule then changes nothing.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

# The codec threads are the parallelism; OpenCV's own would only compete with them.
cv2.setNumThreads(1)

Upsampling = Literal["nearest", "bilinear"]
"""torch's words: the answer's own pixels, as in the reference; or a smooth way from one to the next."""


def source_indices(inner: int, outer: int) -> NDArray[np.intp]:
    """Which of `inner` pixels each of `outer` pixels shows: (outer,), rising; in float32, as torch reckons it."""
    scale = np.float32(inner) / np.float32(outer)
    indices = (np.arange(outer, dtype=np.float32) * scale).astype(np.intp)
    return np.minimum(indices, inner - 1)


def upsample_nearest(grey: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Nearest resize with torch's floor rule (not Pillow's pixel centres), both up and down.

    Args:
        grey: (h, w) uint8.
        size: (H, W) of the result.

    Returns:
        (H, W) uint8, equal to `torch.nn.functional.interpolate(mode="nearest")`.
    """
    rows, columns = (source_indices(inner, outer) for inner, outer in zip(grey.shape, size, strict=True))
    return grey[:, columns][rows]


def upsample_bilinear(grey: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bilinear resize with pixel centres, rounded to the nearest; where it shrinks, the mean of what falls together.

    Args:
        grey: (h, w) uint8.
        size: (H, W) of the result.

    Returns:
        (H, W) uint8; enlarged, equal to `torch.nn.functional.interpolate(mode="bilinear")` but for rounding.
    """
    (height, width), (inner_height, inner_width) = size, grey.shape
    grown = (max(width, inner_width), max(height, inner_height))  # OpenCV's sizes are (width, height)
    smooth = cv2.resize(grey, grown, interpolation=cv2.INTER_LINEAR_EXACT)
    if grown != (width, height):
        smooth = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(smooth, np.uint8)
