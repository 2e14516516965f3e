"""The incremental engine on random networks, against one forward pass per window in double precision."""

import random

import pytest
import torch
from random_graphs import Drawing

from interp_cnn.explanation.occlusion.fills import as_fill
from interp_cnn.explanation.occlusion.incremental.engine import IncrementalOcclusion
from interp_cnn.explanation.occlusion.incremental.tracing import Untraceable
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.windows import window_grid


def brute_force(network, images, occluders, grid):
    clean = network(images.clone())
    drops = clean.new_empty(*clean.shape, len(grid.rows), len(grid.columns))
    windows = [(row, column) for row in range(len(grid.rows)) for column in range(len(grid.columns))]
    for index in range(len(images)):
        changed = network(occluders.occluded(index, windows))
        drops[index] = (clean[index] - changed).T.unflatten(1, (len(grid.rows), len(grid.columns)))
    return drops


def examined(seed):
    """(largest error over the largest drop, the engine) of random network number `seed`, or None if untraceable."""
    draw, chance = Drawing(seed), random.Random(seed)
    network, images = draw.network(), torch.rand(draw.start).double()
    window = chance.randint(1, 9), chance.randint(1, 9)
    stride = chance.randint(2, 6), chance.randint(2, 6)
    grid = window_grid(tuple(images.shape[2:]), window, stride, chance.choice(["none", "end", "both"]))
    # a constant region leaves equal values; of these a template mask in the plain part takes the one that rounds up
    fills = [images.flip(0)] if "masked" in network.kinds else [0.0, 0.5, images.flip(0)]
    occluders = Occluders(images, grid, as_fill(chance.choice(fills)))
    with torch.no_grad():
        try:
            expected = brute_force(network, images, occluders, grid)
        except RuntimeError:  # torch's own: a kernel larger than the map that some instruction gives
            return None
        try:
            engine = IncrementalOcclusion(network, grid, images, every_step=chance.random() < 0.7)
        except Untraceable:
            return None
        before = images.clone()
        clean = engine.clean(images)
        found = torch.full_like(expected, float("nan"))
        for batch in engine.batches(len(images), chance.choice([2**14, 2**18, 2**22])):
            for part in engine.drops(clean, batch, occluders.changes):
                some = slice(part.images.start, part.images.stop)
                found[some, :, torch.tensor(part.rows)[:, None], torch.tensor(part.columns)] = part.drops
    assert torch.equal(images, before)
    assert torch.isfinite(expected).all()
    scale = max(float(expected.abs().max()), 1e-6 * float(clean.logits.abs().max()))
    return float((found - expected).abs().max()) / scale, engine


def assert_exact(seeds):
    refused = 0
    for seed in seeds:
        answer = examined(seed)
        if answer is None:
            refused += 1
            continue
        error, engine = answer
        assert error <= 1e-8, f"Drawing({seed}): {error:.2g} in {engine.graph.module.code}"
    assert refused <= 0.15 * len(seeds), f"{refused} of {len(seeds)} networks were not traced"


def test_random_networks_are_exact():
    assert_exact(range(60))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 3200, 200))
def test_two_thousand_random_networks_are_exact(first):
    assert_exact(range(first, first + 200))
