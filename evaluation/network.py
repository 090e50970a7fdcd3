"""The network's answers, got as the paper's authors get theirs and computed as the service computes.

Pictures are resized to the network's size (448 x 448 in the published one), bicubic, aspect not kept; masks by nearest,
white on black; several examples are one feature ensemble; an answer is marked where the mean of its channels exceeds
127.5 of 255, and enlarged by nearest to the input image's own size. Source: arXiv:2304.03284, sections 3.3 and 4, and
its inference code. On demand the answer is enlarged by bilinear first, as the service does for smooth edges.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from app.upsampling import Upsampling, upsample_bilinear, upsample_nearest
from evaluation.questions import Area, Question
from model.checkpoint import Checkpoint, load
from model.inference import Precision
from model.runner import Runner
from model.seggpt import SegGptForImageSegmentation

EMBEDDING_TYPES = ("instance", "semantic")


class Network:
    """A loaded network as an answer to questions: call it.

    Args:
        model: in eval, on its device; it is prepared for answering, in place, and good for nothing else afterwards.
        precision: of products.
        embedding_type: "instance" or "semantic"; the authors' inference code takes "instance" unless told otherwise.
        upsampling: how answers come to the input image's size.

    Raises:
        ValueError: this device does not compute in this precision.
    """

    def __init__(
        self,
        model: SegGptForImageSegmentation,
        precision: Precision = "float32",
        embedding_type: str = "instance",
        upsampling: Upsampling = "nearest",
    ) -> None:
        self._size = model.config.half_size
        self._runner = Runner(model, precision)
        self._embedding_type = embedding_type
        self._enlarge = upsample_bilinear if upsampling == "bilinear" else upsample_nearest

    def __call__(self, question: Question) -> Area:
        """The marked area, (H, W) bool of the input image's size.

        Raises:
            RuntimeError: the network's numbers are not finite.
        """
        examples = len(question.examples)
        pictures = [question.image, *(example.image for example in question.examples)]
        pixels = torch.stack(
            [self._resized(picture, Image.Resampling.BICUBIC) for picture in pictures]
            + [self._resized(_white(example.area), Image.Resampling.NEAREST) for example in question.examples]
        )
        # (1 + 2 * examples, H, W, 3): the input image, prompt images, prompt masks
        staged = self._runner.stage(pixels, range(len(pixels))).ready()
        kinds = [self._embedding_type]
        stream = self._runner.mask_stream(staged[1 + examples :], kinds, [examples])
        painted = self._runner.paint(staged[: 1 + examples], kinds, [examples], stream)
        if not bool(painted.finite[0]):
            raise RuntimeError(f"the network's answer for {question.category} is not finite; try another --dtype")
        mean = self._enlarge(painted.levels[0, ..., 3].contiguous().cpu().numpy(), question.image.size[::-1])
        # The levels are rounded so that this is exactly "mean > 127.5".
        return mean > 127

    def _resized(self, picture: Image.Image, resample: Image.Resampling) -> Tensor:
        """(H, W, 3) uint8 of the network's size."""
        height, width = self._size
        return torch.from_numpy(np.array(picture.convert("RGB").resize((width, height), resample)))


def _white(area: Area) -> Image.Image:
    return Image.fromarray(area.astype(np.uint8) * 255)


def load_network(
    checkpoint: Checkpoint,
    precision: Precision = "float32",
    device: str = "cpu",
    embedding_type: str = "instance",
    upsampling: Upsampling = "nearest",
) -> Network:
    """Load a checkpoint for answering only; arguments as Network's.

    Args:
        checkpoint: from `model.checkpoint.resolve`.
        device: "cpu", "cuda" or "cuda:<number>".

    Raises:
        CheckpointError: the file has gone, or was changed since it was resolved.
        ValueError: this device does not compute in this precision.
    """
    return Network(load(checkpoint, torch.float32, device), precision, embedding_type, upsampling)
