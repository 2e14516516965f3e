"""All windows in one batch on random networks, against one forward pass per window in double precision."""

import random

import torch
from random_graphs import Drawing
from test_random_graphs import brute_force

from interp_cnn.explanation.occlusion.fills import as_fill
from interp_cnn.explanation.occlusion.incremental.tracing import Untraceable
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.one_batch.engine import OneBatchOcclusion
from interp_cnn.explanation.occlusion.windows import window_grid


def error_of(seed: int) -> float | None:
    """Relative to the largest drop of random network number `seed`; None where torch or the tracer refuses it."""
    draw, chance = Drawing(seed), random.Random(seed)
    network, images = draw.network(), torch.rand(draw.start).double()
    window, stride = (
        (chance.randint(low, high), chance.randint(low, high)) for low, high in [(1, 9), (2, 6)]
    )
    grid = window_grid(tuple(images.shape[2:]), window, stride, chance.choice(["none", "end", "both"]))
    # a constant region leaves equal values, of which a mask in the plain part takes the one that rounds up
    fills = [images.flip(0)] if "masked" in network.kinds else [0.0, 0.5, images.flip(0)]
    occluders = Occluders(images, grid, as_fill(chance.choice(fills)))
    with torch.no_grad():
        try:
            expected = brute_force(network, images, occluders, grid)
            engine = OneBatchOcclusion(network, grid, images)
        except Untraceable:
            return None
        except RuntimeError as error:  # torch's own: a kernel larger than the map that some instruction gives
            if "size" not in str(error):
                raise
            return None
        clean = engine.clean(images)
        found = torch.full_like(expected, float("nan"))
        for batch in engine.batches(len(images), chance.choice([3, 40, 400])):
            for part in engine.drops(clean, batch, occluders.listed_changes):
                some = slice(part.images.start, part.images.stop)
                found[some, :, torch.tensor(part.rows), torch.tensor(part.columns)] = part.drops
    scale = max(float(expected.abs().max()), 1e-6 * float(clean.logits.abs().max()))
    return float((found - expected).abs().max()) / scale


def assert_exact(seeds):
    errors = {seed: error_of(seed) for seed in seeds}
    wrong = {seed: error for seed, error in errors.items() if error is not None and not error <= 1e-8}
    assert not wrong, f"Drawing(seed): {wrong}"
    refused = sum(error is None for error in errors.values())
    assert refused <= 0.15 * len(errors), f"{refused} of {len(errors)} networks were not traced"


def test_random_networks_are_exact():
    assert_exact(range(15))
