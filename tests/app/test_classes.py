"""Painted colours to classes: transformers' own decoding is the oracle; several concepts on one image."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.seggpt.image_processing_pil_seggpt import SegGptImageProcessorPil

from app.classes import ClassMap, decode, merged, only, renumbered
from app.labels import BINARY, Label, Labels, palette, parse_labels
from app.upsampling import upsample_bilinear
from model.colours import IMAGE_MEAN, IMAGE_STD, levels

SIZE = (96, 80)


def painted(classes: int, seed: int, noise: float) -> torch.Tensor:
    """What a network might paint: the palette's colours in blocks, with noise; (3, h, w) normalised."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(0, classes + 1, (SIZE[0] // 4, SIZE[1] // 4), generator=generator)
    blocks = torch.tensor(palette(classes).astype(np.float32))[places].repeat_interleave(4, 0).repeat_interleave(4, 1)
    noisy = (blocks + noise * torch.randn(blocks.shape, generator=generator)).clip(0, 255) / 255
    return ((noisy - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)).movedim(-1, 0)


def theirs(pred: torch.Tensor, classes: int) -> np.ndarray:
    """transformers' answer for it."""
    canvas = torch.cat((torch.zeros_like(pred), pred), dim=1)[None]  # the prompt half above is cut off by them
    outputs = SimpleNamespace(pred_masks=canvas)
    (found,) = SegGptImageProcessorPil().post_process_semantic_segmentation(outputs, [SIZE], num_labels=classes)
    return found.numpy()


@pytest.mark.parametrize("classes", [2, 3, 7, 20])
@pytest.mark.parametrize("noise", [0.0, 40.0])
def test_several_classes_are_decoded_as_transformers_does(classes: int, noise: float) -> None:
    labels = parse_labels(str([f"n{number}" for number in range(classes)]).replace("'", '"'), "index")
    pred = painted(classes, classes, noise)
    finite, found = levels(pred[None])
    assert finite.all()
    ours = decode(found[0].numpy(), labels, None).index
    expected = theirs(pred, classes)
    assert len(np.unique(expected)) == classes + 1
    # Levels are whole numbers: where two colours are equally near to less than that, either is right.
    assert (ours == expected).mean() >= (1.0 if noise == 0 else 0.98)


def test_one_class_is_its_grey_value_cut_at_the_threshold() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    map_ = decode(np.repeat(values[..., None], 4, axis=2), BINARY, None)
    assert (map_.index == (values > 127)).all()
    assert (map_.soft[1] == values).all()
    assert (map_.score == np.where(values > 127, values, 0)).all()
    assert (decode(np.repeat(values[..., None], 4, axis=2), BINARY, 0.9).index == (values > 229)).all()


def test_the_index_is_the_labels_and_not_its_place() -> None:
    labels = (Label(7, "cat", (1, 2, 3)), Label(200, "dog", (4, 5, 6)))
    colours = palette(2)
    answer = np.zeros((1, 3, 4), np.uint8)
    answer[0, :, :3] = colours
    map_ = decode(answer, labels, None)
    assert map_.index.tolist() == [[0, 7, 200]]
    assert map_.score.tolist() == [[0, 255, 255]]
    assert [map_.soft[7].tolist(), map_.soft[200].tolist()] == [[[0, 255, 0]], [[0, 0, 255]]]


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_soft_values_say_which_class_is_nearest(classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    answer = random.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    labels = tuple(Label(place, str(place), (place, 0, 1)) for place in range(1, classes + 1))
    map_ = decode(answer, labels, None)
    soft = np.stack([map_.soft[label.index] for label in labels])
    assert ((soft >= 127).sum(axis=0) >= (map_.index > 0)).all()
    chosen = np.take_along_axis(soft, np.maximum(map_.index.astype(int) - 1, 0)[None], axis=0)[0]
    assert (map_.score == np.where(map_.index > 0, chosen, 0)).all()
    # A higher threshold only takes away.
    strict = decode(answer, labels, 0.7)
    assert ((strict.index == map_.index) | (strict.index == 0)).all()
    assert (strict.score[strict.index > 0] > 0.7 * 255).all()


@pytest.mark.parametrize("threshold", [None, 0.0, 0.3, 0.9, 1.0])
def test_a_smooth_mask_is_the_smooth_soft_mask_cut_at_the_threshold(threshold: float | None) -> None:
    answer = np.random.default_rng(1).integers(0, 256, (12, 9, 4), dtype=np.uint8)
    map_ = decode(answer, BINARY, threshold, (130, 95))
    soft = map_.soft[1]
    assert (soft == upsample_bilinear(answer[..., 3].copy(), (130, 95))).all()
    assert (map_.index == (soft > 255 * (0.5 if threshold is None else threshold))).all()
    assert (map_.score == np.where(map_.index, soft, 0)).all()


def test_a_smooth_edge_between_two_classes_shows_no_third() -> None:
    labels = tuple(Label(place, str(place), (place, 0, 1)) for place in range(1, 8))
    answer = np.zeros((8, 12, 4), np.uint8)
    for first, place in ((0, 0), (4, 1), (8, 6)):  # half way from black to white lies the seventh colour's grey
        answer[:, first : first + 4, :3] = palette(7)[place]
    map_ = decode(answer, labels, None, (80, 120))
    assert set(np.unique(map_.index)) == {0, 1, 6}
    assert (map_.index == np.array([0, 1, 6]).repeat(40)[None]).mean() > 0.99  # the edges lie in the middle
    assert set(map_.soft) == set(range(1, 8))
    assert all(soft.shape == (80, 120) for soft in map_.soft.values())


@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.sampled_from([None, 0.7]))
def test_at_its_own_size_an_answer_is_smooth_already(classes: int, seed: int, threshold: float | None) -> None:
    answer = np.random.default_rng(seed).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    labels = tuple(Label(place, str(place), (place, 0, 1)) for place in range(1, classes + 1))
    plain, smooth = decode(answer, labels, threshold), decode(answer, labels, threshold, (6, 5))
    differ = plain.index != smooth.index
    assert (np.abs(plain.score[differ].astype(int) - smooth.score[differ]) <= 128).all()
    sure = np.sort(np.stack([*smooth.soft.values()]), axis=0)[-1] > 128  # nearest beyond rounding
    assert not (differ & sure).any()


def one(index: list[int], score: list[int], labels: Labels) -> ClassMap:
    return ClassMap(
        np.array([index], np.uint8),
        np.array([score], np.uint8),
        labels,
        {label.index: np.array([score], np.uint8) for label in labels},
    )


def test_where_concepts_overlap_the_surer_one_has_the_pixel() -> None:
    first, second = one([1, 1, 0, 1], [200, 150, 0, 180], BINARY), one([1, 0, 1, 1], [220, 0, 130, 180], BINARY)
    labels = renumbered([("screws", BINARY), ("nuts", BINARY)])
    map_ = merged([first, second], labels)
    assert [label.name for label in map_.labels] == ["screws", "nuts"]
    assert [label.index for label in map_.labels] == [1, 2]
    assert map_.index.tolist() == [[2, 1, 2, 1]]
    assert map_.score.tolist() == [[220, 150, 130, 180]]
    assert map_.soft[2].tolist() == [[220, 0, 130, 180]]


def test_labels_that_do_not_collide_keep_their_indices_and_names() -> None:
    pets = (Label(3, "cat", (9, 9, 9)), Label(4, "dog", (8, 8, 8)))
    parts = renumbered([("pets", pets), ("nuts", (Label(1, "nut", (7, 7, 7)),))])
    assert [[(label.index, label.name) for label in part] for part in parts] == [[(3, "cat"), (4, "dog")], [(1, "nut")]]
    assert len({label.colour for part in parts for label in part}) == 3


def test_names_that_collide_are_told_apart_by_their_concept() -> None:
    pets = (Label(1, "cat", (9, 9, 9)), Label(2, "dog", (8, 8, 8)))
    parts = renumbered([("a", pets), ("b", pets)])
    assert [label.name for part in parts for label in part] == ["a: cat", "a: dog", "b: cat", "b: dog"]
    assert [label.index for part in parts for label in part] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ([("cat", ["object"]), ("b", ["object"]), ("c", ["cat", "dog"])], ["cat: object", "b", "c: cat", "dog"]),
        ([("x", ["x", "y"]), ("x: y", ["y"])], ["x", "x: y (2)", "x: y: y"]),
        ([("a", ["x", "y"]), ("b", ["a: x", "x"])], ["a: x (1)", "y", "b: a: x", "b: x"]),
        ([("a", ["b"]), ("b", ["b"])], ["a", "b"]),
    ],
)
def test_no_two_names_are_ever_the_same(parts: list[tuple[str, list[str]]], names: list[str]) -> None:
    labelled = [(name, tuple(Label(i, own, (i, 0, 0)) for i, own in enumerate(every, 1))) for name, every in parts]
    assert [label.name for part in renumbered(labelled) for label in part] == names


def test_one_class_can_be_shown_alone() -> None:
    labels = (Label(1, "cat", (9, 9, 9)), Label(2, "dog", (8, 8, 8)))
    alone = only(one([1, 2, 0], [200, 201, 0], labels), labels[1])
    assert alone.index.tolist() == [[0, 2, 0]]
    assert alone.score.tolist() == [[0, 201, 0]]
    assert alone.labels == labels[1:]
