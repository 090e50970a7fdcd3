"""The image processor: pictures and masks to tensors, and painted answers back to class maps. No network.

Sizes are (height, width). Source: transformers, `SegGptImageProcessor`; Painter, arXiv:2212.02499, section 3.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.colours import IMAGE_MEAN, IMAGE_STD, MAX_VALUE, build_palette, colours, decode_colours, enlarge
from model.pictures import Picture, Pixels, listed, mask_colours, resized, rgb
from model.sources import PREPROCESSOR, places_of


class _Painted(Protocol):
    @property
    def pred_masks(self) -> Tensor | None: ...


@dataclass(frozen=True)
class SemanticSegmentation:
    """One decoded answer.

    Args:
        segmentation: (H, W) class indices, or grey values 0..255 when there was no palette.
        segmentation_scores: (classes, H, W) minus squared distance to each class's colour, in 0..255 units; None
            without a palette.
    """

    segmentation: Tensor
    segmentation_scores: Tensor | None


class Batch(dict[str, Tensor]):
    """Tensors by name: `model(**batch)`; attributes and `to` as transformers' BatchFeature has them."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def to(self, *place: Any, **options: Any) -> Batch:
        """Move or cast every tensor, in place as there; arguments as torch.Tensor.to."""
        self.update({name: tensor.to(*place, **options) for name, tensor in self.items()})
        return self


class SegGptImageProcessor:
    """Prepare pictures and masks for SegGPT, and read its answers. Call it, or `preprocess`.

    Args:
        size: (height, width) of one picture, one number for a square, or Hugging Face's {"height": ..., "width": ...}.
        resample: filter for pictures; Pillow's bicubic. Masks always use nearest.
        num_labels: classes of the masks beside the background; None leaves mask values as they are.
        image_mean, image_std: for red, green and blue, or one number for all, where pictures are in 0..1.
        do_resize, do_rescale, do_normalize, do_convert_rgb, rescale_factor: Hugging Face's. Each setting can be given
            to `preprocess` too.

    Raises:
        ValueError: the size has no height and width of at least 1; mean or deviation are not one or three numbers.
    """

    model_input_names = ("pixel_values", "prompt_pixel_values", "prompt_masks")

    def __init__(
        self,
        size: Mapping[str, int] | Sequence[int] | int = (448, 448),
        *,
        do_resize: bool = True,
        resample: int = Image.Resampling.BICUBIC,
        do_rescale: bool = True,
        rescale_factor: float = 1 / MAX_VALUE,
        do_normalize: bool = True,
        image_mean: Sequence[float] | float = IMAGE_MEAN,
        image_std: Sequence[float] | float = IMAGE_STD,
        do_convert_rgb: bool = True,
        num_labels: int | None = None,
    ) -> None:
        self.size = _size_of(size)
        self.do_resize = do_resize
        self.resample = resample
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = _per_channel("image_mean", image_mean)
        self.image_std = _per_channel("image_std", image_std)
        self.do_convert_rgb = do_convert_rgb
        self.num_labels = num_labels

    @classmethod
    def from_pretrained(cls, source: str | Path, **given: Any) -> SegGptImageProcessor:
        """Read a checkpoint's `preprocessor_config.json`; without one, the defaults at the checkpoint's picture size.

        Args:
            source: hub id, folder or file, as `model.checkpoint.resolve` takes it; weights are not fetched.
            given: settings that stand in for the stored ones where they are not None; revision, cache_dir, token,
                local_files_only, endpoint.

        Raises:
            CheckpointError: the checkpoint cannot be had, or the file cannot be read.
            TypeError: there is no such argument.
        """
        from model import checkpoint  # noqa: PLC0415  # it builds this class, so it imports this module

        settings = {name: given.pop(name) for name in _SETTINGS if name in given}
        places = places_of(f"{cls.__name__}.from_pretrained", given, _SETTINGS)
        return cls.from_dict(checkpoint.preprocessor_of(source, **places))._with(settings)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`, as transformers reads it, to a folder that is made if it is not there."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        (Path(folder) / PREPROCESSOR).write_text(content, encoding="utf-8")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SegGptImageProcessor:
        """Build from the content of Hugging Face's `preprocessor_config.json`; keys of no meaning here are ignored."""
        return cls(**{name: values[name] for name in _SETTINGS if values.get(name) is not None})

    def to_dict(self) -> dict[str, Any]:
        """The content of a `preprocessor_config.json` that transformers reads."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        settings["size"] = {"height": self.size[0], "width": self.size[1]}
        settings["resample"] = int(self.resample)
        settings["image_mean"], settings["image_std"] = list(self.image_mean), list(self.image_std)
        return {"image_processor_type": "SegGptImageProcessor", **settings}

    def __call__(
        self,
        images: Picture | Sequence[Picture] | None = None,
        prompt_images: Picture | Sequence[Picture] | None = None,
        prompt_masks: Picture | Sequence[Picture] | None = None,
        **settings: Any,
    ) -> Batch:
        """`preprocess`."""
        return self.preprocess(images, prompt_images, prompt_masks, **settings)

    def get_palette(self, num_labels: int) -> list[tuple[int, int, int]]:
        """`build_palette`, under Hugging Face's name."""
        return build_palette(num_labels)

    def preprocess(
        self,
        images: Picture | Sequence[Picture] | None = None,
        prompt_images: Picture | Sequence[Picture] | None = None,
        prompt_masks: Picture | Sequence[Picture] | None = None,
        *,
        num_labels: int | None = None,
        do_convert_rgb: bool | None = None,
        return_tensors: str | None = "pt",
        **settings: Any,
    ) -> Batch:
        """Prepare one batch.

        Args:
            images, prompt_images: PIL of any mode, or arrays or tensors in [0, 255], (H, W, 3), (3, H, W) or grey
                (H, W); a batch in one array has four axes. With do_rescale=False floats are taken as they are.
            prompt_masks: 2-D maps of class indices (PIL modes L, P, 1, I, arrays (H, W) or a batch (B, H, W)), coloured
                by the palette when num_labels is given; or RGB pictures of colours, of PIL or (H, W, 3).
            num_labels: overrides the processor's.
            do_convert_rgb: False says that the masks are RGB, also (3, H, W); a 2-D mask is then an error.
            return_tensors: only "pt" (the default; None means the same).
            settings: do_resize, do_rescale, do_normalize, rescale_factor, size, resample, image_mean, image_std.

        Returns:
            pixel_values, prompt_pixel_values and prompt_masks, those given, each (B, 3, height, width) float32.

        Raises:
            ValueError: nothing given; pictures of impossible shape or range; a label without a colour.
        """
        if images is None and prompt_images is None and prompt_masks is None:
            raise ValueError("give at least one of images, prompt_images and prompt_masks")
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors is {return_tensors!r}; it must be 'pt'")
        own = self._with(settings)
        is_scaled = not own.do_rescale
        labels = self.num_labels if num_labels is None else num_labels
        palette = None if labels is None else np.array(build_palette(labels), dtype=np.uint8)
        as_maps = self.do_convert_rgb if do_convert_rgb is None else do_convert_rgb
        batch = Batch()
        for name, pictures in (("pixel_values", images), ("prompt_pixel_values", prompt_images)):
            if pictures is not None:
                batch[name] = torch.stack([own._tensor(rgb(one, is_scaled), own.resample) for one in listed(pictures)])
        if prompt_masks is not None:
            masks = [mask_colours(one, palette, as_maps, is_scaled) for one in listed(prompt_masks, as_maps)]
            batch["prompt_masks"] = torch.stack([own._tensor(mask, Image.Resampling.NEAREST) for mask in masks])
        return batch

    def post_process_masks(
        self,
        pred_masks: Tensor | _Painted,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        num_labels: int | None = None,
    ) -> list[SemanticSegmentation]:
        """Read painted answers.

        Args:
            pred_masks: normalised (B, 3, H, W) answers of the processor's size, or (B, 3, 2H, W) canvases of any other;
                or the network's whole output.
            target_sizes: (height, width) per answer to enlarge to, by nearest as torch does it; None keeps (H, W).
            num_labels: classes of the palette the prompt was coloured with; None means the processor's, and without
                either grey values are read.

        Returns:
            One SemanticSegmentation per answer. Decoding before enlarging gives exactly what transformers' order gives.

        Raises:
            ValueError: wrong shape, or as many sizes as answers were not given.
        """
        tensor = _pred_masks_of(pred_masks)
        return self._decoded(
            tensor if tuple(tensor.shape[2:]) == self.size else _answers_of(tensor), target_sizes, num_labels
        )

    def post_process_semantic_segmentation(
        self,
        outputs: _Painted,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        num_labels: int | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Tensor] | list[SemanticSegmentation]:
        """`post_process_masks` as Hugging Face has it: canvases only, and maps alone unless scores are asked for.

        There, num_labels=None reads grey values even where the processor has labels of its own.
        """
        decoded = self._decoded(_answers_of(_pred_masks_of(outputs)), target_sizes, num_labels)
        return decoded if return_segmentation_scores else [one.segmentation for one in decoded]

    def _decoded(
        self, answers: Tensor, target_sizes: Sequence[tuple[int, int]] | None, num_labels: int | None
    ) -> list[SemanticSegmentation]:
        """(B, 3, H, W) normalised answers -> one SemanticSegmentation each."""
        if target_sizes is not None and len(target_sizes) != len(answers):
            raise ValueError(f"got {len(target_sizes)} target_sizes for {len(answers)} answers")
        labels = self.num_labels if num_labels is None else num_labels
        decoded = []
        for index, painted in enumerate(colours(answers, self.image_mean, self.image_std)):
            if labels is None:
                segmentation, scores = painted.mean(dim=0).int(), None
            else:
                palette = torch.tensor(build_palette(labels), dtype=torch.float32, device=painted.device)
                segmentation, scores = decode_colours(painted, palette)
            if target_sizes is not None:
                segmentation = enlarge(segmentation, target_sizes[index])
                scores = None if scores is None else enlarge(scores, target_sizes[index])
            decoded.append(SemanticSegmentation(segmentation, scores))
        return decoded

    def _with(self, settings: Mapping[str, Any]) -> SegGptImageProcessor:
        if not settings:
            return self
        unknown = sorted(set(settings) - set(_SETTINGS))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a setting of the processor; there are {', '.join(_SETTINGS)}")
        given = {name: value for name, value in settings.items() if value is not None}
        return type(self)(**{**{name: getattr(self, name) for name in _SETTINGS}, **given})

    def _tensor(self, pixels: Pixels, resample: int) -> Tensor:
        """(H, W, 3) -> (3, height, width) float32."""
        if self.do_resize and pixels.shape[:2] != self.size:
            pixels = resized(pixels, self.size, resample)
        values = torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)
        if self.do_rescale:
            # rounded to float32 between the steps, as the references do
            values = values * self.rescale_factor
        values = values.to(torch.float32)
        if self.do_normalize:
            mean, std = (torch.tensor(three).view(3, 1, 1) for three in (self.image_mean, self.image_std))
            values = (values - mean) / std
        return values.contiguous()


_SETTINGS = (
    "size",
    "do_resize",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
    "num_labels",
)


def _size_of(size: Mapping[str, int] | Sequence[int] | int) -> tuple[int, int]:
    sides: Any = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else np.array(size).tolist()
    height, width = sides if isinstance(sides, list) and len(sides) == 2 else (sides, sides)
    if not all(isinstance(side, int) and side >= 1 for side in (height, width)):
        raise ValueError(f"size is {size!r}; it must be (height, width) or a height and a width, each at least 1")
    return height, width


def _per_channel(name: str, value: Sequence[float] | float) -> tuple[float, ...]:
    three: Any = np.array(value).tolist()
    three = three if isinstance(three, list) else [three] * 3
    if len(three) != 3 or not all(isinstance(one, int | float) for one in three):
        raise ValueError(f"{name} is {value!r}; it must be one number, or three (red, green, blue)")
    return tuple(three)


def _pred_masks_of(painted: Tensor | _Painted) -> Tensor:
    tensor = painted if isinstance(painted, Tensor) else painted.pred_masks
    if tensor is None or tensor.ndim != 4 or tensor.shape[1] != 3:
        got = None if tensor is None else tuple(tensor.shape)
        raise ValueError(f"pred_masks has shape {got}; it must be (B, 3, 2H, W), or (B, 3, H, W) of the answers alone")
    return tensor


def _answers_of(canvases: Tensor) -> Tensor:
    """(B, 3, 2H, W) -> (B, 3, H, W): the lower half."""
    return canvases[:, :, canvases.shape[2] // 2 :]
