"""Pictures and masks of any kind to tensors, and painted answers back to class maps. No network.

Sizes are (height, width). Source: transformers, `SegGptImageProcessor`; Painter, arXiv:2212.02499, section 3.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.colours import IMAGE_MEAN, IMAGE_STD, MAX_VALUE, build_palette, colours, decode_colours, enlarge
from model.sources import PREPROCESSOR, places_of

_WIDE_MODES = "IF"  # the first letters of Pillow's I, I;16 and so on, and F

Picture = Image.Image | NDArray[Any] | Tensor


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
        """Move or cast every tensor; arguments as torch.Tensor.to."""
        return Batch({name: tensor.to(*place, **options) for name, tensor in self.items()})


class SegGptImageProcessor:
    """Prepare pictures and masks for SegGPT, and read its answers. Call it, or `preprocess`.

    Args:
        size: (height, width) of one picture, or Hugging Face's {"height": ..., "width": ...}.
        resample: filter for pictures; Pillow's bicubic. Masks always use nearest.
        num_labels: classes of the masks beside the background; None leaves mask values as they are.
        do_resize, do_rescale, do_normalize, do_convert_rgb, rescale_factor, image_mean, image_std: Hugging Face's; each
            can be given to `preprocess` too.

    Raises:
        ValueError: the size has no height and width of at least 1.
    """

    model_input_names = ("pixel_values", "prompt_pixel_values", "prompt_masks")

    def __init__(
        self,
        size: Mapping[str, int] | Sequence[int] = (448, 448),
        *,
        do_resize: bool = True,
        resample: int = Image.Resampling.BICUBIC,
        do_rescale: bool = True,
        rescale_factor: float = 1 / MAX_VALUE,
        do_normalize: bool = True,
        image_mean: Sequence[float] = IMAGE_MEAN,
        image_std: Sequence[float] = IMAGE_STD,
        do_convert_rgb: bool = True,
        num_labels: int | None = None,
    ) -> None:
        self.size = _size_of(size)
        self.do_resize = do_resize
        self.resample = resample
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.do_convert_rgb = do_convert_rgb
        self.num_labels = num_labels

    @classmethod
    def from_pretrained(cls, source: str | Path, **given: Any) -> SegGptImageProcessor:
        """Read a checkpoint's `preprocessor_config.json`; without one, the defaults at the checkpoint's picture size.

        Args:
            source: hub id, folder or file, as `model.checkpoint.resolve` takes it; weights are not fetched.
            given: settings that stand in for the stored ones; revision, cache_dir, token, local_files_only, endpoint.

        Raises:
            CheckpointError: the checkpoint cannot be had, or the file cannot be read.
            TypeError: there is no such argument.
        """
        from model import checkpoint  # noqa: PLC0415  # it builds this class, so it imports this module

        settings = {name: given.pop(name) for name in _SETTINGS if name in given}
        places = places_of(f"{cls.__name__}.from_pretrained", given, _SETTINGS)
        return cls.from_dict({**checkpoint.preprocessor_of(source, **places), **settings})

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
            images, prompt_images: PIL of any mode, or uint8 arrays or tensors in [0, 255], (H, W, 3), (3, H, W) or
                grey (H, W). Floats count as 0..255 too.
            prompt_masks: 2-D maps of class indices (PIL modes L, P, 1, I or integer arrays), coloured by the palette
                when num_labels is given; or RGB pictures of colours, recognised by their three channels.
            num_labels: overrides the processor's.
            do_convert_rgb: False says that the masks are RGB; a 2-D mask is then an error.
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
        labels = self.num_labels if num_labels is None else num_labels
        palette = None if labels is None else np.array(build_palette(labels), dtype=np.uint8)
        as_maps = self.do_convert_rgb if do_convert_rgb is None else do_convert_rgb
        batch = Batch()
        for name, pictures in (("pixel_values", images), ("prompt_pixel_values", prompt_images)):
            if pictures is not None:
                batch[name] = torch.stack([own._tensor(_rgb(one), own.resample) for one in _listed(pictures)])
        if prompt_masks is not None:
            batch["prompt_masks"] = torch.stack(
                [
                    own._tensor(_mask_colours(one, palette, as_maps), Image.Resampling.NEAREST)
                    for one in _listed(prompt_masks)
                ]
            )
        return batch

    def post_process_masks(
        self,
        pred_masks: Tensor | _Painted,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        num_labels: int | None = None,
    ) -> list[SemanticSegmentation]:
        """Read painted answers.

        Args:
            pred_masks: (B, 3, 2H, W) canvases or (B, 3, H, W) answers, normalised; or the network's whole output.
            target_sizes: (height, width) per answer to enlarge to, by nearest as torch does it; None keeps (H, W).
            num_labels: classes of the palette the prompt was coloured with; None reads grey values.

        Returns:
            One SemanticSegmentation per answer. Decoding before enlarging gives exactly what transformers' order gives.

        Raises:
            ValueError: wrong shape, or as many sizes as answers were not given.
        """
        painted = self._answers(pred_masks)
        if target_sizes is not None and len(target_sizes) != len(painted):
            raise ValueError(f"got {len(target_sizes)} target_sizes for {len(painted)} answers")
        labels = self.num_labels if num_labels is None else num_labels
        decoded = []
        for index, answer in enumerate(painted):
            if labels is None:
                segmentation, scores = answer.mean(dim=0).int(), None
            else:
                palette = torch.tensor(build_palette(labels), dtype=torch.float32, device=answer.device)
                segmentation, scores = decode_colours(answer, palette)
            if target_sizes is not None:
                segmentation = enlarge(segmentation, target_sizes[index])
                scores = None if scores is None else enlarge(scores, target_sizes[index])
            decoded.append(SemanticSegmentation(segmentation, scores))
        return decoded

    def post_process_semantic_segmentation(
        self,
        outputs: _Painted,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        num_labels: int | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Tensor] | list[SemanticSegmentation]:
        """`post_process_masks` under Hugging Face's name: the maps alone unless scores are asked for."""
        decoded = self.post_process_masks(outputs, target_sizes, num_labels)
        return decoded if return_segmentation_scores else [one.segmentation for one in decoded]

    def _answers(self, pred_masks: Tensor | _Painted) -> Tensor:
        """(B, 3, H, W) float32 RGB in [0, 255]."""
        tensor = pred_masks if isinstance(pred_masks, Tensor) else pred_masks.pred_masks
        height, width = self.size
        if tensor is None or tensor.ndim != 4 or tensor.shape[1] != 3:
            got = None if tensor is None else tuple(tensor.shape)
            raise ValueError(f"pred_masks has shape {got}; it must be (B, 3, {2 * height} or {height}, {width})")
        if tuple(tensor.shape[2:]) != self.size:
            # Any other height is a canvas of some size, as transformers takes it.
            tensor = tensor[:, :, tensor.shape[2] // 2 :]
        return colours(tensor, self.image_mean, self.image_std)

    def _with(self, settings: Mapping[str, Any]) -> SegGptImageProcessor:
        if not settings:
            return self
        unknown = sorted(set(settings) - set(_SETTINGS))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a setting of the processor; there are {', '.join(_SETTINGS)}")
        return SegGptImageProcessor(**{**{name: getattr(self, name) for name in _SETTINGS}, **settings})

    def _tensor(self, pixels: NDArray[np.uint8], resample: int) -> Tensor:
        """(H, W, 3) uint8 -> (3, height, width) float32."""
        if self.do_resize and pixels.shape[:2] != self.size:
            height, width = self.size
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), resample))
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


def _size_of(size: Mapping[str, int] | Sequence[int]) -> tuple[int, int]:
    sides = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"size is {size!r}; it must be (height, width) or a height and a width, each at least 1")
    return int(sides[0] or 0), int(sides[1] or 0)


def _listed(pictures: Picture | Sequence[Picture]) -> Iterable[Picture]:
    """One picture or many, also as one array with a batch axis, -> an iterable of pictures."""
    if isinstance(pictures, Image.Image):
        return [pictures]
    if isinstance(pictures, np.ndarray | Tensor):
        # (B, H, W, 3), (B, 3, H, W): four axes are a batch. Three are one picture, unless none of them is colour.
        is_batch = pictures.ndim == 4 or (pictures.ndim == 3 and not {1, 3} & {*pictures.shape[::2]})
        return list(pictures) if is_batch else [pictures]
    return pictures


def _array(picture: Picture) -> NDArray[Any]:
    """(H, W) or (H, W, 3) uint8 of any picture but PIL's; booleans become 0 and 255."""
    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else np.asarray(picture)
    if array.ndim == 3 and array.shape[-1] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or 0 in array.shape:
        raise ValueError(f"a picture has shape {array.shape}; it must be (H, W), (H, W, 3) or (3, H, W)")
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if not 0 <= array.min() <= array.max() <= MAX_VALUE:  # so written, it refuses NaN too
        raise ValueError(f"a picture has values from {array.min()} to {array.max()}; they must lie in 0..255")
    if array.dtype.kind == "f" and 0 < array.max() <= 1:
        raise ValueError("a picture of floats lies in 0..1; values must lie in 0..255 (multiply by 255)")
    return array.astype(np.uint8)


def _rgb(picture: Picture) -> NDArray[np.uint8]:
    """(H, W, 3) uint8."""
    if isinstance(picture, Image.Image):
        # Pillow would clip the wide modes (16 and 32 bit) to a white picture; their values are checked instead.
        if picture.mode[0] not in _WIDE_MODES:
            return np.asarray(picture.convert("RGB"))
        picture = np.asarray(picture)
    array = _array(picture)
    return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)


def _mask_colours(mask: Picture, palette: NDArray[np.uint8] | None, as_map: bool) -> NDArray[np.uint8]:
    """A map of class indices or an RGB mask -> (H, W, 3) uint8 colours."""
    if isinstance(mask, Image.Image):
        # P holds class indices, which is what a mask of that mode is for; its colours are for people.
        is_plain = mask.mode in ("L", "P", "1", "RGB") or mask.mode[0] in _WIDE_MODES
        mask = np.asarray(mask if is_plain else mask.convert("RGB"))
    is_boolean = mask.dtype in (np.bool_, torch.bool)
    array = _array(mask)
    if array.ndim == 3:
        if palette is not None and as_map:
            raise ValueError("num_labels needs a 2-D map of class indices; this mask has three channels")
        return array
    if not as_map:
        raise ValueError("do_convert_rgb=False needs masks of three channels; this one has two axes")
    if palette is None:
        if array.max() == 1:
            raise ValueError("a mask of 0 and 1 would be nearly black; give num_labels=1, or a mask of 0 and 255")
        return np.repeat(array[..., None], 3, axis=2)
    if is_boolean:
        array = array // 255
    highest = int(array.max())
    if highest >= len(palette):
        raise ValueError(f"a mask has label {highest}; num_labels={len(palette) - 1} allows 0 to {len(palette) - 1}")
    coloured: NDArray[np.uint8] = palette[array]
    return coloured
