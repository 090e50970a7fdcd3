"""Which pixel of the network's small answer each pixel of a full-size picture shows. Sizes are (height, width).

Everything full-size is made by this one rule, so masks, run lengths, areas and outlines agree pixel by pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
