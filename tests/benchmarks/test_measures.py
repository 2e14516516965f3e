"""Throughput of the pure measures, in positions: `pytest -n 0 --benchmark-enable
tests/benchmarks/test_measures.py`.
"""

import math

import pytest
import torch

from interp_cnn.evaluation.filters.location_instability import location_instability
from interp_cnn.evaluation.filters.tracking import tracking_gain

IMAGES, FILTERS = 2000, 512


@pytest.fixture(scope="module")
def observed():
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(IMAGES, FILTERS, 2, generator=generator) * 224
    return (
        positions,
        torch.rand(IMAGES, FILTERS, generator=generator),
        torch.rand(IMAGES, 2, 2, generator=generator) * 224,
    )


def test_location_instability_of_a_million_positions(benchmark, observed):
    found = benchmark(location_instability, *observed, diagonal=math.hypot(224, 224))
    assert found.shape == (FILTERS,)


def test_tracking_gain_of_a_million_positions(benchmark, observed):
    steps = torch.arange(8.0, 224, 16)
    cells = torch.cartesian_prod(steps, steps)
    found = benchmark(tracking_gain, *observed, cells, diagonal=math.hypot(224, 224))
    assert found.shape == (FILTERS,)
