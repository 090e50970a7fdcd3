"""The requests that are sent: multipart bodies of made JPEGs and PNG masks, put together beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from benchmarks.client import Request

BOUNDARY = "benchmark"


def jpeg(seed: int, size: tuple[int, int]) -> bytes:
    """A smooth made picture of (height, width) as a JPEG of quality 90."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    buffer = BytesIO()
    coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def mask_png(size: tuple[int, int]) -> bytes:
    """A disc of 255 on 0 as a PNG of (height, width)."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    disc = np.hypot(rows - size[0] / 2, columns - size[1] / 2) < min(size) / 3
    buffer = BytesIO()
    Image.fromarray(disc.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def numbered(picture: bytes, number: int) -> bytes:
    """The same JPEG with a comment in it: other bytes, same pixels."""
    return picture[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + picture[2:]


def segment_request(
    image: bytes, examples: Sequence[tuple[bytes, bytes]], host: str, fields: Sequence[tuple[str, str]] = ()
) -> list[bytes]:
    """A whole `POST /v1/segment`, head and body, in two pieces."""
    named = [("image", image)]
    for prompt_image, prompt_mask in examples:
        named += [("prompt_image", prompt_image), ("prompt_mask", prompt_mask)]
    parts = [(f'name="{name}"; filename="{name}"', content) for name, content in named]
    parts += [(f'name="{name}"', value.encode()) for name, value in fields]
    body = b"".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    )
    body += f"--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST /v1/segment HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return [head.encode(), body]


def requests(size: tuple[int, int], host: str, *, new_prompts: bool, pictures: int = 16) -> Request:
    """Requests by number: different input images, and one example for all or a new one for each.

    Args:
        size: (height, width) of every picture.
        host: for the Host header.
        new_prompts: every request's example has bytes that were never sent before.
        pictures: how many different input images there are.
    """
    images = [jpeg(seed, size) for seed in range(pictures)]
    prompt_image, prompt_mask = jpeg(pictures, size), mask_png(size)
    ready = [segment_request(image, [(prompt_image, prompt_mask)], host) for image in images]
    fresh = iter(range(2**63))

    def request(number: int) -> Sequence[bytes]:
        if not new_prompts:
            return ready[number % pictures]
        example = (numbered(prompt_image, next(fresh)), prompt_mask)
        return segment_request(images[number % pictures], [example], host)

    return request
