"""Pictures as users have them -> the bytes of files.

Files and bytes go to the service as they are; what has no bytes yet is encoded without loss, as PNG or, where a pixel
is a number that PNG cannot hold, as TIFF. Sizes are (height, width).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.client.errors import PictureError

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any]
"""A path; a file's bytes; a Pillow image; or an array: (H, W), (H, W, 3) or (H, W, 4) uint8 or bool."""

_PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_TIFF_MODES: Final = frozenset({"I", "F", "I;16B", "I;16L"})
_WITH_ALPHA: Final = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}
_FAST: Final = 1  # PNG's compression: the picture is on its way at once


@dataclass(frozen=True, slots=True)
class File:
    """A picture as it is sent: a file name for messages, and the bytes."""

    name: str
    content: bytes


def to_file(picture: Picture) -> File:
    """Read or encode a picture.

    Raises:
        PictureError: the file cannot be read, or the array is of another shape or type.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return File("picture", bytes(picture))
    if isinstance(picture, str | os.PathLike):
        path = Path(picture)
        try:
            return File(path.name, path.read_bytes())
        except OSError as error:
            raise PictureError(f"{path}: {error.strerror or error}") from error
    if isinstance(picture, np.ndarray):
        picture = _image(picture)
    if not isinstance(picture, Image.Image):
        raise PictureError(f"got a {type(picture).__name__}; allowed are a path, bytes, a Pillow image or an array")
    return _encoded(picture)


def _image(array: NDArray[Any]) -> Image.Image:
    is_grey, is_colour = array.ndim == 2, array.ndim == 3 and array.shape[2] in {3, 4}
    if array.dtype not in {np.dtype(np.uint8), np.dtype(np.bool_)} or not (is_grey or is_colour) or array.size == 0:
        raise PictureError(
            f"got an array of {array.dtype} and shape {array.shape}; "
            "allowed are uint8 or bool of shape (H, W), (H, W, 3) or (H, W, 4)"
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    return Image.fromarray(np.ascontiguousarray(array))


def _encoded(image: Image.Image) -> File:
    buffer = BytesIO()
    try:
        if image.mode in _TIFF_MODES:
            image.save(buffer, "TIFF")
            return File("picture.tif", buffer.getvalue())
        shown = image if image.mode in _PNG_MODES else image.convert(_WITH_ALPHA.get(image.mode, "RGB"))
        shown.save(buffer, "PNG", compress_level=_FAST)
    except (OSError, ValueError) as error:  # an image that is opened and not read yet may be damaged
        raise PictureError(f"the Pillow image cannot be encoded: {error}") from error
    return File("picture.png", buffer.getvalue())
