"""A tuned prompt and its file: learned pictures that fit one checkpoint.

The service reads the same file without torch, in `app.tuned`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoint import Checkpoint
from model.weights import one_line, write_safetensors

FORMAT = "seggpt-tuned-prompt-1"
_IMAGES, _MASKS = "prompt_images", "prompt_masks"


class TunedPromptError(ValueError):
    """A file holds no tuned prompt, or one for another checkpoint: one line that says which."""


@dataclass(frozen=True)
class TunedPrompt:
    """Learned examples. They are used as one ensemble, with the embedding type "instance".

    Args:
        images: (K, H, W, 3) uint8 RGB in [0, 255], at the network's own size.
        masks: (K, H, W, 3) uint8 RGB in [0, 255]: painted, not black and white.
        checkpoint: what people call the checkpoint that they fit.
        fingerprint: `model.checkpoint.fingerprint` of it.
        iou_before: of the best single example, on held-out pictures.
        iou_after: of the learned ones, on the same pictures.
    """

    images: Tensor
    masks: Tensor
    checkpoint: str
    fingerprint: str
    iou_before: float
    iou_after: float

    def __post_init__(self) -> None:
        for pictures in (self.images, self.masks):
            if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or 0 in pictures.shape:
                got = f"{pictures.dtype} of shape {tuple(pictures.shape)}"
                raise TunedPromptError(f"learned pictures are uint8 of shape (K, H, W, 3); got {got}")
        if self.images.shape != self.masks.shape:
            raise TunedPromptError(f"{len(self.images)} learned images and {len(self.masks)} masks, or of other sizes")

    def save(self, path: str | Path, written_by: str = "") -> None:
        """Write the file, whole or not at all; equal prompts give equal files.

        Args:
            path: is replaced if it is there.
            written_by: program and version, for people.
        """
        metadata = {
            "format": FORMAT,
            "checkpoint": self.checkpoint,
            "fingerprint": self.fingerprint,
            "size": f"{self.images.shape[1]}x{self.images.shape[2]} (height x width)",
            "iou_before": f"{self.iou_before:.4f}",
            "iou_after": f"{self.iou_after:.4f}",
            "written_by": written_by,
        }
        # Copies: safetensors refuses tensors that share memory.
        pictures = {name: part.clone().contiguous() for name, part in ((_IMAGES, self.images), (_MASKS, self.masks))}
        write_safetensors(pictures, Path(path), metadata)

    @classmethod
    def load(cls, path: str | Path, fingerprint: str | None = None) -> TunedPrompt:
        """Read a file.

        Args:
            path: what `save` wrote.
            fingerprint: of the checkpoint that it is to be used with; None does not ask.

        Raises:
            TunedPromptError: it is not there, is none, is damaged, or was tuned for another checkpoint.
        """
        try:
            with safe_open(path, framework="pt") as opened:
                metadata = opened.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise TunedPromptError(f"{path}: its format is {metadata.get('format')!r}; allowed is {FORMAT!r}")
                prompt = cls(
                    opened.get_tensor(_IMAGES),
                    opened.get_tensor(_MASKS),
                    metadata["checkpoint"],
                    metadata["fingerprint"],
                    float(metadata["iou_before"]),
                    float(metadata["iou_after"]),
                )
        except KeyError as error:
            raise TunedPromptError(f"{path}: it does not say {error}") from error
        except (SafetensorError, OSError) as error:
            raise TunedPromptError(f"{path}: it is not there, or is no safetensors file: {one_line(error)}") from error
        if fingerprint is not None and prompt.fingerprint != fingerprint:
            raise TunedPromptError(
                f"{path}: it was tuned for {prompt.checkpoint!r}, whose fingerprint is {prompt.fingerprint[:12]}; "
                f"this checkpoint has the fingerprint {fingerprint[:12]}"
            )
        return prompt


def name_of(checkpoint: Checkpoint) -> str:
    """What people call a checkpoint: its hub id, or the last part of its path, since folders are nobody's business."""
    path = Path(checkpoint.source).expanduser()
    return path.name if path.exists() else checkpoint.source
