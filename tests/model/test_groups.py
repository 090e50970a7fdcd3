"""Requests that share a forward: each answer is the one it gets alone."""

from __future__ import annotations

import re

import pytest
import torch

from model import SegGptForImageSegmentation
from tests.model.conftest import TINY, answer_half, draw_batch, ours_like, reference_of, relative_rms

TOLERANCE = 1e-5
GROUPS = (1, 2, 5, 1)
TYPES = ("instance", "semantic", "instance", "semantic")


@pytest.fixture(scope="module")
def network() -> SegGptForImageSegmentation:
    return ours_like(reference_of(TINY, seed=0))


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    return draw_batch(TINY, pairs=sum(GROUPS), seed=0, groups=len(GROUPS))


def parts_of(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The requests one by one."""
    prompts = zip(*(batch[name].split(GROUPS) for name in ("prompt_pixel_values", "prompt_masks")), strict=True)
    return [
        {"pixel_values": image, "prompt_pixel_values": pictures, "prompt_masks": masks}
        for image, (pictures, masks) in zip(batch["pixel_values"].split(1), prompts, strict=True)
    ]


@pytest.mark.parametrize("answer_only", [True, False])
def test_a_mixed_batch_gives_each_request_its_solo_answer(network, batch, answer_only: bool):
    with torch.inference_mode():
        mixed = network(**batch, group_sizes=GROUPS, embedding_type=TYPES, answer_only=answer_only).pred_masks
        solo = [
            network(**part, feature_ensemble=True, embedding_type=kind, answer_only=answer_only).pred_masks
            for part, kind in zip(parts_of(batch), TYPES, strict=True)
        ]
    rows = (1,) * len(GROUPS) if answer_only else GROUPS
    for together, alone in zip(mixed.split(rows), solo, strict=True):
        assert relative_rms(together, alone) <= TOLERANCE


def test_answer_only_gives_each_group_the_lower_half_of_its_first_canvas(network, batch):
    with torch.inference_mode():
        whole = network(**batch, group_sizes=GROUPS, embedding_type=TYPES).pred_masks
        answers = network(**batch, group_sizes=GROUPS, embedding_type=TYPES, answer_only=True).pred_masks
    firsts = torch.stack([part[0] for part in answer_half(whole).split(GROUPS)])
    assert relative_rms(answers, firsts) <= TOLERANCE


def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(network, batch):
    other = {name: values.clone() for name, values in batch.items()}
    other["pixel_values"][1:] = 3.0
    other["prompt_pixel_values"][1:] = -3.0
    other["prompt_masks"][1:] = 1.0
    with torch.inference_mode():
        answers = [
            network(**values, group_sizes=GROUPS, embedding_type=TYPES, answer_only=True).pred_masks[0]
            for values in (batch, other)
        ]
    assert torch.equal(answers[0], answers[1])


def test_a_picture_of_nans_harms_no_other_request(network, batch):
    poisoned = {name: values.clone() for name, values in batch.items()}
    poisoned["prompt_masks"][1:3] = torch.nan  # the second request
    with torch.inference_mode():
        clean = network(**batch, group_sizes=GROUPS, embedding_type=TYPES, answer_only=True).pred_masks
        answers = network(**poisoned, group_sizes=GROUPS, embedding_type=TYPES, answer_only=True).pred_masks
    assert answers[1].isnan().any()
    for group in (0, 2, 3):
        assert relative_rms(answers[group], clean[group]) <= TOLERANCE


@pytest.mark.parametrize("answer_only", [True, False])
def test_feature_ensemble_is_one_group_of_all_pairs(network, answer_only: bool):
    batch = draw_batch(TINY, pairs=4, seed=1, groups=1)
    with torch.inference_mode():
        flag = network(**batch, feature_ensemble=True, answer_only=answer_only).pred_masks
        group = network(**batch, group_sizes=[4], answer_only=answer_only).pred_masks
    assert torch.equal(flag, group)


def test_the_loss_is_the_same_with_answers_alone(network):
    batch = draw_batch(TINY, pairs=3, seed=4, groups=1)
    labels = draw_batch(TINY, pairs=1, seed=5)["prompt_masks"]
    with torch.inference_mode():
        whole = network(**batch, labels=labels, feature_ensemble=True).loss
        alone = network(**batch, labels=labels, feature_ensemble=True, answer_only=True).loss
    # The decoder of whole canvases sees a row of each pair's own prompt half, too.
    assert torch.allclose(alone, whole, rtol=1e-2)


def test_without_groups_every_pair_stands_alone(network):
    batch = draw_batch(TINY, pairs=3, seed=2)
    with torch.inference_mode():
        together = network(**batch, answer_only=True).pred_masks
        alone = [
            network(**{name: values[index : index + 1] for name, values in batch.items()}, answer_only=True).pred_masks
            for index in range(3)
        ]
    assert relative_rms(together, torch.cat(alone)) <= TOLERANCE


def test_a_kept_mask_stream_gives_the_same_answers(network, batch):
    images = {name: values for name, values in batch.items() if name != "prompt_masks"}
    with torch.inference_mode():
        wanted = network(**batch, group_sizes=GROUPS, embedding_type=TYPES, answer_only=True).pred_masks
        kept = network.model.mask_stream(batch["prompt_masks"], embedding_type=TYPES, group_sizes=GROUPS)
        for _ in range(2):
            got = network(
                **images, mask_stream=kept, group_sizes=GROUPS, embedding_type=TYPES, answer_only=True
            ).pred_masks
            assert relative_rms(got, wanted) <= TOLERANCE


@pytest.mark.parametrize("group_sizes", [(4, 4), (0, 9), (), (10, -1)])
def test_group_sizes_that_do_not_add_up_are_refused(network, batch, group_sizes):
    with pytest.raises(ValueError, match="add up to the 9 pairs"):
        network(**batch, group_sizes=group_sizes)


def test_embedding_types_are_one_for_all_or_one_per_group(network, batch):
    with pytest.raises(ValueError, match="embedding_type"):
        network(**batch, group_sizes=GROUPS, embedding_type=["instance", "semantic"])
    with pytest.raises(ValueError, match="'panoptic'"):
        network(**batch, group_sizes=GROUPS, embedding_type="panoptic")
    with torch.inference_mode():
        one = network(**batch, group_sizes=GROUPS, embedding_type="semantic", answer_only=True).pred_masks
        many = network(**batch, group_sizes=GROUPS, embedding_type=["semantic"] * 4, answer_only=True).pred_masks
    assert torch.equal(one, many)


def test_pictures_of_another_size_are_refused(network, batch):
    wrong = {**batch, "pixel_values": torch.zeros(4, 3, 32, 32)}
    with pytest.raises(ValueError, match=r"shape \(4, 3, 32, 32\)"):
        network(**wrong, group_sizes=GROUPS)


def test_as_many_input_images_as_groups_or_pairs_are_wanted(network, batch):
    wrong = {**batch, "pixel_values": batch["pixel_values"][:3]}
    with pytest.raises(ValueError, match=r"pixel_values has shape \(3, 3, 64, 64\); it must be \(4 or 9, 3, 64, 64\)"):
        network(**wrong, group_sizes=GROUPS)


WRONG_SHAPES = {
    "one label for two pairs": {"labels": (1, 3, 64, 64)},
    "a label of one channel": {"labels": (2, 1, 64, 64)},
    "a label of another size": {"labels": (2, 3, 1, 64)},
    "a whole canvas of labels": {"labels": (2, 3, 128, 64)},
    "three masked rows for two pairs": {"bool_masked_pos": (3, 32)},
    "one masked patch for all": {"bool_masked_pos": (2, 1)},
    "masked patches without a batch axis": {"bool_masked_pos": (32,)},
    "masked pixels": {"bool_masked_pos": (2, 128, 64)},
}


@pytest.mark.parametrize("wrong", WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_labels_and_masked_patches_of_another_shape_are_refused_not_broadcast(network, wrong):
    (name, shape), *_ = wrong.items()
    asked = {
        **draw_batch(TINY, pairs=2, seed=0),
        "labels": torch.zeros(2, 3, *TINY.half_size),
        "bool_masked_pos": torch.ones(2, 32, dtype=torch.bool),
        name: torch.ones(shape),
    }
    with pytest.raises(ValueError, match=f"{name} .*{re.escape(str(shape))}.* must be"):
        network(**asked)


@pytest.mark.parametrize("masked_rows", [None, 1, 9])
def test_labels_may_be_one_for_each_group_or_each_pair(network, batch, masked_rows: int | None):
    labels = draw_batch(TINY, pairs=len(GROUPS), seed=3)["prompt_masks"]
    masked = None if masked_rows is None else torch.arange(32).expand(masked_rows, 32) >= 10
    with torch.inference_mode():
        by_group, by_pair = (
            network(**batch, group_sizes=GROUPS, labels=given, bool_masked_pos=masked).loss
            for given in (labels, labels.repeat_interleave(torch.tensor(GROUPS), 0))
        )
    assert torch.equal(by_group, by_pair)


def test_training_with_groups_reaches_every_weight_that_an_answer_needs(batch):
    network = ours_like(reference_of(TINY, seed=0)).train()
    labels = draw_batch(TINY, pairs=len(GROUPS), seed=3)["prompt_masks"]
    painted = network(**batch, group_sizes=GROUPS, embedding_type=TYPES, answer_only=True).pred_masks
    (painted - labels).square().mean().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert without == []
