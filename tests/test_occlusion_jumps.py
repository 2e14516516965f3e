"""Steps that jump (comparisons, signs, rounding) where a hidden window makes their values equal to the threshold.

There `clean + delta` is the threshold up to rounding, and only a plain forward pass knows on which side the network's
own number lies.
"""

import pytest
import torch
from test_random_graphs import examined
from torch import nn

from interp_cnn.explanation.occlusion.fills import as_fill
from interp_cnn.explanation.occlusion.incremental.engine import IncrementalOcclusion
from interp_cnn.explanation.occlusion.maps import occlusion_drops
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.windows import window_grid

GRID = {"window": 6, "stride": 2, "fill": 0.0}


def gated(self, x):
    """A product of two changing values: hidden pixels make it an exact 0."""
    return x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()


def shortcut(self, x):
    """Exactly 0 wherever the larger one of two branches is subtracted from itself."""
    first = self.first(x)
    return torch.maximum(first, 0.9 * self.second(x)) - first


def rectified(self, x):
    return self.first(x).relu()


def normalised(self, x):
    """Hidden pixels are the threshold itself."""
    return self.first((x - self.mean) / self.std) - self.first((0 * x - self.mean) / self.std)


VALUES = {"gated": gated, "shortcut": shortcut, "rectified": rectified, "normalised": normalised}
STEPS = {
    "x > 0": lambda x: (x > 0) * (x + 0.3),
    "x < 0": lambda x: x.masked_fill(x < 0, 0.5),
    "x >= 0": lambda x: torch.where(x >= 0, x + 0.2, -x),
    "x <= 0": lambda x: x * (x <= 0).to(x.dtype) + (x <= 0),
    "x == 0": lambda x: x + 0.4 * (x == 0),
    "x != 0": lambda x: x + x.ne(0).double(),
    "x < y": lambda x: x + torch.lt(x, x.flip(1)),
    "sign": torch.sign,
    "round": lambda x: (4 * x + 0.5).round(),
    "floor": lambda x: (4 * x).floor(),
    "ceil": lambda x: (4 * x).ceil(),
    "trunc": lambda x: x - torch.trunc(3 * x + 1),
    "floor division": lambda x: x // 0.25,
    "remainder": lambda x: x % 0.25,
    "heaviside": lambda x: x * torch.heaviside(x, torch.full_like(x, 0.5)) + torch.heaviside(x, x + 0.5),
    "hardshrink": lambda x: nn.functional.hardshrink(x + 0.25, 0.25),
    "threshold": lambda x: nn.functional.threshold(x, 0.0, 0.7),
    "winner": lambda x: x * (x.argmax(1, keepdim=True) == 0),
    "order": lambda x: x.gather(1, x.flip(1).argsort(dim=1, stable=True)),
    "integers": lambda x: x + (x * 4).long(),
    "square root": lambda x: (1e-3 + x).clamp(min=1e-3).sqrt() * (x > 0),
}


class Jumping(nn.Module):
    def __init__(self, values, step):
        super().__init__()
        self.first, self.second = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))
        self.squeeze, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 3)
        self.mean, self.std = torch.tensor([0.4, 0.5, 0.3]).view(3, 1, 1).double(), 0.23
        self.head = nn.Linear(5, 3)
        self.values, self.step = values, step

    def forward(self, x):
        return self.head(self.last(STEPS[self.step](VALUES[self.values](self, x))).relu().mean((2, 3)))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("values", VALUES)
def test_a_step_that_jumps_is_decided_as_in_a_plain_pass(values, step):
    torch.manual_seed(sum(map(ord, values + step)))
    network = Jumping(values, step).double().eval()
    images = torch.rand(2, 3, 18, 18).double()
    images[:, :, :5] = 0
    expected = occlusion_drops(network, images, engine="dense", **GRID)
    found = occlusion_drops(network, images, engine="incremental", **GRID)
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


def test_a_random_network_that_fills_below_zero_behind_a_gate_is_exact():
    error, left_to_plain_passes, engine = examined(1000876)
    assert "masked_fill" in engine.graph.module.code
    assert error <= 1e-8 and left_to_plain_passes < 1


def test_windows_that_hang_on_no_rounding_are_left_to_the_engine():
    torch.manual_seed(0)
    network = Jumping("rectified", "x > 0").double().eval()
    images = torch.rand(2, 3, 18, 18).double()  # every hidden pixel counts
    grid = window_grid((18, 18), 6, 2, "none")
    with torch.no_grad():
        engine = IncrementalOcclusion(network, grid, images, every_step=True)
        occluders = Occluders(images, grid, as_fill(0.3))
        batches = engine.batches(2)
        parts = [p for b in batches for p in engine.drops(engine.clean(images), b, occluders.changes)]
    assert len(engine.plan.moving) > 2 and engine.plan.jumps
    assert not any(part.undecided.any() for part in parts)


class Largest(nn.Module):
    """Of a call with several results only the values are read, which do not jump."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(1, 3)

    def forward(self, x):
        values, _ = self.first(x).max(1, keepdim=True)
        return self.head(values.mean((2, 3)))


def test_values_without_their_places_do_not_jump():
    network, images = Largest().double().eval(), torch.rand(1, 3, 18, 18).double()
    with torch.no_grad():
        engine = IncrementalOcclusion(network, window_grid((18, 18), 6, 2, "none"), images)
    assert engine.graph.unknown() and not engine.plan.jumps


def test_the_engine_that_does_not_watch_jumps_refuses_them_in_one_sentence():
    network = Jumping("rectified", "x > 0").double().eval()
    with pytest.raises(ValueError, match=r"rounding may decide .* \(.*gt.*\)"):
        occlusion_drops(network, torch.rand(1, 3, 18, 18).double(), engine="one_batch", **GRID)
