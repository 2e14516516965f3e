"""Filters dealt out among classes, and the loss that asks them to fire there, against literal second computations."""

import math
from itertools import product

import pytest
import torch

from interp_cnn.training.presence import LEAST, dealt_evenly, presence_loss


def best_by_trying(response, background=None):
    """The best even assignment of all there are."""
    filters, classes = response.shape
    given = [index for index in range(classes) if index != background]
    loud = {k: sum(float(response[d, k]) for d in range(filters)) / filters for k in given}
    room = math.ceil(filters / len(given))

    def score(assignment):
        total = 0.0
        for d, own in enumerate(assignment):
            shares = {k: max(float(response[d, k]), LEAST) / loud[k] for k in given}
            total += math.log(shares[own] / sum(shares.values()))
        return total

    allowed = (it for it in product(given, repeat=filters) if max(it.count(k) for k in given) <= room)
    return max(allowed, key=score)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("filters", "classes", "background"), [(6, 3, None), (5, 3, None), (6, 4, 1), (3, 5, None)]
)
def test_filters_are_dealt_out_as_well_as_any_even_assignment(seed, filters, classes, background):
    response = torch.rand(filters, classes, generator=torch.Generator().manual_seed(seed)) + 0.05
    assert dealt_evenly(response, background).tolist() == list(best_by_trying(response, background))


def test_a_loud_class_gets_no_more_filters_than_a_quiet_one():
    quiet = torch.rand(12, 3, generator=torch.Generator().manual_seed(1)) + 0.05
    loud = quiet * torch.tensor([100.0, 1.0, 0.01])
    assert loud.argmax(1).tolist() == [0] * 12
    assert dealt_evenly(loud).bincount().tolist() == [4, 4, 4]
    assert dealt_evenly(loud).equal(
        dealt_evenly(quiet)
    )  # a class in which all filters are loud is no filter's own


def test_filters_that_never_fired_are_dealt_out_too():
    assert sorted(dealt_evenly(torch.zeros(4, 2)).tolist()) == [0, 0, 1, 1]


def test_the_loss_is_that_of_the_literal_loops():
    generator = torch.Generator().manual_seed(3)
    heights, labels = torch.rand(9, 5, generator=generator), torch.tensor([0, 1, 1, 0, 3, 3, 3, 1, 0])
    classes = torch.tensor([0, 1, 2, 3, 3])  # no image shows class 2
    losses = []
    for d, own in enumerate(classes.tolist()):
        means = {
            k: sum(float(heights[b, d]) for b in range(9) if labels[b] == k) / labels.tolist().count(k)
            for k in set(labels.tolist())
        }
        if own in means:
            losses.append(-math.log(means[own] / sum(means.values())))
    loss = presence_loss(heights, labels, classes, 4)
    assert float(loss) == pytest.approx(sum(losses) / len(losses), abs=1e-4) and len(losses) == 4


def test_the_loss_is_nothing_for_filters_of_one_class_and_log_k_for_those_that_do_not_care():
    labels, classes = torch.tensor([0, 1, 2]), torch.tensor([2, 0])
    own = torch.tensor([[0.0, 2.0], [0.0, 0.0], [1.0, 0.0]])
    assert float(presence_loss(own, labels, classes, 3)) == pytest.approx(0, abs=1e-4)
    assert float(presence_loss(torch.ones(3, 2), labels, classes, 3)) == pytest.approx(math.log(3), abs=1e-4)
    assert float(presence_loss(torch.ones(3, 2), torch.tensor([1, 1, 1]), classes, 3)) == 0


def test_a_step_against_the_loss_makes_a_filter_fire_more_for_its_class():
    heights = torch.rand(6, 2, generator=torch.Generator().manual_seed(0)).add(0.1).requires_grad_()
    labels, classes = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2])
    presence_loss(heights, labels, classes, 3).backward()
    assert (heights.grad[labels == 1, 0] < 0).all() and (heights.grad[labels != 1, 0] > 0).all()
    assert (heights.grad[labels == 2, 1] < 0).all()
