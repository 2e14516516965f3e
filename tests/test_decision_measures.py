"""Measures of decisions on networks whose answers follow by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.filters.decisions import (
    decision_figures,
    on_object,
    weighted_median,
)
from interp_cnn.evaluation.filters.passes import Reader
from interp_cnn.evaluation.statistics import resampling
from interp_cnn.explanation.decisions.contributions import filter_contributions
from interp_cnn.explanation.decisions.removal import removal
from interp_cnn.explanation.receptive_field.field import ReceptiveField


class Planted(nn.Module):
    """Filter d fires with the brightness of pixel d; class 0 takes each with its weight, class 1 none."""

    def __init__(self, weights, hidden: bool = False) -> None:
        super().__init__()
        self.maps = nn.Identity()
        self.hidden = hidden
        self.last = nn.Linear(len(weights), 2)
        self.last.weight.data = torch.stack([torch.tensor(weights), torch.zeros(len(weights))])
        self.last.bias.data = torch.tensor([0.5, 0.0])

    def forward(self, images):
        pixels = images.flatten(1)[:, : self.last.in_features]
        maps = self.maps(pixels[:, :, None, None] * torch.ones(1, 1, 2, 2))
        total = maps.mean((2, 3))
        return self.last(total.square() if self.hidden else total)


def batches(images):
    count = len(images)
    names = [str(number) for number in range(count)]
    return [
        PartBatch(
            images,
            torch.zeros(count, dtype=torch.long),
            torch.full((count, 1, 2), 4.0),
            None,
            None,
            None,
            names,
        )
    ]


def figures(network, images, **options):
    loader = batches(images)
    draws = resampling(len(images), resamples=20, seed=0)
    return decision_figures(Reader(network.eval(), loader, "maps", (8, 8)), draws, **options)


def test_few_filters_carry_a_decision_of_few_weights():
    images = torch.full((6, 1, 8, 8), 0.5)
    few = figures(Planted([10.0, 0.1, 0.1, 0.1, 0.1]), images)
    many = figures(Planted([2.0, 2.0, 2.0, 2.0, 2.0]), images)
    assert few["decision_filters"].estimate().value == 1
    assert many["decision_filters"].estimate().value == 5


def test_shares_of_a_linear_head_tell_exactly_what_happens():
    torch.manual_seed(0)
    found = figures(Planted([3.0, 2.0, 1.0, -1.0, 0.5]), torch.rand(6, 1, 8, 8) + 0.2)
    assert found["share_fidelity"].estimate().value == pytest.approx(1)
    assert 0.3 < found["removal_gap"].estimate().value <= 1


def test_a_head_that_is_not_linear_is_shared_out_too():
    found = figures(Planted([3.0, 2.0, 1.0, 0.7, 0.5], hidden=True), torch.rand(6, 1, 8, 8) + 0.2)
    assert found["share_fidelity"].estimate().value == pytest.approx(
        1
    )  # squares of each alone: DeepLIFT has them


def test_the_gap_is_the_area_between_the_curves_by_hand():
    """Shares 3 and 1, rest .5: most first 4.5, 1.5, .5; least first 4.5, 3.5, .5; mean gap 1 of a span of 4."""
    images = torch.ones(2, 1, 8, 8)
    found = figures(Planted([3.0, 1.0]), images)
    assert found["removal_gap"].estimate().value == pytest.approx(1 / 4, abs=1e-5)


def test_images_that_can_be_read_once_only_have_no_such_measures():
    images = torch.rand(4, 1, 8, 8)
    draws = resampling(4, resamples=10, seed=0)
    reader = Reader(Planted([1.0, 2.0]).eval(), iter(()), "maps", (8, 8))
    assert decision_figures(reader, draws) == {}
    assert images.shape[0] == draws.images


def test_a_weighted_median_is_that_of_the_values_repeated():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(9, generator=generator)
    values[3] = torch.nan
    weights = torch.randint(0, 4, (30, 9), generator=generator)
    weights[:, 0] += 1
    for row, found in zip(weights, weighted_median(values, weights), strict=True):
        repeated = values.double().repeat_interleave(row)
        repeated = repeated[repeated.isfinite()].sort().values
        assert found == repeated[(len(repeated) - 1) // 2]


def test_evidence_on_the_object_is_that_of_plain_loops():
    draw = torch.Generator().manual_seed(2)
    field = ReceptiveField((3.0, 2.0), (9.0, 9.0), (-2.0, 0.5), (5, 6), (11, 12))
    evidence, masks = torch.rand(3, 5, 6, generator=draw), torch.rand(3, 11, 12, generator=draw) > 0.6
    masks[2] = False
    found, even = on_object(evidence, masks, field)
    for image in range(3):
        total = lying = cells = 0.0
        for row in range(5):
            for column in range(6):
                down = min(max(-2 + 3 * row, 0), 10)
                across = min(max(0.5 + 2 * column, 0), 11)
                own = [
                    bool(masks[image, y, x])
                    for y in range(11)
                    for x in range(12)
                    if -1.5 <= y - down < 1.5 and -1 <= x - across < 1
                ]
                covered = sum(own) / len(own)
                total += float(evidence[image, row, column])
                lying += float(evidence[image, row, column]) * covered
                cells += covered / 30
        if image == 2:
            assert found[image].isnan() and even[image].isnan()
        else:
            assert float(found[image]) == pytest.approx(lying / total)
            assert float(even[image]) == pytest.approx(cells)


def test_evidence_that_lies_on_the_object_is_told_from_evidence_beside_it_and_from_an_even_spread():
    field = ReceptiveField((1.0, 1.0), (1.0, 1.0), (0.0, 0.0), (8, 8), (8, 8))
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:4, 2:6] = True
    on, beside, everywhere = mask.float(), (~mask).float(), torch.ones(1, 8, 8)
    assert [float(on_object(it, mask, field)[0]) for it in (on, everywhere, beside)] == [1.0, 8 / 64, 0.0]
    assert on_object(torch.zeros(1, 8, 8), mask, field)[0].isnan()


def test_the_measure_is_there_where_masks_are():
    images = torch.rand(4, 1, 8, 8)
    (batch,) = batches(images)
    masks = torch.zeros(4, 2, 8, 8, dtype=torch.bool)
    masks[:, 1, :4, :4] = True
    draws = resampling(4, resamples=10, seed=0)

    def measured(**changed):
        reader = Reader(Planted([3.0, 1.0]).eval(), [replace(batch, **changed)], "maps", (8, 8))
        reader._field = ReceptiveField((4.0, 4.0), (4.0, 4.0), (1.5, 1.5), (2, 2), (8, 8))
        return decision_figures(reader, draws)

    assert "object_evidence" not in measured()
    found = measured(part_masks=masks)
    assert found["object_evidence"].estimate().value == pytest.approx(0.25)
    assert found["object_evidence_null"].estimate().value == pytest.approx(0.25)
    whole = measured(part_masks=masks, object_masks=torch.ones(4, 8, 8, dtype=torch.bool))
    assert whole["object_evidence"].estimate().value == pytest.approx(1)


def test_of_many_images_some_are_asked_and_the_rest_changes_nothing():
    torch.manual_seed(0)
    images = torch.rand(30, 1, 8, 8) + 0.2
    network = Planted([3.0, 2.0, 1.0, 0.7, 0.5], hidden=True)
    some = figures(network, images, asked=4, tested=2)
    chosen = torch.linspace(0, 29, 4).round().long()
    changed = torch.rand(30, 1, 8, 8)
    changed[chosen] = images[chosen]
    again = figures(network, changed, asked=4, tested=2)
    assert some["decision_filters"].n == 4 and some["removal_gap"].n == 2
    for name, one in some.items():
        assert torch.equal(one.bootstrap.nan_to_num(), again[name].bootstrap.nan_to_num()), name


def test_few_filters_alone_give_the_same_drops_as_all():
    network = Planted([3.0, 2.0, 1.0, 0.7, 0.5], hidden=True).eval()
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = filter_contributions(network, image, 0, layer="maps", method="deeplift")
    every, few = removal(network, image, found), removal(network, image, found, orders=0, alone=3)
    assert every.tried.tolist() == list(range(5)) and len(few.tried) == 3 and few.random.shape[0] == 0
    assert torch.allclose(few.drops, every.drops[few.tried]) and few.area == every.area
    ends = found.order(0)[[0, -1]].tolist()
    assert set(ends) <= set(few.tried.tolist())
