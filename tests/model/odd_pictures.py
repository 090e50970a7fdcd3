"""Odd pictures and masks, and what transformers makes of them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from transformers.models.seggpt.image_processing_pil_seggpt import SegGptImageProcessorPil

from model import SegGptImageProcessor

SIZES = ((1, 1), (1, 300), (300, 1), (3, 5), (13, 1000), (64, 48), (447, 449), (448, 448), (600, 201), (97, 131))

theirs = SegGptImageProcessorPil()
ours = SegGptImageProcessor()


def draw_picture(index: int) -> Image.Image:
    """The index-th odd RGB picture: noise, ramps and flat areas of an odd size."""
    random = np.random.default_rng(index)
    height, width = SIZES[index % len(SIZES)]
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[height // 2 :, width // 3 :] = random.integers(0, 256, 3, dtype=np.uint8)
    pixels[: height // 4] = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    return Image.fromarray(pixels)


def draw_mask(index: int, labels: int) -> np.ndarray:
    """A map of class indices, every class as likely as the background."""
    height, width = SIZES[(index * 3 + 1) % len(SIZES)]
    return np.random.default_rng(1000 + index).integers(0, labels + 1, (height, width)).astype(np.uint8)


def expected(picture: Image.Image, processor: SegGptImageProcessorPil = theirs) -> torch.Tensor:
    """What transformers makes of an RGB picture; it takes no other mode, and guesses axes of 1 or 3 pixels."""
    return processor(images=picture, return_tensors="pt", input_data_format="channels_last")["pixel_values"].float()
