"""Pixels of any Pillow mode -> RGB pictures and 0/255 masks. Never sees encoded bytes.

Pillow does the work, because its loops release the GIL: 12 million pixels take milliseconds and block nobody.
"""

import math
from typing import Any, Final, cast

from PIL import Image, ImageChops, ImageCms, ImageMath

BLACK: Final = (0, 0, 0)

FEW_LEVELS: Final = 32
"""A lossless mask with at most so many levels is a label map: all that is not black is foreground."""

LEAST_LOSSY_BRIGHTNESS: Final = 16
"""A lossy mask that is nowhere this bright holds only the noise of its compression."""

_LEAST_BRIGHTNESS: Final = 16  # of floats that are levels of 8 bits: with less the picture would be all but black


def flatten(image: Image.Image, background: tuple[int, int, int], bits: int = 16) -> Image.Image:
    """Any mode to "RGB", transparent pixels on the background.

    Deep grey is scaled, where Pillow's own conversion clips at 255: 16 bits, of which `bits` are used, by what is then
    the highest; floats within [0, 1] by 255; integers within [0, 255], and floats that reach at least 16 there, are
    taken as they are; all others are scaled by the picture's own range (lowest to 0, highest to 255), or where they are
    all the same taken as they are, clipped. Of 16-bit colour Pillow reads the higher byte.

    Raises:
        ValueError: float values that are not finite.
    """
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if is_deep(image):
        return _deep_to_rgb(image, background, bits)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode in {"La", "RGBa"}:  # premultiplied, in some TIFFs
        image = image.convert(image.mode.upper())
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    flat = Image.new("RGB", rgba.size, background)
    flat.paste(rgba, mask=alpha)
    return flat


def levels(image: Image.Image) -> Image.Image:
    """The level of each pixel of a mask: its brightest channel, transparent pixels lying on black.

    Palette pixels have their colour's level, or their index where the palette paints everything black.

    Returns:
        Mode "L", or for deep grey "I" or "F" with the values themselves.
    """
    if is_deep(image):
        clear = _transparent(image)
        level = image.convert("I") if image.mode.startswith("I;16") else image
        if clear is not None:
            level.paste(0, mask=clear)
        return level
    if image.mode == "P":
        return _palette_levels(image)
    if image.mode in {"1", "L"} and not image.has_transparency_data:
        return image.convert("L")
    return _brightest_channel(image)


def foreground(level: Image.Image, *, lossy: bool) -> Image.Image:
    """Which pixels of a mask are the object.

    - A losslessly stored mask with at most 32 levels is a label map: every pixel above black is foreground
      (0/1, 0/255, booleans, palettes, colours, 16 bits).
    - In any other (soft, anti-aliased, or stored with loss as JPEG does) foreground are the pixels at least
      half as bright as the brightest.
    - A lossy mask darker than 16 everywhere is empty: 0/1 does not survive JPEG.

    Args:
        level: what `levels` returns.
        lossy: whether the file's compression changes pixels.

    Returns:
        Mode "L", 0 and 255.

    Raises:
        ValueError: float values that are not finite.
    """
    if level.mode != "L":
        return _deep_foreground(level)
    present = [value for value, count in enumerate(level.histogram()) if count]
    brightest = present[-1]
    if lossy and brightest < LEAST_LOSSY_BRIGHTNESS:
        least = 256
    elif lossy or len(present) > FEW_LEVELS:
        least = (brightest + 1) // 2
    else:
        least = 1
    return level.point([0] * least + [255] * (256 - least))


def is_deep(image: Image.Image) -> bool:
    """Whether a pixel is one number of more than 8 bits: "I", "F" and the kinds of "I;16"."""
    return image.mode == "F" or image.mode.startswith("I")


def _transparent(image: Image.Image) -> Image.Image | None:
    """Where 16-bit grey has the value that its file calls transparent: mode "L", 0 and 255. That value is forgotten."""
    value = image.info.pop("transparency", None)
    if value is None:
        return None
    return image.convert("I").point([255 * (level == value) for level in range(1 << 16)], "L")


def _deep_to_rgb(image: Image.Image, background: tuple[int, int, int], bits: int) -> Image.Image:
    clear = _transparent(image)
    if image.mode.startswith("I;16"):
        image, lowest, highest = image.convert("I"), 0.0, 2.0**bits - 1
    else:
        lowest, highest = _range(image)
        is_share = image.mode == "F" and highest <= 1
        is_level = highest <= 255 and (image.mode == "I" or highest >= _LEAST_BRIGHTNESS)
        if lowest == highest or (lowest >= 0 and (is_share or is_level)):
            lowest, highest = 0.0, 1.0 if is_share else 255.0
    scale = 255 / (highest - lowest)
    rgb = image.point(lambda value: value * scale + (0.5 - lowest * scale)).convert("L").convert("RGB")
    if clear is not None:
        rgb.paste(background, mask=clear)
    return rgb


def _range(image: Image.Image) -> tuple[float, float]:
    """(lowest, highest) value of an "I" or "F" picture."""
    extrema: Any = image.getextrema()
    lowest, highest = extrema
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ValueError(f"values from {lowest} to {highest} are not finite")
    return lowest, highest


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    # None only with inPlace=True
    return cast(Image.Image, ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"))


def _brightest_channel(image: Image.Image) -> Image.Image:
    red, green, blue = flatten(image, BLACK).split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def _palette_levels(image: Image.Image) -> Image.Image:
    """The 256 colours are looked at instead of the pixels."""
    strip = Image.frombytes("P", (256, 1), bytes(range(256)))
    strip.putpalette(image.getpalette("RGB") or [0] * 768)
    colours = _brightest_channel(strip).tobytes()
    if image.point(list(colours), "L").getextrema() == (0, 0):
        return image.point(list(range(256)), "L")  # no palette to speak of: the indices are the mask
    if "transparency" in image.info:
        strip.info["transparency"] = image.info["transparency"]
        colours = _brightest_channel(strip).tobytes()
    return image.point(list(colours), "L")


def _deep_foreground(level: Image.Image) -> Image.Image:
    _, brightest = _range(level)
    is_label_map = level.getcolors(FEW_LEVELS) is not None

    def choose(names: Any) -> Any:
        if is_label_map or brightest <= 0:
            return names["level"] > 0
        least = brightest / 2 if level.mode == "F" else math.ceil(brightest / 2)
        return names["level"] >= least

    chosen: Image.Image = ImageMath.lambda_eval(choose, level=level)
    return chosen.convert("L").point([0] + [255] * 255)
