"""Nodes of a graph as concepts: where they fire, by hand and on parts that were planted."""

import math

import torch

from interp_cnn.explanation.concepts.concepts import Concept, FiringRule, nearness
from interp_cnn.explanation.concepts.graph_concepts import node_concepts, node_replications
from interp_cnn.explanation.concepts.graph_nodes import cell_positions

SIDE = 8
NOWHERE = torch.zeros(0, 3, dtype=torch.int64)


def placed(channel, place, floor=0.5):
    return Concept("node", (channel,), ((0, 0),), 0, NOWHERE, floor, place)


def test_strength_falls_off_with_the_distance_from_the_place():
    maps = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    rule, place = FiringRule(torch.tensor([1.0, 2.0, 1.0])), (0.3, 0.7, 0.1)
    strengths = rule.strengths(maps, [placed(1, place)])
    rows, columns = cell_positions(SIDE, SIDE)
    for image in range(2):
        for row in range(SIDE):
            for column in range(SIDE):
                squared = (float(rows[row]) - 0.3) ** 2 + (float(columns[column]) - 0.7) ** 2
                expected = float(maps[image, 1, row, column]) / 2 * math.exp(-squared / (2 * 0.1**2))
                assert math.isclose(float(strengths[image, 0, row, column]), expected, abs_tol=1e-6)
    assert torch.equal(rule.fires(maps, [placed(1, place, 0.1)]), strengths >= 0.1)
    assert nearness((0.5 / SIDE, 0.5 / SIDE, 0.1), SIDE, SIDE)[0, 0] == 1


def test_planted_parts_become_nodes_that_fire_there_and_nowhere_else():
    """Filter 0 has a part at one cell, filter 1 at another, filter 2 fires at random, filter 3 never."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.zeros(40, 4, SIDE, SIDE)
    maps[:, 0, 1, 2] = 1.0
    maps[:, 1, 6, 5] = 1.0
    for image in range(40):
        row, column = torch.randint(SIDE, (2,), generator=generator).tolist()
        maps[image, 2, row, column] = 1.0
    rule = FiringRule(torch.ones(4))
    nodes = node_concepts(maps, 5, rule=rule, count=2, generator=generator, nodes=3)
    assert {one.channels for one in nodes} == {(0,), (1,)} and {one.category for one in nodes} == {5}
    for one in nodes:
        row, column = (1, 2) if one.channels == (0,) else (6, 5)
        assert math.dist(one.place[:2], ((row + 0.5) / SIDE, (column + 0.5) / SIDE)) < 0.02
        fires = rule.fires(maps, [one])[:, 0]
        assert fires[:, row, column].all() and fires.sum() == 40
        elsewhere = torch.zeros(1, 4, SIDE, SIDE)
        elsewhere[0, one.channels[0], 7 - row, 7 - column] = 1.0
        assert not rule.fires(elsewhere, [one]).any()
    everything = node_concepts(maps, 5, rule=rule, count=9, generator=generator, nodes=3)
    assert [one.channels[0] for one in everything].count(3) == 0 and len(everything) == 3


def test_a_node_comes_out_again_near_its_place_only():
    one = placed(1, (0.5, 0.5, 0.1))
    assert node_replications([one], [placed(1, (0.55, 0.5, 0.02))]) == [1]
    assert node_replications([one], [placed(1, (0.7, 0.5, 0.02)), placed(2, (0.5, 0.5, 0.1))]) == [0]
    assert node_replications([one], []) == [0]
