"""Pictures and masks in any container - PIL's, arrays, tensors - to arrays of colours.

Arrays of colours are (H, W, 3): uint8, or float32 where what was given has fractions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.colours import MAX_VALUE

Picture = Image.Image | NDArray[Any] | Tensor
Pixels = NDArray[np.uint8 | np.float32]

_WIDE_MODES = "IF"  # the first letters of Pillow's I, I;16 and so on, and F


def listed(pictures: Picture | Sequence[Picture], are_maps: bool = False) -> Iterable[Picture]:
    """One picture or several, also in one array, -> pictures one by one.

    Args:
        pictures: an array of four axes is a batch.
        are_maps: an array of three is one too, unless its last axis is one of channels.

    Raises:
        ValueError: there is none.
    """
    if isinstance(pictures, Image.Image):
        return [pictures]
    if isinstance(pictures, np.ndarray | Tensor):
        is_batch = pictures.ndim == 4 or (are_maps and pictures.ndim == 3 and pictures.shape[-1] not in (1, 3))
        return list(pictures) if is_batch else [pictures]
    if not pictures:
        raise ValueError("got no picture; give at least one")
    return pictures


def rgb(picture: Picture, is_scaled: bool) -> Pixels:
    """The colours of a picture; grey is repeated into three channels.

    Args:
        picture: values in 0..255; booleans count as 0 and 255.
        is_scaled: floats are taken as they are, in whatever range.

    Raises:
        ValueError: shape or values are not those of a picture.
    """
    if isinstance(picture, Image.Image):
        # Pillow would clip the wide modes (16 and 32 bit) to a white picture; their values are checked instead.
        picture = np.asarray(picture if picture.mode[0] in _WIDE_MODES else picture.convert("RGB"))
    return _in_three_channels(_pixels(picture, is_scaled))


def mask_colours(mask: Picture, palette: NDArray[np.uint8] | None, as_map: bool, is_scaled: bool) -> Pixels:
    """The colours of a mask.

    Args:
        mask: a map of class indices, or a picture of colours.
        palette: (classes, 3) colours for a map; None repeats its values into three channels.
        as_map: False wants a picture of colours.
        is_scaled: as in `rgb`.

    Raises:
        ValueError: shape or values are not those of a mask; a label without a colour.
    """
    if isinstance(mask, Image.Image):
        # P holds class indices, which is what a mask of that mode is for; its colours are for people.
        is_plain = mask.mode in ("L", "P", "1", "RGB") or mask.mode[0] in _WIDE_MODES
        mask = np.asarray(mask if is_plain else mask.convert("RGB"))
    if as_map and palette is not None:
        return _coloured(mask, palette)
    pixels = _pixels(mask, is_scaled)
    if pixels.ndim == 3:
        return pixels
    if not as_map:
        raise ValueError("do_convert_rgb=False needs masks of three channels; this one has two axes")
    if pixels.max() == 1 and not is_scaled:
        raise ValueError("a mask of 0 and 1 would be nearly black; give num_labels=1, or a mask of 0 and 255")
    return _in_three_channels(pixels)


def resized(pixels: Pixels, size: tuple[int, int], resample: int) -> Pixels:
    """(H, W, 3) -> (height, width, 3) by Pillow; floats channel by channel, without being rounded."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size[::-1], resample))
    planes = [Image.fromarray(plane).resize(size[::-1], resample) for plane in np.moveaxis(pixels, -1, 0)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _pixels(picture: NDArray[Any] | Tensor, is_scaled: bool) -> Pixels:
    """(H, W) or (H, W, 3) in 0..255; booleans become 0 and 255."""
    array = _array(picture)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    is_float = array.dtype.kind == "f"
    if is_float and is_scaled:
        if not np.isfinite(array).all():
            raise ValueError("a picture has values that are not finite")
        return array.astype(np.float32)
    if not 0 <= array.min() <= array.max() <= MAX_VALUE:  # so written, it refuses NaN too
        raise ValueError(f"a picture has values from {array.min()} to {array.max()}; they must lie in 0..255")
    if is_float and 0 < array.max() <= 1:
        raise ValueError("a picture of floats lies in 0..1; multiply it by 255, or give do_rescale=False")
    has_fractions = is_float and not np.array_equal(array, np.floor(array))
    return array.astype(np.float32 if has_fractions else np.uint8)


def _coloured(mask: NDArray[Any] | Tensor, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A map of class indices -> the colours of its classes."""
    labels = _array(mask)
    if labels.ndim == 3:
        raise ValueError("num_labels needs a 2-D map of class indices; this mask has three channels")
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.floor(labels)):
        raise ValueError("a mask has labels that are not whole numbers; they must be class indices")
    lowest, highest, last = labels.min(), labels.max(), len(palette) - 1
    if lowest < 0 or highest > last:
        raise ValueError(f"a mask has labels from {lowest} to {highest}; num_labels={last} allows 0 to {last}")
    coloured: NDArray[np.uint8] = palette[labels.astype(np.intp)]
    return coloured


def _array(picture: NDArray[Any] | Tensor) -> NDArray[Any]:
    """(H, W) or (H, W, 3) of any type."""
    if not isinstance(picture, np.ndarray | Tensor):
        raise ValueError(f"got a {type(picture).__name__} for a picture; it must be a PIL image, an array or a tensor")
    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
    shape = array.shape
    if array.ndim == 3 and shape[-1] not in (1, 3) and shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or 0 in shape:
        raise ValueError(f"a picture has shape {shape}; it must be (H, W), (H, W, 3) or (3, H, W)")
    return array


def _in_three_channels(pixels: Pixels) -> Pixels:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
