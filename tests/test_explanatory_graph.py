"""The explanatory graph against loops from its equations, and on parts that were planted."""

import math

import pytest
import torch

from interp_cnn.explanation.concepts.explanatory_graph import chosen_parents, explanatory_graph
from interp_cnn.explanation.concepts.graph_nodes import cell_positions, node_positions, node_sums

GRID = 16


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bump(row, column, size=GRID, width=0.7):
    """A map (size, size) with a peak of 1 at a relative position."""
    rows, columns = cell_positions(size, size)
    squared = ((rows - row) * size)[:, None].square() + ((columns - column) * size).square()
    return torch.exp(-0.5 * squared / width**2) * (squared < 6)


def normal(row, column, mean, spread):
    squared = (row - mean[0]) ** 2 + (column - mean[1]) ** 2
    return math.exp(-squared / (2 * spread**2)) / (2 * math.pi * spread**2)


def test_sums_equal_loops_over_images_filters_nodes_and_cells():
    entities = torch.rand(3, 2, 4, 5, generator=seeded()).double()
    expected = torch.rand(3, 2, 3, 2, generator=seeded(1)).double()
    spread = (0.1 + 0.2 * torch.rand(2, 3, generator=seeded(2))).double()
    sums = node_sums(entities, expected, spread, tau=0.3)
    mass, displaced = torch.zeros(2, 3), torch.zeros(2, 3, 2)
    squared, log_likelihood = torch.zeros(2, 3), 0.0
    for image in range(3):
        for d in range(2):
            for row in range(4):
                for column in range(5):
                    p = torch.tensor([(row + 0.5) / 4, (column + 0.5) / 5])
                    at = [
                        normal(*p.tolist(), expected[image, d, v].tolist(), float(spread[d, v]))
                        for v in range(3)
                    ]
                    total = sum(at) + 0.3
                    entity = float(entities[image, d, row, column])
                    log_likelihood += entity * math.log(total / 4)
                    for v in range(3):
                        share = entity * at[v] / total
                        offset = p - expected[image, d, v]
                        mass[d, v] += share
                        displaced[d, v] += share * offset
                        squared[d, v] += share * offset.square().sum()
    torch.testing.assert_close(sums.mass.float(), mass)
    torch.testing.assert_close(sums.displacement.float(), displaced)
    torch.testing.assert_close(sums.squared.float(), squared)
    assert float(sums.log_likelihood) == pytest.approx(log_likelihood, rel=1e-5)


def test_positions_are_the_best_cells_and_scores_are_in_units_of_activation(monkeypatch):
    entities = torch.rand(5, 2, 6, 4, generator=seeded())
    entities[4, 1] = 0
    expected = torch.rand(5, 2, 3, 2, generator=seeded(1))
    spread = 0.1 + 0.2 * torch.rand(2, 3, generator=seeded(2))
    monkeypatch.setattr("interp_cnn.explanation.concepts.graph_nodes.CHUNK_CELLS", 300)
    positions, scores = node_positions(entities, expected, spread)
    for image, d, v in [(0, 0, 0), (1, 1, 2), (3, 0, 1), (2, 1, 1)]:
        best = max(
            (
                float(entities[image, d, row, column])
                * normal(
                    (row + 0.5) / 6, (column + 0.5) / 4, expected[image, d, v].tolist(), float(spread[d, v])
                ),
                (row + 0.5) / 6,
                (column + 0.5) / 4,
            )
            for row in range(6)
            for column in range(4)
        )
        assert positions[image, d, v].tolist() == pytest.approx(best[1:])
        height = 1 / (2 * math.pi * float(spread[d, v]) ** 2)
        assert float(scores[image, d, v]) == pytest.approx(best[0] / height, rel=1e-4)
    assert torch.equal(positions[4, 1], expected[4, 1]) and (scores[4, 1] == 0).all()


def test_a_filter_of_two_parts_is_disentangled_into_their_places_and_spreads():
    places = torch.tensor([[0.25, 0.3], [0.7, 0.65]])
    jitter = torch.tensor([0.03, 0.06])
    maps = torch.zeros(150, 1, GRID, GRID)
    draws = torch.randn(150, 2, 2, generator=seeded()) * jitter[:, None]
    for image in range(150):
        for part in range(2):
            maps[image, 0] += bump(*(places[part] + draws[image, part]).tolist())
    (top,) = explanatory_graph({"conv": maps}, generator=seeded(), nodes=(2,))
    order = top.means[0, :, 0].argsort()
    torch.testing.assert_close(top.means[0, order], places, atol=0.02, rtol=0)
    # a bump is itself 0.7 cells wide, and so is the rounding to cells
    wanted = (jitter.square() + (0.7 / GRID) ** 2).sqrt()
    torch.testing.assert_close(top.deformations[0, order], wanted, atol=0.015, rtol=0)
    truth = places + draws
    assert ((top.positions[:, 0, order] - truth).abs().amax(dim=(1, 2)) < 1.0 / GRID).float().mean() > 0.95
    steps = torch.tensor(top.log_likelihoods)
    assert (steps[2:-1] >= steps[1:-2] - 1e-4).all()  # expectation-maximisation climbs


def moving_object(images=120, seed=0):
    """Above: a filter at the object, which is anywhere, and one that is elsewhere. Below: a filter at a fixed
    displacement from the object and, as strong, somewhere else.
    """
    draw = torch.rand(images, 3, 2, generator=seeded(seed))
    where = 0.15 + 0.45 * draw[:, 0]
    part = where + torch.tensor([0.125, 0.25])
    above, below = torch.zeros(images, 2, GRID, GRID), torch.zeros(images, 1, GRID, GRID)
    for image in range(images):
        above[image, 0] = bump(*where[image].tolist())
        above[image, 1] = bump(*(0.1 + 0.8 * draw[image, 1]).tolist())
        below[image, 0] = bump(*part[image].tolist()) + bump(*(0.1 + 0.8 * draw[image, 2]).tolist())
    return {"top": above, "below": below.clamp(max=1)}, part


def test_a_part_is_found_relative_to_the_layer_above_where_its_own_place_says_nothing():
    maps, part = moving_object()
    options = {"nodes": (6, 4), "parents": 5, "deformation": (0.02, 0.2)}
    top, below = explanatory_graph(maps, generator=seeded(), **options)
    best = int(below.strongest(0.25)[0, 1])
    assert ((below.parents[0, best] // 6) == 0).float().mean() >= 0.8  # nodes of the object's filter
    found = _share_found(below, best, part)
    alone = explanatory_graph({"below": maps["below"]}, generator=seeded(), nodes=(4,))[0]
    assert found > 0.95 > 0.92 > max(_share_found(alone, node, part) for node in range(4))
    assert below.deformations[0, best] < 0.6 * alone.deformations[0].min()
    assert top.parents is None and below.parents.shape == (1, 4, 5)


def _share_found(layer, node, part):
    """Share of images on which the first filter's node lies within 1.5 cells of the part."""
    distances = (layer.positions[:, 0, node] - part).square().sum(dim=1).sqrt()
    return float((distances < 1.5 / GRID).float().mean())


def test_parents_are_those_with_the_steadiest_displacement():
    maps, part = moving_object()
    (top,) = explanatory_graph({"top": maps["top"]}, generator=seeded(), nodes=(6,))
    positions, scores = part[:, None, None], torch.ones(len(part), 1, 1)
    chosen, displacement = chosen_parents(positions, scores, torch.full((1, 1), 0.05), top, 3)
    gains = []
    for number in range(12):
        weights = top.scores[:, number // 6, number % 6].clamp(max=1)
        offsets = part - top.positions[:, number // 6, number % 6]
        mean = (weights[:, None] * offsets).sum(0) / weights.sum()
        logs = -(offsets - mean).square().sum(1) / (2 * 0.05**2) - math.log(2 * math.pi * 0.05**2)
        gains.append((float((weights * logs).sum()), number, mean))
    best = sorted(gains, key=lambda gain: -gain[0])[:3]
    assert chosen[0, 0].tolist() == [number for _, number, _ in best]
    torch.testing.assert_close(
        displacement[0, 0], torch.stack([mean for *_, mean in best]), atol=1e-4, rtol=0
    )


def test_one_seed_gives_one_graph_and_a_silent_filter_stays_finite():
    maps, _ = moving_object(images=20)
    maps["top"][:, 1] = 0
    first, second = (
        explanatory_graph(maps, generator=seeded(), nodes=(3, 2), iterations=7) for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.means, other.means) and torch.equal(one.scores, other.scores)
        assert one.means.isfinite().all() and one.deformations.isfinite().all()
    assert (first[0].scores[:, 1] == 0).all()
    assert first[0].strongest(0.34).shape == (2, 2) and (first[0].strongest(0.34)[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("maps", "options", "sentence"),
    [
        ({}, {}, "maps holds no layer"),
        ({"a": torch.zeros(2, 1, 3, 3), "b": torch.zeros(3, 1, 3, 3)}, {}, "'b': 3"),
        ({"a": torch.zeros(2, 1, 3, 3)}, {"tau": 0}, "tau 0"),
        ({"a": torch.zeros(2, 1, 3, 3)}, {"nodes": (0,)}, r"nodes \(0,\)"),
    ],
)
def test_wrong_arguments_are_named(maps, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        explanatory_graph(maps, generator=seeded(), **options)
