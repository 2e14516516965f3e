"""Concepts and their pictures: a network and a decoder that invert each other, so that every answer is known."""

import pytest
import torch
from torch import nn

from interp_cnn.explanation.concepts.ablation import causal_effects
from interp_cnn.explanation.concepts.concepts import (
    Concept,
    FiringRule,
    filter_concepts,
    pattern_concepts,
    unrelated,
)
from interp_cnn.explanation.concepts.cross_network import Witness, witnessed
from interp_cnn.explanation.concepts.patterns import mine_patterns
from interp_cnn.explanation.concepts.reconstruction import MODES, Reconstructor, kept_parts
from interp_cnn.explanation.concepts.transactions import OFFSETS, channel_items, position_transactions
from interp_cnn.explanation.filters.exemplars import exemplars

COLOURS = 12
PLANTED = {0: (0, 1, 2), 1: (3, 4), 2: (5, 6)}


class Colours(nn.Module):
    """Channel d is colour d at a pixel; the logit of a class is how much of its planted colours there is."""

    def __init__(self):
        super().__init__()
        self.maps = nn.ReLU()
        self.register_buffer("colours", torch.zeros(3, COLOURS))
        for category, channels in PLANTED.items():
            self.colours[category, list(channels)] = 1.0

    def forward(self, images):
        return self.maps(images).sum(dim=(2, 3)) @ self.colours.T


class Batch:
    def __init__(self, images, labels):
        self.images, self.labels, self.names = images, labels, list(map(str, range(len(images))))


@pytest.fixture(scope="module")
def images():
    """60 images per class with the class's colours at one pixel, and a faint other colour at all others."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(60)
    pixels = torch.zeros(len(labels), COLOURS, 6, 7)
    for number, label in enumerate(labels.tolist()):
        row, column = (int(torch.randint(side, (), generator=generator)) for side in (6, 7))
        faint = torch.randint(7, COLOURS, (6, 7), generator=generator)
        pixels[number].scatter_(0, faint[None], 0.2)
        pixels[number, :, row, column] = 0
        pixels[number, list(PLANTED[label]), row, column] = 0.9
    return pixels, labels


@pytest.fixture(scope="module")
def mined(images):
    transactions = position_transactions(Colours(), [Batch(*images)], layer="maps", top=4)
    return transactions, mine_patterns(transactions, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def concepts(mined):
    return pattern_concepts(mined[1].patterns)


@pytest.fixture
def reconstructor(mined, concepts):
    rule = FiringRule(mined[0].scale, top=4)
    itself = Witness(Colours(), "maps", rule, concepts)
    return Reconstructor(Colours(), nn.Identity(), "maps", rule, others={"itself": itself})


def test_known_patterns_are_found_and_seen_again_in_their_pictures_and_in_no_others(
    images, concepts, reconstructor
):
    assert {(one.category, one.channels) for one in concepts} == set(PLANTED.items())
    for mode in ("window", "channels", "full", "refine"):
        found = reconstructor.verified(lambda number: images[0][number], concepts, mode=mode)
        assert len(found.concepts) == 90 and found.reactivated.mean() == 1
        assert found.control.mean() == 0 and found.rank.mean() == 1
        assert found.own_class.mean() == 1 and found.other_class["itself"].mean() == 1
        assert found.witnessed.mean() == 1 and found.witnessed_control.mean() == 0
    gone = reconstructor.verified(lambda number: images[0][number], concepts, mode="ablate")
    assert gone.reactivated.mean() == 0 and gone.own_class.mean() < 1
    assert gone.of(gone.reactivated, 1) == 0 and gone.witnessed.mean() == 0


def test_a_decoder_that_draws_nothing_reactivates_nothing(images, concepts, reconstructor):
    class Blank(nn.Module):
        def forward(self, maps):
            return torch.zeros_like(maps)

    blank = Reconstructor(Colours(), Blank(), "maps", reconstructor.rule)
    found = blank.verified(lambda number: images[0][number], concepts)
    assert found.reactivated.sum() == 0 and found.control.sum() == 0


def test_witnesses_are_asked_for_their_own_concepts_at_the_same_place_of_their_grid():
    class Halved(nn.Module):
        """Every cell is the mean of 2 x 2 pixels; the class is the colour that there is most of."""

        def __init__(self):
            super().__init__()
            self.maps = nn.AvgPool2d(2)

        def forward(self, images):
            return self.maps(images).sum(dim=(2, 3))

    def witness(*channels):
        concepts = [Concept(str(one), (one,), ((0, 0),), 0, torch.zeros(0, 3), floor=0.2) for one in channels]
        return Witness(Halved(), "maps", FiringRule(torch.ones(4)), concepts)

    images, pictures = torch.zeros(3, 4, 8, 8), torch.zeros(3, 4, 8, 8)
    images[:2, [0, 2], 5, 6] = pictures[0, [0, 1], 5, 6] = (
        1  # cell (2, 3): 0 fires again, 1 anew, 2 no more, 3 never
    )
    images[1, 3, 0, 0] = pictures[1, 3, 5, 6] = 2  # far from the place, and drawn there
    places = torch.tensor([[5.5, 6.5]] * 3) / 8
    again, control, classes = witnessed([witness(0, 1), witness(2, 3)], images, pictures, places, tolerance=0)
    assert again[:2].tolist() == [0.5, 0.0] and again[2].isnan()
    assert control.tolist() == [0.5, 0.5, 0.0]
    assert classes.tolist() == [[0, 0], [3, 3], [0, 0]]
    again, control, classes = witnessed([], images, pictures, places)
    assert again.isnan().all() and control.isnan().all() and classes.shape == (3, 0)
    assert witnessed([witness()], images, pictures, places)[0].isnan().all()


def test_refinement_brings_back_what_a_poor_decoder_left_out(images, concepts, mined):
    class Grey(nn.Module):
        def forward(self, maps):
            return torch.full_like(maps, 0.05)

    grey = Reconstructor(Colours(), Grey(), "maps", FiringRule(mined[0].scale, top=3))
    plain, refined = (
        grey.verified(lambda number: images[0][number], concepts[:1], mode=mode)
        for mode in ("window", "refine")
    )
    assert refined.reactivated.mean() == 1 and refined.rank.mean() <= plain.rank.mean()


def test_what_a_mode_keeps_is_what_its_name_says():
    one = Concept("1 & 3", (1, 3), ((0, 0), (0, 0)), 0, torch.zeros(0, 3))
    maps, cells = torch.zeros(1, 5, 4, 6), torch.tensor([[0, 2]])
    shares = FiringRule(torch.ones(5)).shares(maps, [one])
    kept = {mode: kept_parts(shares, cells, mode=mode)[0].bool() for mode in MODES}
    window = torch.zeros(4, 6, dtype=torch.bool)
    window[0:2, 1:4] = True
    for channel in range(5):
        mine = channel in (1, 3)
        assert torch.equal(kept["window"][channel], window)
        assert kept["channels"][channel].all() == mine == kept["channels"][channel].any()
        assert torch.equal(kept["refine"][channel], window & torch.tensor(mine))
        assert torch.equal(kept["ablate"][channel], ~(window & torch.tensor(mine)))
    assert kept["full"].all()
    with pytest.raises(ValueError, match="mode is 'all'; expected one of window"):
        kept_parts(shares, cells, mode="all")


def test_a_concept_fires_exactly_where_the_miner_counted_it():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(5, 9, 4, 5, generator=generator) - 0.4
    scale = torch.rand(9, generator=generator) + 0.5
    items = channel_items(maps, scale, top=3, neighbours=2)
    concepts = [
        Concept("", (2, 5), ((0, 0), (0, 0)), 0, torch.zeros(0, 3)),
        Concept("", (4, 7), ((0, 0), OFFSETS[2]), 0, torch.zeros(0, 3)),
        Concept("", (1, 1), ((0, 0), OFFSETS[8]), 0, torch.zeros(0, 3)),
    ]
    wanted = [{2, 5}, {4, 7 + 9 * 2}, {1, 1 + 9 * 8}]
    fires = FiringRule(scale, top=3, neighbours=2).fires(maps, concepts)
    strengths = FiringRule(scale, top=3, neighbours=2).strengths(maps, concepts)
    assert fires.any(dim=(0, 2, 3)).all()
    for image in range(5):
        for row in range(4):
            for column in range(5):
                there = set(items[image, row, column].tolist())
                assert fires[image, :, row, column].tolist() == [want <= there for want in wanted]
    expected = torch.minimum(maps[:, 2] / scale[2], maps[:, 5] / scale[5]).relu()
    torch.testing.assert_close(strengths[:, 0], expected)


def test_filters_are_concepts_with_a_floor_of_half_their_exemplars(images):
    found = exemplars(Colours(), [Batch(*images)], layer="maps", count=4)
    concepts = {one.name: one for one in filter_concepts(found, torch.full((COLOURS,), 2.0))}
    assert concepts["3"].category == 1 and concepts["3"].floor == pytest.approx(0.5 * 0.9 / 2)
    assert concepts["3"].occurrences.shape == (4, 3)
    number, row, column = concepts["3"].occurrences[0].tolist()
    fires = FiringRule(torch.full((COLOURS,), 2.0)).fires(images[0][number][None], [concepts["3"]])
    assert fires[0, 0].nonzero().tolist() == [[row, column]]


def test_unrelated_concepts_share_neither_channel_nor_category():
    def concept(channels, category):
        return Concept("", channels, ((0, 0),) * len(channels), category, torch.zeros(0, 3))

    three = [concept((1, 2), 0), concept((3,), 0), concept((2, 4), 1)]
    expected = [[False, True, False], [False, False, True], [False, True, False]]
    assert unrelated(three).tolist() == expected


def test_a_concepts_units_matter_more_than_others_of_the_same_energy(images, concepts):
    chosen = [Concept(c.name, c.channels, c.offsets, c.category, c.occurrences[:5]) for c in concepts]
    effect, other = causal_effects(
        Colours(),
        lambda number: images[0][number],
        chosen,
        layer="maps",
        rule=FiringRule(torch.ones(COLOURS)),
        generator=torch.Generator().manual_seed(0),
        reach=0,
    )
    expected = torch.tensor([0.9 * len(one.channels) for one in chosen], dtype=torch.float64)
    torch.testing.assert_close(effect.reshape(3, 5), expected[:, None].expand(-1, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(other, torch.zeros(15, dtype=torch.float64), atol=1e-6, rtol=0)


def test_random_units_carry_exactly_the_energy_of_the_concepts():
    class Sum(nn.Module):
        """The first logit is the energy of the maps."""

        def __init__(self):
            super().__init__()
            self.maps = nn.Identity()

        def forward(self, images):
            return self.maps(images).square().sum(dim=(1, 2, 3))[:, None]

    image = torch.rand(6, 5, 5, generator=torch.Generator().manual_seed(1))
    one = Concept("", (2, 3), ((0, 0), (0, 0)), 0, torch.tensor([[0, 2, 2], [0, 0, 4]]))
    effect, other = causal_effects(
        Sum(),
        lambda number: image,
        [one],
        layer="maps",
        rule=FiringRule(torch.ones(6)),
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(effect, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(effect[0], image[[2, 3], 1:4, 1:4].square().sum().double(), atol=1e-5, rtol=0)
