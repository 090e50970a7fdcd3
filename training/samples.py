"""Pictures to look at: what went in, what was wanted, what was found."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from training.scenes import Scenes, paint


def save_samples(path: Path, scenes: Scenes, found: Tensor, columns: int = 2) -> None:
    """Write a sheet of (prompt image, prompt mask, input image, wanted, found), `columns` scenes side by side.

    Args:
        path: a PNG or JPEG file.
        scenes: B of them.
        found: (B, S, S) bool, what the network marked.
        columns: scenes per row; the last row must be full.
    """
    answers = paint(found.to(torch.uint8), scenes.colours)
    strips = [scenes.prompt_image, scenes.prompt_mask, scenes.image, scenes.mask, answers]
    cells = torch.cat(strips, 3)  # (B, 3, S, 5S)
    rows = [torch.cat(list(row), 2) for row in cells.split(columns)]
    sheet = torch.cat(rows, 1).clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(sheet.cpu().numpy()).save(path)
