"""TIFFs of kinds that Pillow reads otherwise than their tags say, or not at all: read rightly or refused by name."""

from io import BytesIO
from typing import Final, cast

from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    STRIPOFFSETS,
    TILEOFFSETS,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from app.errors import UnsupportedImageType

_WHITE_IS_ZERO: Final = 0
_SEPARATE_PLANES: Final = 2
_UNSIGNED, _SIGNED = 1, 2
_KINDS: Final = {_UNSIGNED: "unsigned integers", _SIGNED: "signed integers", 3: "floats"}
_BIG: Final = 43  # BigTIFF's version number, where other files have 42


def check_kind(image: TiffImageFile, field: str) -> None:
    """Refuse, before decoding, what Pillow would misread, or take for damaged.

    Raises:
        UnsupportedImageType: WebP compression; planes of 16 bits that are not compressed; floats whose white is zero.
    """
    if image.info["compression"] == "webp":  # Pillow opens it, but its builds carry a libtiff without WebP
        raise UnsupportedImageType(
            "got a TIFF compressed as WebP; allowed are among others Deflate, LZW, JPEG and none", field=field
        )
    tags = image.tag_v2
    bits = bits_of(tags)
    if tags.get(PLANAR_CONFIGURATION) == _SEPARATE_PLANES and image.info["compression"] == "raw" and bits > 8:
        raise UnsupportedImageType(
            f"got an uncompressed TIFF of {bits} bits with each channel in a plane of its own; "
            "allowed are compressed planes, and channels side by side",
            field=field,
        )
    if image.mode == "F" and tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        raise UnsupportedImageType(
            "got a TIFF of floats whose white is zero; allowed are those whose black is", field=field
        )


def as_meant(image: TiffImageFile, field: str) -> Image.Image:
    """Decoded pixels with the values that the file means.

    Raises:
        UnsupportedImageType: integers that Pillow takes for negative ones, or for positive ones.
    """
    tags = image.tag_v2
    (kind, *_) = tags.get(SAMPLEFORMAT, (_UNSIGNED,))
    if image.mode == "I" and kind == _UNSIGNED and _extrema(image)[0] < 0:
        raise UnsupportedImageType(
            f"got a TIFF of unsigned 32-bit integers above {2**31 - 1}; allowed are those up to it", field=field
        )
    if image.mode == "L" and kind == _SIGNED and _extrema(image)[1] >= 2**7:
        raise UnsupportedImageType("got a TIFF of negative 8-bit integers; allowed are those from 0 on", field=field)
    if image.mode == "I;16" and tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        return image.point(lambda value: value * -1 + 65535)
    return image


def bits_of(tags: ImageFileDirectory_v2) -> int:
    """How many bits a channel has in the file, at most."""
    return int(max(tags.get(BITSPERSAMPLE, (1,))))


def kind_of(data: bytes) -> str | None:
    """Which kind of TIFF it is that Pillow could not open; None if its tags are damaged, or no numbers."""
    tags = ImageFileDirectory_v2(data[: 16 if data[2] == _BIG else 8])
    file = BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    if not {IMAGEWIDTH, IMAGELENGTH, PHOTOMETRIC_INTERPRETATION} <= tags.keys() or tags.keys().isdisjoint(
        {STRIPOFFSETS, TILEOFFSETS}
    ):
        return None
    (kind, *_) = tags.get(SAMPLEFORMAT, (_UNSIGNED,))
    samples, compression = tags.get(SAMPLESPERPIXEL, 1), tags.get(COMPRESSION, 1)
    photometric = tags[PHOTOMETRIC_INTERPRETATION]
    if not all(isinstance(one, int) for one in (samples, compression, photometric)):
        return None
    order = "big" if data.startswith(b"MM") else "little"
    return (
        f"a {order}-endian TIFF of {bits_of(tags)}-bit {_KINDS.get(kind, 'samples')}, {samples} a pixel "
        f"(photometric interpretation {photometric}, compression {compression})"
    )


def _extrema(image: Image.Image) -> tuple[int, int]:
    return cast(tuple[int, int], image.getextrema())
