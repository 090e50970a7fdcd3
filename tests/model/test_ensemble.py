"""Several examples for one input image: as the original averages them, which transformers misses by one layer."""

from __future__ import annotations

import inspect
import textwrap
import types
from dataclasses import replace

import pytest
import torch
import transformers
from transformers.models.seggpt import modeling_seggpt

from tests.model.conftest import TINY, answer_half, draw_batch, ours_like, reference_of, relative_rms

TOLERANCE = 1e-5
WRONG = "2 if self.config.merge_index > i else 1"
MENDED = "2 if self.config.merge_index >= i else 1"

MERGES = {
    "merge after block 2": TINY,
    "merge after block 1, wide canvas": replace(
        TINY, image_size=(96, 128), merge_index=1, intermediate_hidden_state_indices=(1, 3, 5)
    ),
    "merge after block 0": replace(TINY, merge_index=0, intermediate_hidden_state_indices=(0, 2, 5)),
}


def mend(theirs: transformers.SegGptForImageSegmentation) -> transformers.SegGptForImageSegmentation:
    """Give transformers' encoder the one comparison that the original has.

    Its blocks before the merge average the input half within each stream, those behind it over all rows. The block of
    the merge itself still works on both streams, but `>` counts it among those behind: `>=` is what the original does.
    """
    source = textwrap.dedent(inspect.getsource(modeling_seggpt.SegGptEncoder.forward))
    assert source.count(WRONG) == 1, "transformers' encoder is not the one that this test knows"
    namespace = dict(vars(modeling_seggpt))
    exec(source.replace(WRONG, MENDED), namespace)
    encoder = theirs.model.encoder
    encoder.forward = types.MethodType(namespace["forward"], encoder)
    return theirs


def question(config, examples: int, seed: int) -> dict[str, torch.Tensor]:
    """One input image with several examples, the image repeated for each as transformers wants it."""
    batch = draw_batch(config, pairs=examples, seed=seed, groups=1)
    return {**batch, "pixel_values": batch["pixel_values"].expand(examples, -1, -1, -1)}


@pytest.mark.parametrize("embedding_type", ["instance", "semantic"])
@pytest.mark.parametrize("examples", [1, 2, 3, 8])
@pytest.mark.parametrize("config", MERGES.values(), ids=MERGES.keys())
def test_an_ensemble_equals_that_of_the_original(config, examples: int, embedding_type: str):
    theirs = mend(reference_of(config, seed=examples))
    ours = ours_like(theirs)
    batch = question(config, examples, seed=examples)
    asked = {"embedding_type": embedding_type, "feature_ensemble": True}
    with torch.inference_mode():
        wanted = theirs(**batch, **asked).pred_masks
        whole = ours(**batch, **asked).pred_masks
        answer = ours(**batch, **asked, answer_only=True).pred_masks
    assert relative_rms(whole, wanted) <= TOLERANCE
    assert answer.shape[0] == 1
    # The answer's first pixel row also sees the prompt half above it; the original answers with the first example's.
    assert relative_rms(answer, answer_half(wanted)[:1]) <= TOLERANCE


def test_hidden_states_and_attentions_of_an_ensemble_equal_those_of_the_original():
    theirs = mend(reference_of(TINY, seed=3))
    ours = ours_like(theirs)
    asked = {"feature_ensemble": True, "output_hidden_states": True, "output_attentions": True}
    batch = question(TINY, examples=3, seed=3)
    with torch.inference_mode():
        wanted, got = theirs(**batch, **asked), ours(**batch, **asked)
    pairs = zip((*got.hidden_states, *got.attentions), (*wanted.hidden_states, *wanted.attentions), strict=True)
    for mine, other in pairs:
        assert relative_rms(mine, other) <= TOLERANCE


def test_one_input_image_may_stand_for_all_its_examples():
    ours = ours_like(reference_of(TINY, seed=4))
    batch = question(TINY, examples=3, seed=4)
    with torch.inference_mode():
        repeated = ours(**batch, feature_ensemble=True).pred_masks
        once = ours(**{**batch, "pixel_values": batch["pixel_values"][:1]}, feature_ensemble=True).pred_masks
    assert relative_rms(once, repeated) <= TOLERANCE


@pytest.mark.parametrize("examples", [1, 2, 3, 8])
def test_transformers_averages_the_two_streams_with_each_other_in_the_block_of_the_merge(examples: int):
    """Its `merge_index > i` misses i == merge_index: there image stream and mask stream are averaged together, even for
    one example, where the original averages nothing. With the comparison mended the difference is gone."""
    unmended = reference_of(TINY, seed=5)
    batch = question(TINY, examples, seed=5)
    ours = ours_like(unmended)
    with torch.inference_mode():
        ours_answer = answer_half(ours(**batch, feature_ensemble=True).pred_masks)
        wrong = answer_half(unmended(**batch, feature_ensemble=True).pred_masks)
        right = answer_half(mend(unmended)(**batch, feature_ensemble=True).pred_masks)
    assert relative_rms(wrong, ours_answer) > 1e-4
    assert relative_rms(right, ours_answer) <= TOLERANCE


def test_a_wrong_ensemble_would_be_seen():
    """These weights make the ensemble matter: no averaging at all, or averaging finished answers, is far off."""
    theirs = mend(reference_of(TINY, seed=6))
    batch = question(TINY, examples=3, seed=6)
    with torch.inference_mode():
        right = answer_half(theirs(**batch, feature_ensemble=True).pred_masks)
        alone = answer_half(theirs(**batch, feature_ensemble=False).pred_masks)
    assert relative_rms(alone, right) > 1e-2
    assert relative_rms(alone.mean(dim=0, keepdim=True).expand_as(right), right) > 1e-2


def test_the_order_of_the_examples_changes_only_the_row_at_the_seam():
    """Which example comes first decides only what the answer's top pixel row sees above it."""
    ours = ours_like(reference_of(TINY, seed=7))
    batch = question(TINY, examples=3, seed=7)
    turned = {name: values.flip(0) for name, values in batch.items()}
    with torch.inference_mode():
        first = ours(**batch, feature_ensemble=True, answer_only=True).pred_masks
        second = ours(**turned, feature_ensemble=True, answer_only=True).pred_masks
    assert relative_rms(first[:, :, 1:], second[:, :, 1:]) <= TOLERANCE


def test_different_input_images_in_one_ensemble_are_refused():
    ours = ours_like(reference_of(TINY))
    with pytest.raises(ValueError, match="different pixel_values"):
        ours(**draw_batch(TINY, pairs=3, seed=0), feature_ensemble=True)
