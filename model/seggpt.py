"""The SegGPT network: the two public models, from pictures and masks to painted masks.

Two pictures stacked make a canvas: the prompt image over the input image, and beside it the prompt mask over an unknown
one, which the network paints. Read this file for what goes in and comes out, then `model.embeddings`, `model.encoder`
and `model.decoder` for what happens between.
Knows nothing of HTTP or PIL. Source: SegGPT, arXiv:2304.03284; Painter, arXiv:2212.02499.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import SegGptConfig
from model.decoder import SegGptDecoder
from model.embeddings import SegGptEmbeddings
from model.encoder import MaskStream, Output, SegGptEncoder, SegGptEncoderOutput
from model.layout import Layout
from model.pretrained import SegGptPreTrainedModel, check_shape


@dataclass
class SegGptImageSegmentationOutput(Output):
    """What was painted.

    Args:
        loss: float32 scalar, only with labels.
        pred_masks: (B, 3, 2H, W) ImageNet-normalised RGB, the answer is the lower half; with `answer_only`
            (groups, 3, H, W), the answer alone.
        hidden_states: as in SegGptEncoderOutput.
        attentions: as in SegGptEncoderOutput.
    """

    loss: Tensor | None = None
    pred_masks: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SegGptModel(SegGptPreTrainedModel):
    """Embeddings and encoder, without the decoder."""

    def __init__(self, config: SegGptConfig) -> None:
        super().__init__(config)
        self.embeddings = SegGptEmbeddings(config)
        self.encoder = SegGptEncoder(config)
        self._draw_weights(self.embeddings, self.encoder)

    @classmethod
    def _part_of(cls, whole: SegGptForImageSegmentation) -> Self:
        assert isinstance(whole.model, cls)
        return whole.model

    def forward(
        self,
        pixel_values: Tensor,
        prompt_pixel_values: Tensor,
        prompt_masks: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        feature_ensemble: bool | None = None,
        embedding_type: str | Sequence[str] | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        group_sizes: Sequence[int] | None = None,
        answer_only: bool = False,
        mask_stream: MaskStream | None = None,
    ) -> SegGptEncoderOutput | tuple[Any, ...]:
        """Encode pairs. (H, W) is half a canvas; B counts pairs.

        Args:
            pixel_values: (B, 3, H, W) or (groups, 3, H, W) float, ImageNet-normalised input images.
            prompt_pixel_values: (B, 3, H, W) float, normalised prompt images.
            prompt_masks: (B, 3, H, W) float, normalised colours; not needed with mask_stream.
            bool_masked_pos: (B or 1, rows * columns) bool, which patches of the mask canvas are unknown; default: its
                lower half.
            feature_ensemble: all pairs are examples of one input image (if group_sizes does not say otherwise).
            embedding_type: "instance" (default) or "semantic", or one of these per group.
            labels: (B, 3, H, W) or (groups, 3, H, W) float, the true masks, seen only where bool_masked_pos leaves
                their patches visible.
            output_attentions: also give every block's attention weights.
            output_hidden_states: also give every block's input and the last output.
            return_dict: False gives a plain tuple. Where these three are None the config decides, but not for
                `answer_only`.
            group_sizes: numbers of consecutive pairs that are examples of one input image; each group is averaged in
                itself as the paper's feature ensemble, and no group sees another.
            answer_only: compute only what the answer's decoder needs; see SegGptEncoder.
            mask_stream: from `mask_stream`, instead of prompt_masks.

        Raises:
            ValueError: shapes, groups or embedding types do not fit together; the message says which.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions and not answer_only
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states and not answer_only
        if answer_only and (output_attentions or output_hidden_states):
            raise ValueError("answer_only computes no full hidden states or attentions; ask for one or the other")
        self._check_pictures("prompt_pixel_values", prompt_pixel_values)
        layout = self._layout(len(prompt_pixel_values), group_sizes, feature_ensemble)
        types = self.embeddings.types(_types_of(embedding_type, layout))
        inputs = self._per_group("pixel_values", pixel_values, layout)
        labels = None if labels is None else self._per_group("labels", labels, layout)
        images = self.embeddings.image_stream(prompt_pixel_values, inputs, layout, types)
        masks: Tensor | MaskStream
        if mask_stream is None:
            masks = self._embedded_masks(prompt_masks, layout, types, bool_masked_pos, labels)
        elif bool_masked_pos is not None or mask_stream.layout != layout:
            raise ValueError("mask_stream must come from the same group_sizes, and excludes bool_masked_pos")
        else:
            masks = mask_stream
        output: SegGptEncoderOutput = self.encoder(
            images,
            masks,
            layout,
            answer_only=answer_only,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        return self._returned(output, return_dict, answer_only)

    def mask_stream(
        self,
        prompt_masks: Tensor,
        embedding_type: str | Sequence[str] | None = None,
        group_sizes: Sequence[int] | None = None,
    ) -> MaskStream:
        """Run the mask stream up to the merge; `forward` takes it in place of these prompt masks.

        Args:
            prompt_masks: (B, 3, H, W) float, normalised colours.
            embedding_type: as in `forward`, and the same there.
            group_sizes: as in `forward`, and the same there.
        """
        layout = self._layout(len(prompt_masks), group_sizes)
        types = self.embeddings.types(_types_of(embedding_type, layout))
        tokens = self._embedded_masks(prompt_masks, layout, types)
        return MaskStream(self.encoder.before_merge(tokens, layout), layout)

    def _embedded_masks(
        self,
        prompt_masks: Tensor | None,
        layout: Layout,
        types: Tensor,
        bool_masked_pos: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        if prompt_masks is None:
            raise ValueError("prompt_masks is missing; only a mask_stream stands in for it")
        self._check_pictures("prompt_masks", prompt_masks, (layout.pairs,))
        if bool_masked_pos is None:
            return self.embeddings.mask_stream(prompt_masks, layout, types)
        check_shape("bool_masked_pos", bool_masked_pos, (1, layout.pairs), (2 * layout.half_tokens,))
        upper, lower = bool_masked_pos.to(torch.bool).chunk(2, dim=1)
        if not layout.is_one_to_one and not bool(lower.all()):
            raise ValueError("an ensemble needs the whole lower half of bool_masked_pos masked")
        return self.embeddings.mask_stream(
            prompt_masks,
            layout,
            types,
            unknown=(upper, lower if len(lower) == 1 else layout.first_of_group(lower)),
            labels=layout.first_of_group(prompt_masks) if labels is None else labels,
        )


class SegGptForImageSegmentation(SegGptPreTrainedModel):
    """The whole of it: pictures and masks in, painted masks out."""

    def __init__(self, config: SegGptConfig) -> None:
        super().__init__(config)
        self.model = SegGptModel(config)
        self.decoder = SegGptDecoder(config)
        self._draw_weights(self.decoder)
        #: The precision that `model.inference.optimise` prepared it for; its weights are no checkpoint's any more.
        self.prepared_for: str | None = None

    @classmethod
    def _part_of(cls, whole: SegGptForImageSegmentation) -> Self:
        assert isinstance(whole, cls)
        return whole

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors as transformers reads them; the processor saves its own settings.

        Args:
            folder: made if it is not there.
            dtype: precision on disk; None keeps the network's.

        Raises:
            CheckpointError: `model.inference.optimise` has prepared the network.
        """
        from model import checkpoint  # noqa: PLC0415  # it builds these classes, so it imports this module

        checkpoint.save(self, folder, dtype)

    def forward(
        self,
        pixel_values: Tensor,
        prompt_pixel_values: Tensor,
        prompt_masks: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        feature_ensemble: bool | None = None,
        embedding_type: str | Sequence[str] | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        group_sizes: Sequence[int] | None = None,
        answer_only: bool = False,
        mask_stream: MaskStream | None = None,
    ) -> SegGptImageSegmentationOutput | tuple[Any, ...]:
        """Paint the masks of the input images; arguments as in SegGptModel.forward.

        With labels the loss is the smooth-L1 of the unknown patches. `answer_only` gives pred_masks of
        (groups, 3, H, W), equal to the lower halves of each group's first canvas, for less work: what a service wants.

        Raises:
            ValueError: as SegGptModel.forward; or labels with both answer_only and bool_masked_pos.
        """
        if answer_only and labels is not None and bool_masked_pos is not None:
            raise ValueError("with bool_masked_pos the loss needs whole canvases; leave answer_only out")
        encoded = self.model(
            pixel_values,
            prompt_pixel_values,
            prompt_masks,
            bool_masked_pos=bool_masked_pos,
            feature_ensemble=feature_ensemble,
            embedding_type=embedding_type,
            labels=labels,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            group_sizes=group_sizes,
            answer_only=answer_only,
            mask_stream=mask_stream,
        )
        features = torch.cat(encoded.intermediate_hidden_states, dim=-1)
        pred_masks = self.decoder(features, answer_only=answer_only)
        loss = None
        if labels is not None:
            layout = self._layout(len(prompt_pixel_values), group_sizes, feature_ensemble)
            labels = layout.per_pair(self._per_group("labels", labels, layout))
            painted = layout.per_pair(pred_masks) if answer_only else pred_masks
            loss = self._loss(painted, labels, prompt_masks, bool_masked_pos)
        output = SegGptImageSegmentationOutput(
            loss=loss,
            pred_masks=pred_masks,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return self._returned(output, return_dict, answer_only)

    def _loss(
        self, pred_masks: Tensor, labels: Tensor, prompt_masks: Tensor | None, bool_masked_pos: Tensor | None
    ) -> Tensor:
        """Smooth-L1 over the unknown patches: sum of losses / number of masked values, as in the references.

        There a mask of one row, the default among them, counts its values once however many pairs it is used for.
        Sums are taken in float32: float16 counts no further than 65504.
        """
        height, _ = self.config.half_size
        pred_masks, labels = pred_masks.float(), labels.float()
        if bool_masked_pos is None:
            answers = pred_masks[:, :, -height:]
            return F.smooth_l1_loss(answers, labels, beta=self.config.beta) * len(answers)
        assert prompt_masks is not None  # the encoder took it
        truth = torch.cat((prompt_masks, labels), dim=2)
        unknown = bool_masked_pos.reshape(-1, 1, *self.config.grid).float()
        unknown = unknown.repeat_interleave(self.config.patch_size, 2).repeat_interleave(self.config.patch_size, 3)
        loss = F.smooth_l1_loss(pred_masks, truth, beta=self.config.beta, reduction="none")
        unknown = unknown.expand(len(unknown), *loss.shape[1:])
        return (loss * unknown).sum() / unknown.sum()


def _types_of(embedding_type: str | Sequence[str] | None, layout: Layout) -> Sequence[str]:
    """One embedding type per group."""
    if embedding_type is None or isinstance(embedding_type, str):
        return (embedding_type or "instance",) * layout.groups
    if len(embedding_type) != layout.groups:
        raise ValueError(f"embedding_type has {len(embedding_type)} entries for {layout.groups} groups")
    return embedding_type
