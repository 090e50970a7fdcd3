"""Which type a file is, by its own bytes; Pillow is not asked."""

import struct
from typing import Final

_SIGNATURES: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
)
_FOREIGN_SIGNATURES: Final = (
    (b"GIF8", "GIF"),
    (b"MM\0+", "big-endian BigTIFF"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"\0\0\0\x0cjP", "JPEG 2000"),
)
_MARKUP: Final = ((b"<?xml", "SVG or other XML"), (b"<!doctype html", "HTML"), (b"<html", "HTML"))
"""In small letters, since HTML may be written in any; white space may stand before."""


def type_of(data: bytes) -> str | None:
    """Pillow's name of a type that is read; None if it is none of them."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for signature, name in _SIGNATURES if data.startswith(signature)), None)


def foreign_type(data: bytes) -> str:
    """What to call a file that is none of them."""
    if data[4:8] == b"ftyp":
        return "HEIC, AVIF or video"
    start = data[:64].lstrip().lower()
    foreign = [name for signature, name in _FOREIGN_SIGNATURES if data.startswith(signature)]
    foreign += [name for signature, name in _MARKUP if start.startswith(signature)]
    return foreign[0] if foreign else "an unknown file type"


def is_lossless_webp(data: bytes) -> bool:
    """Walk the RIFF chunks to the one with the pixels: "VP8L" is lossless, "VP8 " is not."""
    position = 12
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        if name in {b"VP8L", b"VP8 "}:
            return bool(name == b"VP8L")
        position += 8 + length + length % 2
    return False
