"""Pictures for tuning: a folder -> cells, the small pictures that the network takes, and random variations of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

LEAST_PICTURES = 4
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_MIDDLE = 127
_SCALES = (0.8, 1.15)
_BRIGHTNESS = 0.1


class TuningDataError(ValueError):
    """A folder has no pictures for tuning: one line that names the file or what is missing."""


@dataclass(frozen=True)
class Pictures:
    """Pictures and where the thing is in each.

    Args:
        images: (N, H, W, 3) uint8 RGB in [0, 255].
        masks: (N, H, W, 3) uint8, 255 where the thing is and 0 elsewhere.
    """

    images: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: Tensor | slice) -> Pictures:
        return Pictures(self.images[which], self.masks[which])

    @property
    def areas(self) -> Tensor:
        """(N, H, W) bool: where the thing is."""
        return self.masks[..., 0] > _MIDDLE


def read_folder(folder: str | Path, size: tuple[int, int]) -> Pictures:
    """Read `images/NAME.jpg` (or .png, .webp) and `masks/NAME.png` by rising names, resized as the service does it.

    Args:
        folder: has the two folders.
        size: (height, width) of the network's pictures.

    Raises:
        TuningDataError: there are too few, one is alone, or a file cannot be read.
    """
    folder = Path(folder)
    images, masks = _files(folder / "images", _IMAGE_SUFFIXES), _files(folder / "masks", (".png",))
    alone = sorted(images.keys() ^ masks.keys())
    if alone:
        what = "no mask" if alone[0] in images else "no image"
        raise TuningDataError(f"{folder}: {alone[0]!r} has {what}; each images/NAME.jpg needs its masks/NAME.png")
    if len(images) < LEAST_PICTURES:
        raise TuningDataError(f"{folder}: got {len(images)} pictures; tuning needs at least {LEAST_PICTURES}")
    cells = [read_pair(images[name], masks[name], size) for name in sorted(images)]
    return Pictures(torch.stack([image for image, _ in cells]), torch.stack([mask for _, mask in cells]))


def augmented(pictures: Pictures, generator: torch.Generator) -> Pictures:
    """Each picture mirrored or not, a little larger, smaller, moved, brighter or darker, and its mask with it."""
    count = len(pictures)
    scale = _SCALES[0] + (_SCALES[1] - _SCALES[0]) * torch.rand(count, generator=generator)
    mirrored = 1 - 2.0 * (torch.rand(count, generator=generator) < 0.5)
    transform = torch.zeros(count, 2, 3)
    transform[:, 0, 0], transform[:, 1, 1] = scale * mirrored, scale
    room = (1 - scale).abs().unsqueeze(1)
    transform[:, :, 2] = (2 * torch.rand(count, 2, generator=generator) - 1) * room
    images = pictures.images.movedim(-1, 1).float()  # (N, 3, H, W)
    masks = pictures.masks.movedim(-1, 1).float()
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    masks = F.grid_sample(masks, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    light = 1 + _BRIGHTNESS * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
    images = (images * light).clamp(0, 255).round()
    return Pictures(images.to(torch.uint8).movedim(1, -1), masks.to(torch.uint8).movedim(1, -1))


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files by their names without the suffix."""
    if not folder.is_dir():
        raise TuningDataError(f"{folder} is not there; tuning needs the folders images and masks")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            if path.stem in found:
                raise TuningDataError(f"{folder} has {found[path.stem].name} and {path.name}; allowed is one of a name")
            found[path.stem] = path
    return found


def read_pair(image_path: Path, mask_path: Path, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A picture and its mask, resized as the service does it: (H, W, 3) uint8 each; masks are 0 and 255.

    Raises:
        TuningDataError: a file cannot be read, or the mask has another aspect, or marks things by dark values.
    """
    height, width = size
    image, mask = open_upright(image_path), open_upright(mask_path)
    # The mask may be a scaled version, its sides rounded to whole pixels.
    if abs(mask.width * image.height - mask.height * image.width) > max(*image.size, *mask.size):
        sizes = f"{mask.width}x{mask.height} pixels for an image of {image.width}x{image.height}"
        raise TuningDataError(f"{mask_path}: got a mask of {sizes}; it must have the image's aspect")
    brightest = np.asarray(mask.convert("L")).max()
    if 0 < brightest <= _MIDDLE:  # a label map of 0 and 1: taken as it is, it would say that nothing is there
        raise TuningDataError(
            f"{mask_path}: got a mask whose brightest pixel is {brightest}; "
            f"the thing is what is brighter than {_MIDDLE}, the rest is black"
        )
    if "A" in image.getbands() or "transparency" in image.info:  # on white, as the service shows it
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    pixels = np.array(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    grey = np.asarray(mask.convert("L").resize((width, height), Image.Resampling.NEAREST))
    area = np.where(grey > _MIDDLE, np.uint8(255), np.uint8(0))
    return torch.from_numpy(pixels), torch.from_numpy(np.repeat(area[:, :, None], 3, axis=2))


def open_upright(path: Path) -> Image.Image:
    """A picture as it is to be shown, its pixels read.

    Raises:
        TuningDataError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise TuningDataError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
