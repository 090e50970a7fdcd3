"""`python -m benchmarks.peer`: LitServe around transformers' SegGPT, answering the same requests with the same weights.

Written as LitServe's documentation recommends: one LitAPI with decode_request, batch, predict, unbatch and
encode_response, batching on. It does what ours does: multipart with a picture and one example in, PNG mask out.
"""

# No `from __future__ import annotations`: LitServe compares the annotation of `request` with the class.

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import litserve  # type: ignore[import-untyped]
import numpy as np
import torch
from fastapi import Request, Response
from PIL import Image
from transformers import SegGptForImageSegmentation
from transformers.models.seggpt.image_processing_pil_seggpt import SegGptImageProcessorPil

from model.checkpoint import BUNDLED
from model.inference import native_precision


@dataclass(frozen=True)
class Setting:
    """How LitServe is set up.

    Args:
        batch: most requests of one forward.
        timeout_s: how long a batch waits to be filled.
        dtype: of the weights, a torch name.
        workers: worker processes; the cores are shared out among them.
    """

    batch: int
    timeout_s: float
    dtype: str
    workers: int

    def arguments(self) -> list[str]:
        """For the command line of this module."""
        return [f"--{name.removesuffix('_s')}={value}" for name, value in vars(self).items()]


NATIVE = native_precision(torch.device("cpu"))
# Emulated bfloat16 took ten times as long as float32 where it was measured, on an AMD EPYC (Zen 3).
_DTYPES = ("float32", "bfloat16") if NATIVE == "bfloat16" else ("float32",)
TRIED = (
    *(Setting(1, 0.0, dtype, workers) for dtype in _DTYPES for workers in (1, 2)),
    *(Setting(batch, 0.05, dtype, 2) for dtype in _DTYPES for batch in (4, 8)),
    *(Setting(8, timeout_s, dtype, 1) for dtype in _DTYPES for timeout_s in (0.01, 0.05)),
)
"""What `python -m benchmarks service --tune-peer` measures; the fastest is used from then on."""


class SegGpt(litserve.LitAPI):  # type: ignore[misc]
    """The peer. Its model answers pairs; several examples for one image are not asked for here."""

    def __init__(self, dtype: str, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._dtype = dtype
        self._threads = threads

    def setup(self, device: str) -> None:
        """Load the bundled checkpoint."""
        torch.set_num_threads(self._threads)
        self.dtype = getattr(torch, self._dtype)
        self.processor: Any = SegGptImageProcessorPil.from_pretrained(BUNDLED)
        model: Any = SegGptForImageSegmentation.from_pretrained(BUNDLED, dtype=self.dtype)
        self.model = model.eval().to(device)

    def decode_request(self, request: Request) -> tuple[dict[str, torch.Tensor], tuple[int, int]]:
        """Pictures -> the network's tensors, and the input image's (height, width)."""
        image, prompt = (Image.open(request[name].file).convert("RGB") for name in ("image", "prompt_image"))
        mask = (np.asarray(Image.open(request["prompt_mask"].file).convert("L")) > 0).astype(np.uint8)
        inputs = self.processor(
            images=image, prompt_images=prompt, prompt_masks=mask, num_labels=1, return_tensors="pt"
        )
        return dict(inputs), (image.height, image.width)

    def batch(self, inputs: Sequence[Any]) -> Any:
        """Several requests -> one batch."""
        if isinstance(inputs, tuple):  # LitServe does not batch where the largest batch is 1
            return inputs
        names = inputs[0][0]
        return {name: torch.cat([one[name] for one, _ in inputs]) for name in names}, [size for _, size in inputs]

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """One forward, and transformers' own way to masks of the images' sizes."""
        tensors, sizes = x
        sizes = [sizes] if isinstance(sizes, tuple) else sizes
        with torch.inference_mode():
            outputs = self.model(**{name: tensor.to(self.dtype) for name, tensor in tensors.items()})
            outputs.pred_masks = outputs.pred_masks.float()
            return self.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes, num_labels=1)

    def unbatch(self, output: Any) -> Any:
        """The masks one by one."""
        return output

    def encode_response(self, output: Any, **kwargs: Any) -> Response:
        """A mask -> a PNG of 0 and 255."""
        mask = output[0] if isinstance(output, list) else output
        buffer = BytesIO()
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(buffer, "PNG", compress_level=1)
        return Response(buffer.getvalue(), media_type="image/png")


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--workers", type=int, required=True)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="The LitServer has both batch and unbatch")
    api = SegGpt(
        options.dtype,
        max(1, options.cores // options.workers),
        max_batch_size=options.batch,
        batch_timeout=options.timeout,
        api_path="/v1/segment",
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.workers, timeout=False)
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
