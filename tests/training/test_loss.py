"""How wrong an answer is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.loss import overlap, painting_loss

BLACK = torch.zeros(1, 10, 10, dtype=torch.uint8)


def test_object_and_background_weigh_the_same_however_small_the_object() -> None:
    area = torch.zeros(1, 10, 10, dtype=torch.bool)
    area[0, 0, :2] = True
    wanted = torch.zeros(1, 3, 10, 10)
    losses = [painting_loss(wanted + 3.0 * wrong, wanted, area, BLACK).item() for wrong in (area, ~area)]
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_the_loss_of_a_perfect_answer_is_zero(balance: float) -> None:
    wanted, labels = torch.randn(2, 3, 4, 4), torch.rand(2, 4, 4) > 0.5
    assert painting_loss(wanted, wanted, labels, labels, balance=balance) == 0


def test_every_class_of_a_pair_weighs_the_same() -> None:
    labels = torch.zeros(1, 10, 10, dtype=torch.uint8)
    labels[0, 0, 0], labels[0, 5:] = 2, 1
    wanted = torch.zeros(1, 3, 10, 10)
    losses = [painting_loss(wanted + 3.0 * (labels == label), wanted, labels, BLACK).item() for label in range(3)]
    assert losses == pytest.approx([losses[0]] * 3)


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_pixels_that_are_not_counted_do_not_matter(balance: float) -> None:
    labels, wanted = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4)
    counted = torch.zeros(1, 4, 4, dtype=torch.bool)
    counted[0, 0] = True
    painted, found = wanted.clone(), labels.clone()
    painted[:, :, 1:], found[:, 1:] = 9.0, 1
    assert painting_loss(painted, wanted, labels, found, counted=counted, balance=balance) == 0


def overlap_loss(labels: Tensor, found: Tensor, wrong: tuple[int, ...]) -> float:
    """Of an answer that is off by one (smooth-L1: 1 - beta / 2) at these places of the first row."""
    wanted = torch.zeros(1, 3, *labels.shape[1:])
    painted = wanted.clone()
    painted[..., 0, list(wrong)] = 1.0
    return painting_loss(painted, wanted, labels, found, balance=0.0).item() / 0.75


def test_a_pixel_weighs_what_the_overlap_loses_by_it() -> None:
    labels, found = BLACK.clone(), BLACK.clone()
    labels[0, 0, :5] = 1  # 5 pixels of 100
    found[0, 0, 2:9] = 1  # 3 of them, and 4 false ones: the union is 9, the overlap 1 / 3
    assert overlap_loss(labels, found, (0,)) == pytest.approx(1 / 9)  # missed
    assert overlap_loss(labels, found, (6,)) == pytest.approx(1 / 3 / 9)  # false
    assert overlap_loss(labels, found, (0, 6, 7)) == pytest.approx((1 + 2 / 3) / 9)


def test_a_false_pixel_still_costs_where_all_is_wrong() -> None:
    labels, found = BLACK.clone(), BLACK.clone()
    labels[0, 0, :5], found[0, 0, 5:] = 1, 1
    assert overlap_loss(labels, found, (5,)) == pytest.approx(0.25 / 10)


def test_an_absent_thing_costs_by_what_is_marked_of_it() -> None:
    found = BLACK.clone()
    found[0, 0] = 1
    assert overlap_loss(BLACK, found, tuple(range(10))) == pytest.approx(0.5)
    found[0, 0, 1:] = 0
    assert overlap_loss(BLACK, found, (0,)) == pytest.approx(0.5 / 10)  # nearly empty: less and less


def test_of_two_things_each_has_its_own_overlap() -> None:
    labels = BLACK.clone()
    labels[0, 0, :2], labels[0, 1:5] = 2, 1
    assert overlap_loss(labels, labels, (0,)) == pytest.approx(1 / 2 / 2)  # the mean of two overlaps
    assert overlap_loss(labels, labels, (5,)) == pytest.approx((1 / 2 + 1 / 40) / 2 / 2)


def test_overlap_counts_shared_over_all() -> None:
    one, two = torch.zeros(2, 2, 2, dtype=torch.bool), torch.zeros(2, 2, 2, dtype=torch.bool)
    one[0, 0], two[0, :, 0] = True, True
    assert overlap(one, two).tolist() == pytest.approx([1 / 3, 1.0])
