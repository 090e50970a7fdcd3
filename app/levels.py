"""Grey levels -> which pixels are meant, in loops that numpy has vectors for. Sizes are (height, width)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.uint8]


def above(levels: Levels, threshold: float) -> NDArray[np.bool_]:
    """Which levels, uint8, are above threshold * 255; threshold in [0, 1].

    Above 127.5 is above 127 for whole numbers, and bytes compared with a float would all be converted first.
    """
    return levels > np.uint8(int(threshold * 255))


def kept(where: NDArray[np.bool_], value: Levels | np.uint8) -> Levels:
    """`value`, uint8, where it is kept, and 0 elsewhere: a product, because `np.where` has no vectors for bytes."""
    return where.view(np.uint8) * value
