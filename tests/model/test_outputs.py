"""What a network gives is read as what transformers' gives, and compilers take it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from model import SegGptConfig, SegGptForImageSegmentation
from tests.model.conftest import TINY, draw_batch, ours_like, reference_of, relative_rms

TOLERANCE = 1e-5


@pytest.mark.parametrize(
    "said", [{}, {"labels": True, "output_attentions": True}], ids=["masks", "loss and attentions"]
)
def test_an_output_is_a_mapping_as_in_transformers(said: dict[str, object]):
    theirs = reference_of(TINY, seed=9)
    batch = draw_batch(TINY, pairs=1, seed=9)
    if "labels" in said:
        said = {**said, "labels": batch["prompt_masks"]}
    with torch.inference_mode():
        wanted, got = theirs(**batch, **said), ours_like(theirs)(**batch, **said)
    assert list(got) == list(got.keys()) == list(dict(**got)) == list(wanted)
    assert len(got) == len(got.values()) == len(got.to_tuple()) == len(got[:]) == len(wanted)
    for place, (name, value) in enumerate(got.items()):
        assert got[place] is got[name] is got.get(name) is getattr(got, name) is value
    for name in ("loss", "attentions", "hidden_states", "to_tuple"):
        assert (name in got) == (name in wanted)
        if name not in wanted:
            assert got.get(name, "none") == "none"
            with pytest.raises(KeyError, match=name):
                got[name]


def test_a_network_that_gives_tuples_can_be_exported_and_traced():
    theirs = reference_of(TINY, seed=9)
    ours = SegGptForImageSegmentation(replace(TINY, return_dict=False)).eval()
    ours.load_state_dict(theirs.state_dict())
    batch, other = (tuple(draw_batch(TINY, pairs=1, seed=seed).values()) for seed in (9, 10))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is old, and fixes sizes
        wanted = theirs(*other).pred_masks
        for compiled in (torch.export.export(ours, batch).module(), torch.jit.trace(ours, batch)):
            assert relative_rms(compiled(*other)[0], wanted) <= TOLERANCE


def test_switches_of_the_config_count_where_the_call_says_nothing():
    switches = {"output_hidden_states": True, "output_attentions": True, "return_dict": False}
    theirs = reference_of(SegGptConfig.from_dict({**TINY.to_dict(), **switches}), seed=9)
    ours = ours_like(theirs)
    batch = draw_batch(TINY, pairs=1, seed=9)
    with torch.inference_mode():
        for said in ({}, {"output_attentions": False}, {"output_hidden_states": False}):
            wanted, got = theirs(**batch, **said), ours(**batch, **said)
            assert isinstance(got, tuple)
            assert [len(part) for part in got[1:]] == [len(part) for part in wanted[1:]]
            assert relative_rms(got[0], wanted[0]) <= TOLERANCE
        assert len(ours(**batch, return_dict=True).attentions) == TINY.num_hidden_layers
        assert ours.model(**batch)[0].shape == theirs.model(**batch)[0].shape
        # a service's calls are ours alone
        assert ours(**batch, answer_only=True).pred_masks.shape == (1, 3, *TINY.half_size)


def test_a_tuple_comes_back_when_return_dict_is_false():
    theirs = reference_of(TINY, seed=9)
    ours = ours_like(theirs)
    batch = draw_batch(TINY, pairs=1, seed=9)
    asked = {"return_dict": False, "output_hidden_states": True, "output_attentions": True}
    with torch.inference_mode():
        wanted, got = theirs(**batch, **asked), ours(**batch, **asked)
    assert len(got) == len(wanted) == 3
    assert relative_rms(got[0], wanted[0]) <= TOLERANCE
    assert [len(part) for part in got[1:]] == [len(part) for part in wanted[1:]]
