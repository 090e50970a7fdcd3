"""Encoded bytes of strangers -> pixels. The only module that opens uploaded files.

What comes out is upright (EXIF orientation applied, to images and masks alike), one frame, free of
metadata, and either an "RGB" picture or an "L" mask of 0 and 255. What cannot be that is a `Problem`,
whatever the bytes were.
ICC profiles are not applied, as in the reference implementations. Sizes are (height, width).

Pillow does all work on full-size pictures, because it releases the GIL.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from io import BytesIO
from itertools import chain
from typing import Final

# Importing the five plugins registers them, so that Pillow never imports the others.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    ExifTags,
    Image,
    ImageChops,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from app.errors import EmptyMask, ImageTooLarge, InvalidLabels, MaskAspect, UndecodableImage, UnsupportedImageType
from app.pixels import BLACK, flatten, foreground, levels
from app.signatures import foreign_type, is_lossless_webp, type_of
from app.tiff import as_meant, bits_of, check_kind, kind_of

WHITE: Final = (255, 255, 255)
ALLOWED: Final = "JPEG, PNG, WebP, BMP, TIFF"

# Pillow's own limit is one size for the whole process and warns; `Limits` governs here, before decoding.
Image.MAX_IMAGE_PIXELS = None

_HIGHEST_INDEX: Final = 255

_DEEP: Final = 16
_PNG_DEPTH: Final = 24  # where in the file its header has the bits of a channel

# What Pillow raises on damaged files. Its documentation names no closed set, so these are all the kinds that
# its plugins can bring forth. MemoryError: a header may ask for any amount. Warning: where those are errors.
_PILLOW_RAISES: Final = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    AssertionError,
    struct.error,
    zlib.error,
    Warning,
)

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING: Final = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a picture may measure, checked against its header before decoding."""

    max_pixels: int
    max_side: int


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of itself; the size is that of the upright picture."""

    format: str
    height: int
    width: int


def check_header(data: bytes, limits: Limits, field: str = "image") -> ImageHeader:
    """Read type and size without decoding.

    Raises:
        UnsupportedImageType: not one of the five types, or several frames.
        UndecodableImage: the header is damaged.
        ImageTooLarge: the size is over the limits.
    """
    with _damage_is_a_problem(data, field):
        image = _open(data, limits, field)
        width, height = image.size
        # A PNG may carry EXIF data after its pixels: unknown before decoding. Pillow turns TIFFs by itself.
        known = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        if known and _orientation(image) in _LYING:
            width, height = height, width
        return ImageHeader(str(image.format), height, width)


def decode_image(data: bytes, limits: Limits, field: str = "image") -> Image.Image:
    """Decode a picture of any of the five types and of any mode.

    Deep grey is scaled, never clipped (`pixels.flatten` says how); transparent pixels lie on white.

    Returns:
        The upright picture, mode "RGB", at its full size, without metadata.

    Raises:
        UnsupportedImageType, UndecodableImage, ImageTooLarge: see `check_header`.
    """
    with _damage_is_a_problem(data, field):
        image, bits = _load(data, limits, field)
        return _without_metadata(flatten(image, WHITE, bits))


def decode_mask(data: bytes, limits: Limits, field: str = "prompt_mask") -> Image.Image:
    """Decode a mask: which pixels are the object.

    The rule is `pixels.foreground`'s: all that is not black in a label map, the brighter half of a soft
    mask or of one stored with loss.

    Returns:
        The upright mask, mode "L", 0 and 255, at its full size.

    Raises:
        UnsupportedImageType, UndecodableImage, ImageTooLarge: see `check_header`.
        EmptyMask: no pixel is foreground.
    """
    with _damage_is_a_problem(data, field):
        image, _ = _load(data, limits, field)
        mask = _without_metadata(foreground(levels(image), lossy=_is_lossy(image, data)))
        if mask.getextrema() == (0, 0):
            raise EmptyMask(
                "got no foreground pixel; foreground must be brighter than black (transparent counts as "
                "black), and 0/1 masks need a lossless file type such as PNG",
                field=field,
            )
        return mask


def decode_index_mask(data: bytes, limits: Limits, field: str = "prompt_mask") -> Image.Image:
    """Decode a mask whose pixel values are class indices; a palette PNG's own indices, not its colours.

    Returns:
        The upright mask, mode "L", the indices, at its full size.

    Raises:
        UnsupportedImageType, UndecodableImage, ImageTooLarge: see `check_header`.
        InvalidLabels: it has colours, is stored with loss, or has values above 255.
    """
    with _damage_is_a_problem(data, field):
        image, bits = _load(data, limits, field)
        if _is_lossy(image, data):
            raise InvalidLabels(f"{field}: index masks need a lossless file type such as PNG", field=field)
        if image.mode.startswith("I"):
            image = image.convert("I")  # other byte orders have no extrema
            lowest, highest = image.getextrema()
            assert not isinstance(lowest, tuple)
            assert not isinstance(highest, tuple)
            if not 0 <= lowest <= highest <= _HIGHEST_INDEX:
                wrong = lowest if lowest < 0 else highest
                raise InvalidLabels(f"{field}: got the value {wrong}; indices are 0 to {_HIGHEST_INDEX}", field=field)
            image = image.convert("L")
        elif image.mode in {"1", "L"}:
            step = _brightness_step(bits)
            image = image.point([value // step for value in range(256)], "L")
        elif image.mode == "P":
            image = image.copy()
            image.info.pop("transparency", None)
            image.putpalette(bytes(value for value in range(256) for _ in range(3)))
            image = image.convert("L")
        else:
            raise InvalidLabels(
                f"{field}: got a picture of mode {image.mode}; index masks are grey or have a palette, and masks that "
                "show classes by colours are mask_kind=colour",
                field=field,
            )
        return _without_metadata(image)


def decode_colour_mask(data: bytes, limits: Limits, field: str = "prompt_mask") -> Image.Image:
    """Decode a mask that shows classes by colours; transparent pixels are black.

    Returns:
        The upright mask, mode "RGB", at its full size.

    Raises:
        UnsupportedImageType, UndecodableImage, ImageTooLarge: see `check_header`.
        InvalidLabels: it is stored with loss.
    """
    with _damage_is_a_problem(data, field):
        image, bits = _load(data, limits, field)
        if _is_lossy(image, data):
            raise InvalidLabels(f"{field}: colour masks need a lossless file type such as PNG", field=field)
        return _without_metadata(flatten(image, BLACK, bits))


def check_aspect(image_size: tuple[int, int], mask_size: tuple[int, int], field: str = "prompt_mask") -> None:
    """Refuse a mask that is neither as large as its image nor a scaled version of it.

    Args:
        image_size: (height, width) of the prompt image.
        mask_size: (height, width) of its mask; may differ by a factor and the rounding to whole pixels.

    Raises:
        MaskAspect: the aspects differ by more than about one pixel.
    """
    height, width = image_size
    mask_height, mask_width = mask_size
    if abs(mask_height * width - mask_width * height) > max(*image_size, *mask_size):
        raise MaskAspect(
            f"got {mask_width}x{mask_height} pixels (width x height) for an image of {width}x{height}; "
            "allowed are the image's size and scaled versions of it",
            field=field,
        )


@contextmanager
def _damage_is_a_problem(data: bytes, field: str) -> Iterator[None]:
    try:
        yield
    except _PILLOW_RAISES as error:
        # Pillow's words stay in the cause, for the log: they may hold addresses and name our internals.
        got = f"this {type_of(data) or 'file'} of {len(data)} bytes" if data else "an empty file"
        raise UndecodableImage(f"got {got}, which is damaged or cut short", field=field) from error


def _open(data: bytes, limits: Limits, field: str) -> Image.Image:
    """Read the header and refuse what must not be decoded."""
    name = type_of(data)
    if name is None and data:
        raise UnsupportedImageType(f"got {foreign_type(data)}; allowed are {ALLOWED}", field=field)
    try:
        image = Image.open(BytesIO(data), formats=(name,) if name else ())
    except UnidentifiedImageError:
        kind = kind_of(data) if name == "TIFF" else None
        if kind is None:
            raise
        raise UnsupportedImageType(
            f"got {kind}, a kind that is not read; always read are PNG, and TIFFs of 8-bit grey or colour", field=field
        ) from None
    _check_size(image.size, limits, field)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # A small one may consist of one enormous, well compressed tile, which is decoded as a whole.
        tile = (image.tag_v2.get(tag, 1) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
        _check_size(tuple(tile), limits, field)
        check_kind(image, field)
        _drop_xmp(image)
    # MPO is what many phones write as .jpg: a JPEG with further views behind the primary picture.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise UnsupportedImageType(f"got a {name} of several frames or pages; allowed is one", field=field)
    return image


def _check_size(size: tuple[int, int], limits: Limits, field: str) -> None:
    width, height = size
    if max(width, height) > limits.max_side:
        raise ImageTooLarge(
            f"got {width}x{height} pixels; allowed are sides up to {limits.max_side}",
            field=field,
            got=max(width, height),
            limit=limits.max_side,
        )
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"got {width}x{height} = {width * height} pixels; allowed are {limits.max_pixels}",
            field=field,
            got=width * height,
            limit=limits.max_pixels,
        )


def _load(data: bytes, limits: Limits, field: str) -> tuple[Image.Image, int]:
    """Decode and turn upright: any mode, and how many bits a grey pixel has in the file."""
    image = _open(data, limits, field)
    image.load()
    bits = _grey_bits(image, data)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return as_meant(image, field), bits  # Pillow has turned it
    if image.mode == "L" and "transparency" in image.info:
        image.info["transparency"] *= _brightness_step(bits)  # Pillow scales the pixels and not this
    turn = _TURNS.get(_orientation(image))
    if image.mode == "RGB" and bits == _DEEP and "transparency" in image.info:
        image = _with_clear_colour(image, data)
    return image if turn is None else image.transpose(turn), bits


def _with_clear_colour(image: Image.Image, data: bytes) -> Image.Image:
    """A PNG of 16-bit colour whose transparent colour became an alpha channel: "RGBA".

    Pillow keeps the higher bytes and compares the whole colour with them, so the lower ones are read as well.
    """
    lower = Image.open(BytesIO(data), formats=("PNG",))
    lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]  # the same file, taken for the other byte order
    lower.load()
    clear = image.info["transparency"]
    different = [
        ImageChops.difference(part, Image.new("RGB", part.size, colour)).split()
        for part, colour in (
            (image, tuple(value >> 8 for value in clear)),
            (lower, tuple(value & 0xFF for value in clear)),
        )
    ]
    alpha = reduce(ImageChops.lighter, chain.from_iterable(different)).point([0] + [255] * 255)
    opaque = image.copy()
    opaque.info.pop("transparency")
    opaque.putalpha(alpha)
    return opaque


def _grey_bits(image: Image.Image, data: bytes) -> int:
    """Of a pixel that is one number of up to 16 bits; Pillow makes 8 bits of fewer, and 16 of 12."""
    if image.mode == "1":
        return 1
    if image.format == "PNG":
        return data[_PNG_DEPTH]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return bits_of(image.tag_v2)
    return 8


def _brightness_step(bits: int) -> int:
    """How far apart, of 255, two neighbouring greys of so few bits are."""
    return 255 // ((1 << bits) - 1)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8; damaged EXIF data does not make a picture unreadable and counts as 1."""
    _drop_xmp(image)
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _PILLOW_RAISES:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _drop_xmp(image: Image.Image) -> None:
    """Pillow falls back on an orientation there, no browser does: editors turn the pixels and leave the old packet."""
    image.info.pop("xmp", None)
    image.info.pop("XML:com.adobe.xmp", None)


def _without_metadata(image: Image.Image) -> Image.Image:
    image.info.clear()  # EXIF, ICC profile, comments: Pillow would write some of them into answers
    return image


def _is_lossy(image: Image.Image, data: bytes) -> bool:
    name = type_of(data)
    if name == "WEBP":
        return not is_lossless_webp(data)
    return name == "JPEG" or "jpeg" in str(image.info.get("compression", ""))
