"""Pattern mining: planted patterns, counts by loops, chance by hand."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact
from torch import nn
from torch.utils.data import DataLoader

from interp_cnn.data.parts import collate
from interp_cnn.explanation.concepts.itemsets import frequent_itemsets
from interp_cnn.explanation.concepts.medoids import medoids, pairwise_overlaps
from interp_cnn.explanation.concepts.null_model import expected_sets, swap_randomised
from interp_cnn.explanation.concepts.occurrences import ItemBits, jaccard
from interp_cnn.explanation.concepts.patterns import image_excess, mine_patterns, split_in_halves
from interp_cnn.explanation.concepts.transactions import (
    OFFSETS,
    Transactions,
    channel_items,
    channel_scale,
    position_transactions,
)

CHANNELS, GRID, PER_CATEGORY = 80, 7, 60
PLANTED = {(3, 7, 11): (0,), (20, 21): (1,), (40, 41, 42, 43): (2,), (60, 61): (0, 1, 2)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def planted_maps(seed=0):
    """Maps with noise in four channels per cell, and each planted set at one cell of its categories' images."""
    draw = np.random.default_rng(seed)
    labels = torch.arange(3).repeat_interleave(PER_CATEGORY)
    noise = torch.from_numpy(draw.random((len(labels), CHANNELS, GRID, GRID))).float()
    maps = (noise - noise.topk(5, dim=1).values[:, 4:]).relu()  # four positive channels per cell
    cells = {}
    for image, label in enumerate(labels.tolist()):
        free = draw.permutation(GRID * GRID)
        for place, (channels, categories) in zip(free, PLANTED.items(), strict=False):
            if label in categories and draw.random() < 0.95:
                row, column = divmod(int(place), GRID)
                maps[image, list(channels), row, column] = 1.0
                cells.setdefault(channels, set()).add((image, row, column))
    return maps, labels, cells


@pytest.fixture(scope="module")
def planted():
    maps, labels, cells = planted_maps()
    items = channel_items(maps, channel_scale([maps]), top=10)
    return Transactions(items, labels, CHANNELS, torch.ones(CHANNELS)), cells


def test_planted_patterns_are_found_exactly_and_nothing_else(planted):
    transactions, cells = planted
    mined = mine_patterns(transactions, generator=seeded(), min_support=0.01)
    assert {(pattern.channels, pattern.category) for pattern in mined.patterns} == {
        ((3, 7, 11), 0),
        ((20, 21), 1),
        ((40, 41, 42, 43), 2),
    }
    assert len(mined.patterns) == 3
    judging = set(mined.judging.nonzero().flatten().tolist())
    for pattern in mined.patterns:
        expected = {cell for cell in cells[pattern.channels] if cell[0] in judging}
        found = set(map(tuple, pattern.occurrences.tolist()))
        assert expected <= found
        assert len(found) <= len(expected) + (6 if len(pattern) == 2 else 0)  # pairs also meet by chance
        assert pattern.confidence > 0.8 and pattern.coverage > 0.8 and pattern.q_value < 1e-6
        assert set(pattern.offsets) == {(0, 0)}


def test_one_seed_gives_one_result(planted):
    first, second = (mine_patterns(planted[0], generator=seeded(3), null_draws=1) for _ in range(2))
    assert [p.name for p in first.patterns] == [p.name for p in second.patterns]
    assert first.expected == second.expected
    assert torch.equal(first.judging, second.judging)


def test_figures_equal_loops_over_the_judging_half(planted):
    transactions, _ = planted
    mined = mine_patterns(transactions, generator=seeded(1), min_support=0.005, false_discovery_rate=1.0)
    judged = mined.judging.nonzero().flatten().tolist()
    p_values = []
    for pattern in mined.patterns:
        places = [
            (image, row, column)
            for image in judged
            for row in range(GRID)
            for column in range(GRID)
            if set(pattern.channels) <= set(transactions.items[image, row, column].tolist())
        ]
        assert pattern.occurrences.tolist() == [list(place) for place in places]
        labels = transactions.labels.tolist()
        inside = [place for place in places if labels[place[0]] == pattern.category]
        members = [image for image in judged if labels[image] == pattern.category]
        hit = {place[0] for place in places}
        assert pattern.support == pytest.approx(len(inside) / (len(judged) * GRID * GRID))
        assert pattern.confidence == pytest.approx(len(inside) / len(places) if places else 0)
        assert pattern.lift == pytest.approx(pattern.confidence * len(judged) / len(members))
        assert pattern.coverage == pytest.approx(len(hit & set(members)) / len(members))
        table = np.zeros((2, 2), dtype=int)
        for image in judged:
            table[int(image not in hit), int(image not in members)] += 1
        assert pattern.p_value == pytest.approx(fisher_exact(table, alternative="greater").pvalue)
        assert pattern.q_value >= pattern.p_value
        p_values.append(pattern.p_value)
    assert mined.proposed == len(p_values) > 3


def test_labels_without_meaning_give_no_patterns(planted):
    transactions, _ = planted
    found = 0
    for seed in range(5):
        order = torch.randperm(len(transactions), generator=seeded(seed))
        shuffled = Transactions(transactions.items, transactions.labels[order], CHANNELS, transactions.scale)
        found += len(mine_patterns(shuffled, generator=seeded(seed), min_support=0.005).patterns)
    assert found <= 1


def test_no_two_patterns_of_a_category_lie_at_the_same_places(planted):
    mined = mine_patterns(
        planted[0], generator=seeded(), min_support=0.004, false_discovery_rate=1.0, most_overlap=0.3, quota=9
    )
    proposing = planted[0].of(~mined.judging)
    for category in range(3):
        patterns = mined.of(category)
        assert 1 < len(patterns) <= 9
        bits = ItemBits(proposing.items, sorted({c for p in patterns for c in p.channels}))
        for first, second in combinations(patterns, 2):
            ((_, pair),) = bits.joined([first.channels, second.channels])
            assert jaccard(pair[0], pair[1:])[0] <= 0.3


def literal_medoids(overlaps, least):
    """Average linkage by loops: the two clusters that overlap most are joined, while that is enough."""
    clusters = [[number] for number in range(len(overlaps))]

    def mean(first, second):
        return np.mean([max(0.0, overlaps[a][b]) for a in first for b in second])

    while len(clusters) > 1:
        pairs = [(mean(clusters[a], clusters[b]), a, b) for a, b in combinations(range(len(clusters)), 2)]
        best, a, b = max(pairs, key=lambda pair: pair[0])
        if best < least - 1e-12:
            break
        clusters[a] += clusters.pop(b)
    return {
        max(sorted(it), key=lambda n: round(np.mean([overlaps[n][m] for m in it]), 10)) for it in clusters
    }


@pytest.mark.parametrize("seed", range(12))
def test_medoids_equal_a_literal_clustering(seed):
    generator = np.random.default_rng(seed)
    bits = generator.random((9, 3, 1, 64)) < generator.choice([0.3, 0.9], (9, 1, 1, 1))
    bits[1], bits[2] = bits[0], bits[0] ^ (generator.random(bits[0].shape) < 0.1)
    packed = np.packbits(bits, axis=3, bitorder="little").view(np.uint64)[..., 0]
    overlaps = pairwise_overlaps(packed)
    for a, b in combinations(range(9), 2):
        both, either = (bits[a] & bits[b]).sum(), (bits[a] | bits[b]).sum()
        assert overlaps[a, b] == overlaps[b, a] == pytest.approx(both / either)
    for least in (0.2, 0.5, 0.8):
        assert set(medoids(overlaps, least)) == literal_medoids(overlaps.tolist(), least)


def test_a_family_is_known_by_its_middle_and_none_by_nobody():
    family = np.array([[1, 0.9, 0.6], [0.9, 1, 0.9], [0.6, 0.9, 1]])
    assert medoids(family, 0.5) == [1] and medoids(family, 0.95) == [0, 1, 2]
    assert medoids(np.ones((1, 1)), 0.5) == [0] and medoids(np.zeros((0, 0)), 0.5) == []


def test_the_background_has_no_patterns_but_judges(planted):
    mined = mine_patterns(planted[0], generator=seeded(), background=0)
    assert {pattern.category for pattern in mined.patterns} == {1, 2}
    assert 0 not in mined.frequent


def test_arrangements_are_found_with_their_offsets():
    draw = np.random.default_rng(0)
    labels = torch.arange(2).repeat_interleave(40)
    maps = torch.zeros(80, 12, 6, 6)
    for image, label in enumerate(labels.tolist()):
        row, column = draw.integers(1, 5, size=2)
        maps[image, 2, row, column] = 1.0
        maps[image, 5, row - 1 if label else row, column if label else column + 1] = 1.0
    items = channel_items(maps, torch.ones(12), top=3, neighbours=2)
    transactions = Transactions(items, labels, 12, torch.ones(12))
    mined = mine_patterns(transactions, generator=seeded(), min_support=0.02)
    best = {pattern.category: pattern for pattern in reversed(mined.patterns)}
    arrangements = {
        category: {
            (frozenset(zip(p.channels, p.offsets, strict=True))) for p in mined.of(category) if len(p) == 2
        }
        for category in (0, 1)
    }
    assert (
        frozenset({(2, (0, 0)), (5, (0, 1))}) in arrangements[0]
        or frozenset({(5, (0, 0)), (2, (0, -1))}) in arrangements[0]
    )
    assert (
        frozenset({(2, (0, 0)), (5, (-1, 0))}) in arrangements[1]
        or frozenset({(5, (0, 0)), (2, (1, 0))}) in arrangements[1]
    )
    assert not arrangements[0] & arrangements[1]
    assert "@" in best[0].name


def test_items_are_the_strongest_positive_scaled_channels():
    maps = torch.zeros(1, 4, 2, 2)
    maps[0, :, 0, 0] = torch.tensor([10.0, 3.0, 0.0, -1.0])
    maps[0, :, 1, 1] = torch.tensor([1.0, 1.0, 1.0, 1.0])
    items = channel_items(maps, torch.tensor([10.0, 1.0, 0.5, 2.0]), top=3)
    assert items.dtype == torch.int32
    assert items[0, 0, 0].tolist() == [1, 0, -1]
    assert items[0, 1, 1].tolist() == [2, 1, 3]
    assert items[0, 0, 1].tolist() == [-1, -1, -1]


def test_neighbours_name_the_cell_that_they_lie_in():
    maps = torch.zeros(1, 3, 3, 3)
    for place, (row, column) in enumerate(OFFSETS):
        maps[0, place % 3, 1 + row, 1 + column] = 1.0
    items = channel_items(maps, torch.ones(3), top=1, neighbours=1)
    assert items.shape == (1, 3, 3, 9)
    assert items[0, 1, 1].tolist() == [place % 3 + 3 * place for place in range(9)]
    assert (items[0, 0, 0, 1:5] == -1).all()  # above and left of the corner there is nothing


def test_scale_is_the_quantile_the_maximum_or_one(monkeypatch):
    generator = seeded()
    maps = torch.rand(50, 3, 8, 8, generator=generator)
    maps[:, 1] = 0
    maps[3, 1, 0, 0] = 5.0
    maps[:, 2] = -1.0
    scale = channel_scale([maps[:20], maps[20:]])
    kept = maps[:, 0].flatten().sort(descending=True).values
    assert scale[0] == kept[round(0.005 * len(kept)) - 1]
    assert scale[1:].tolist() == [5.0, 1.0]
    monkeypatch.setattr("interp_cnn.explanation.concepts.transactions.SAMPLED_POSITIONS", 500)
    assert channel_scale(maps.split(7))[0] == pytest.approx(float(scale[0]), abs=0.01)


def test_transactions_of_a_real_layer_do_not_depend_on_the_batches(digits):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 12, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)).train()
    samples = [digits[number] for number in range(60)]
    network(samples[0].image[None])
    first, second = (
        position_transactions(
            network, DataLoader(samples, batch_size=size, collate_fn=collate), layer="1", top=5
        )
        for size in (60, 17)
    )
    assert first.grid == (11, 11) and len(first) == 60 and first.channels == 12
    assert torch.equal(first.items, second.items) and torch.equal(first.labels, second.labels)
    assert network.training


def test_halves_share_no_image_and_split_every_category():
    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 10)
    half = split_in_halves(labels, generator=seeded())
    assert [int(half[labels == label].sum()) for label in range(3)] == [3, 1, 5]
    with pytest.raises(ValueError, match="category 1 has 1 image"):
        split_in_halves(torch.tensor([0, 0, 1]), generator=seeded())


def test_excess_is_zero_at_chance_and_largest_for_a_perfect_pattern():
    inside = np.array([True] * 4 + [False] * 4)
    hits = np.array([[1, 1, 0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], [0] * 8, [1] * 8], dtype=bool)
    assert image_excess(hits, inside) == pytest.approx([0, 7**0.5, 0, 0])


def test_swaps_keep_both_margins_and_break_what_comes_together():
    draw = np.random.default_rng(0)
    table = np.array([draw.permutation(30)[:6] for _ in range(600)])
    table[::3, :3] = [0, 1, 2]
    table = np.array([list(dict.fromkeys(row)) + [-1] * (6 - len(set(row))) for row in table.tolist()])
    swapped = swap_randomised(table, generator=draw)
    assert np.bincount(swapped.ravel() + 1).tolist() == np.bincount(table.ravel() + 1).tolist()
    assert ((swapped >= 0).sum(axis=1) == (table >= 0).sum(axis=1)).all()
    assert all(len(set(row) - {-1}) == sum(item >= 0 for item in row) for row in swapped.tolist())
    together = {items: count for items, count in frequent_itemsets(table, min_support=1, max_length=3)}
    apart = {items: count for items, count in frequent_itemsets(swapped, min_support=1, max_length=3)}
    assert together[0, 1, 2] >= 200 and apart.get((0, 1, 2), 0) < 60


def test_chance_expects_fewer_sets_than_planted_structure_makes(planted):
    rows = planted[0].of(planted[0].labels == 2).items.flatten(0, 2).numpy()
    found = sum(len(items) > 1 for items, _ in frequent_itemsets(rows, min_support=29, max_length=4))
    by_chance = expected_sets(
        rows, min_support=29, lengths=(2, 4), draws=2, generator=np.random.default_rng(0)
    )
    assert found >= 12 and by_chance < 2  # 6 + 4 + 1 of the four channels, and the pair of all categories


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"min_support": 0}, "min_support is 0; expected"),
        ({"lengths": (3, 2)}, r"lengths is \(3, 2\)"),
        ({"quota": 0}, "quota is 0"),
        ({"most_overlap": 2}, "most_overlap is 2"),
    ],
)
def test_wrong_bounds_are_named(planted, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        mine_patterns(planted[0], generator=seeded(), **options)
