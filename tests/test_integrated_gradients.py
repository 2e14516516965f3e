"""Integrated gradients: complete, also where masks jump, against a closed form and a literal fine integral."""

import pytest
import torch
from relevance_networks import Functional, Sequence, images_and_targets, prepared
from torch import Tensor, nn

from interp_cnn.explanation.gradients import gradients
from interp_cnn.explanation.gradients.gradients import integrated_gradients_with_error
from interp_cnn.model.interpretable_conv import TemplateMask, make_interpretable


class SharpMask(TemplateMask):
    """Shows the peak alone."""

    def factors_at(self, positions: Tensor, height: int, width: int) -> Tensor:
        return torch.nn.functional.one_hot(positions, height * width).unflatten(2, (height, width)).float()


class Peak(nn.Module):
    """The largest pixel, times a weight for the place where it lies: it jumps where another pixel becomes largest."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.mask, self.weights = SharpMask(1), weights

    def forward(self, images: Tensor) -> Tensor:
        return (self.mask(images) * self.weights).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("weights", [(2.0, 5.0), (5.0, 2.0), (-1.0, 3.0)])
def test_a_jump_goes_to_the_pixels_that_cause_it_in_closed_form(weights):
    first, second = weights
    # from (1, 0) to (0, 1) the first pixel falls, the second rises, and half way they change places
    network, start, end = Peak(torch.tensor([[[weights]]])), [[[[1.0, 0.0]]]], [[[[0.0, 1.0]]]]
    images, baseline = torch.tensor(end), torch.tensor(start)
    found = integrated_gradients_with_error(network, images, torch.tensor([0]), baseline=baseline)
    jump = (second - first) / 2
    wanted = torch.tensor([[[[-first / 2 + jump / 2, second / 2 + jump / 2]]]])
    torch.testing.assert_close(found.maps, wanted, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.maps.sum(), torch.tensor(second - first), atol=1e-4, rtol=1e-4)
    assert found.missing <= 0.01


class Still(Peak):
    """Masks move, and what they do to the logit is less than its rounding."""

    def __init__(self, weights: Tensor, offset: float) -> None:
        super().__init__(weights)
        self.offset = offset

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.offset


def test_a_logit_that_stays_what_it_is_has_a_map_that_misses_nothing():
    images, baseline = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    network = Still(torch.tensor([[[[2e-20, 5e-20]]]]), offset=0.4)
    assert network(images) == network(baseline)
    found = integrated_gradients_with_error(network, images, torch.tensor([0]), baseline=baseline)
    assert float(found.maps.abs().max()) <= 1e-18 and float(found.missing) <= 1e-3


class PeakOfPeak(Peak):
    """The same function: the second mask shows what the first one left, and moves because that one does."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__(weights)
        self.behind = SharpMask(1)

    def forward(self, images: Tensor) -> Tensor:
        return (self.behind(2 * self.mask(images)) * self.weights).flatten(1).sum(1, keepdim=True) / 2


@pytest.mark.parametrize("weights", [(2.0, 5.0), (5.0, 2.0), (-1.0, 3.0)])
def test_a_mask_that_moves_because_one_before_it_did_takes_no_part_of_the_jump_and_no_pieces(weights):
    images, baseline = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[1.0, 0.2]]]])
    one, two = (
        integrated_gradients_with_error(
            kind(torch.tensor([[[weights]]])), images, torch.tensor([0]), baseline=baseline
        )
        for kind in (Peak, PeakOfPeak)
    )
    # the pixels meet at 5/9, 4/9 of the way; the falling one moves five ninths of the distance between them
    first, second = weights
    jump = (second - first) * 5 / 9
    wanted = torch.tensor([[[[-first * 4 / 9 + jump * 5 / 9, second * 4 / 9 + jump * 4 / 9]]]])
    for found in (one, two):
        # a jump lies anywhere in its piece, an eighth of the line here: 2.5 % of the change at most was seen
        assert (found.maps - wanted).abs().max() <= 0.03 * wanted.abs().sum()
    assert two.passes <= 2 * one.passes


def literal_integral(
    before: nn.Module, mask: TemplateMask, behind: nn.Module, start: Tensor, image: Tensor, target: int
) -> Tensor:
    """The integral with many equal pieces, one after the other. In every piece the maps whose peak moved are moved one
    by one; what each move does to the logit goes to the pixels by what decides between its two peaks.
    """

    def logit(maps: Tensor, cells: Tensor) -> Tensor:
        return behind(maps * mask.factors_at(cells, *maps.shape[2:]))[0, target]

    def peaks(place: float) -> Tensor:
        return before((start + place * difference)[None]).flatten(2).argmax(2)

    pieces, total, difference = 800, torch.zeros_like(image), image - start
    cells = peaks(0.0)
    for k in range(pieces):
        x = (start + (k + 0.5) / pieces * difference)[None].requires_grad_()
        maps = before(x)
        (slope,) = torch.autograd.grad(logit(maps, maps.flatten(2).argmax(2)), x, retain_graph=True)
        total += slope[0] * difference / pieces
        after = peaks((k + 1) / pieces)
        for d in (after != cells)[0].nonzero()[:, 0].tolist():
            moved = cells.clone()
            moved[0, d] = after[0, d]
            jump = (logit(maps, moved) - logit(maps, cells)).detach()
            flat = maps[0, d].flatten()
            (toward,) = torch.autograd.grad(flat[moved[0, d]] - flat[cells[0, d]], x, retain_graph=True)
            along = toward[0] * difference
            total += jump * along / along.sum() if jump else 0.0
            cells = moved
    return total


@pytest.mark.parametrize(
    "seed",
    [
        0,
        11,  # two masks move within an eighth of the line
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in (*range(1, 11), *range(12, 16))),
    ],
)
def test_maps_are_those_of_a_literal_fine_integral_along_a_jumping_mask(seed):
    mask = TemplateMask(6)
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
        mask,
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)),
    )
    network = prepared(network, seed=seed, size=8)
    (start, image), (_, target) = images_and_targets(count=2, size=8, classes=4, seed=seed)
    (ours,) = gradients.integrated_gradients(network, image[None], target[None], baseline=start)
    wanted = literal_integral(network[0], mask, network[2], start, image, int(target))
    assert (ours - wanted).abs().sum() < 0.02 * wanted.abs().sum()


@pytest.mark.parametrize("network", [Functional, Sequence])
def test_without_jumps_maps_are_those_of_many_equal_pieces(network):
    network, (images, targets) = prepared(network()), images_and_targets()
    ours = gradients.integrated_gradients(network, images, targets, tolerance=0.002)
    fine = gradients.integrated_gradients(network, images, targets, steps=2000)
    assert (ours - fine).abs().max() < 0.01 * fine.abs().max()


@pytest.mark.parametrize("position", ["argmax", pytest.param("centroid", marks=pytest.mark.slow)])
def test_maps_along_masks_are_complete(position):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip
    network = make_interpretable(prepared(network), ["4"], image_size=(16, 16), position=position).eval()
    images, targets = images_and_targets(count=4)
    found = integrated_gradients_with_error(network, images, targets)
    with torch.no_grad():
        change = (network(images) - network(torch.zeros_like(images))).gather(1, targets[:, None])[:, 0]
    error = (found.maps.double().sum((1, 2, 3)) - change).abs() / change.abs()
    assert (found.missing <= 0.01).all() and (error <= 0.01).all()
    assert (found.passes < 729).all()


def test_what_is_missing_is_said_where_the_steps_do_not_suffice(caplog):
    network, (images, targets) = prepared(Functional()), images_and_targets()
    gradients.integrated_gradients(network, images, targets, tolerance=1e-9, max_steps=27)
    assert "3 of 3 images incomplete after 27 gradients" in caplog.text


def test_the_passes_are_those_that_are_made():
    network, (images, targets) = prepared(Functional()), images_and_targets()
    sent = []
    handle = network.register_forward_pre_hook(lambda module, given: sent.append(len(given[0])))
    found = integrated_gradients_with_error(network, images, targets)
    handle.remove()
    assert int(found.passes.sum()) == sum(sent) - 3  # three try whether images are answered one by one
