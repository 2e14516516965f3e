"""The incremental engine against one forward pass per window."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from occlusion_networks import (
    Functional,
    Masked,
    Residual,
    SqueezeExcite,
    five_convolutions,
    lively,
    pictures,
    small_network,
)
from torch import nn

from interp_cnn.evaluation.statistics import rank_correlation
from interp_cnn.explanation.occlusion.fills import as_fill, noise
from interp_cnn.explanation.occlusion.incremental.engine import IncrementalOcclusion
from interp_cnn.explanation.occlusion.maps import occlusion_drops
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.windows import disc, window_grid
from interp_cnn.model.backbones import build_network

SMALL = {
    "plain": small_network,
    "functional": Functional,
    "residual": Residual,
    "squeeze and excite": SqueezeExcite,
    "template mask": Masked,
    "five convolutions": five_convolutions,
    "interpretable": lambda: build_network(
        "small_cnn",
        num_classes=4,
        channels=3,
        image_size=(30, 34),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.3),
        widths=(8, 12, 16, 16, 16),
        extra_conv=True,
    ),
}


NETWORKS = {name: lively(make()).double() for name, make in SMALL.items()}


def incremental_drops(network, images, *, window, stride, fill=0.0, overhang="none", dtype=None):
    """Everything that has a delta rule runs incrementally, whatever the cost model says."""
    grid = window_grid(tuple(images.shape[2:]), window, stride, overhang)
    fill = as_fill(fill)
    with torch.no_grad():
        engine = IncrementalOcclusion(network, grid, images, every_step=True, dtype=dtype)
        clean = engine.clean(images)
        drops = torch.full(
            (*clean.logits.shape, len(grid.rows), len(grid.columns)), float("nan"), dtype=images.dtype
        )
        occluders = Occluders(images, grid, fill)
        for batch in engine.batches(len(images), 2**20):
            for part in engine.drops(clean, batch, occluders.changes):
                some = slice(part.images.start, part.images.stop)
                drops[some, :, torch.tensor(part.rows)[:, None], torch.tensor(part.columns)] = part.drops.to(
                    drops
                )
    return drops, engine


def brute_force(network, images, **options):
    """One forward pass per window in double precision: in float32 the difference of two logits is itself inexact."""
    return occlusion_drops(copy.deepcopy(network).double(), images.double(), engine="dense", **options)


def largest_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_drops_equal_one_forward_pass_per_window(name, dtype, bound):
    network = copy.deepcopy(NETWORKS[name]).to(dtype)
    images = pictures(2, (30, 34)).to(dtype)
    for window, stride, overhang in [(11, 6, "none"), ((9, 14), (8, 5), "both"), (disc(13), 7, "end")]:
        found, engine = incremental_drops(
            network, images, window=window, stride=stride, fill=0.4, overhang=overhang
        )
        expected = brute_force(network, images, window=window, stride=stride, fill=0.4, overhang=overhang)
        assert engine.pays
        assert largest_error(found, expected) <= bound, (window, stride, overhang)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_window_stride_size_fill_and_network_is_exact(data):
    network = NETWORKS[data.draw(st.sampled_from(sorted(SMALL)))]
    height, width = data.draw(st.integers(17, 32)), data.draw(st.integers(17, 32))
    window = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    stride = (data.draw(st.integers(4, 12)), data.draw(st.integers(4, 12)))
    overhang = data.draw(st.sampled_from(["none", "end", "both"]))
    images = torch.rand(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    fill = data.draw(st.sampled_from([0.0, images.flip(0), noise(samples=1)]))
    options = {"window": window, "stride": stride, "fill": fill, "overhang": overhang}
    found, _ = incremental_drops(network, images, **options)
    expected = occlusion_drops(network, images, engine="dense", **options)
    assert largest_error(found, expected) <= 1e-10


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 5, 3, padding=1, dilation=2),
        nn.Conv2d(3, 5, 3, stride=3),
        nn.Conv2d(3, 5, (1, 5), stride=(1, 2), padding=(0, 3)),
        nn.Conv2d(3, 6, 4, stride=2, padding=1, groups=3),
        nn.Conv2d(3, 5, 3, padding="same"),
        nn.Conv2d(3, 5, 2, stride=4),
        nn.Conv2d(3, 5, 3, padding=2, bias=False),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(3, 1, dilation=2),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d((3, 4)),
        nn.GELU(),
    ],
    ids=str,
)
def test_awkward_geometry_is_exact(convolution, pool):
    torch.manual_seed(0)
    network = nn.Sequential(copy.deepcopy(convolution), nn.SiLU(), pool, nn.Flatten(), nn.LazyLinear(4))
    network(torch.rand(1, 3, 23, 20))
    network = network.eval().double()
    images = torch.rand(1, 3, 23, 20, dtype=torch.float64)
    for window, stride in [(4, 3), ((1, 2), 5)]:
        found, engine = incremental_drops(network, images, window=window, stride=stride, overhang="both")
        expected = occlusion_drops(
            network, images, window=window, stride=stride, overhang="both", engine="dense"
        )
        assert not engine.graph.unknown()
        assert largest_error(found, expected) <= 1e-10


class Odd(nn.Module):
    """A step without a delta rule, between two that have one; `how` says which."""

    def __init__(self, how):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 4)
        self.how = how

    def forward(self, x):
        x = self.first(x).relu()
        if self.how == "attention":
            tokens = x.flatten(2).transpose(1, 2)
            tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
            x = tokens.transpose(1, 2).reshape(x.shape)
        elif self.how == "group norm":
            x = self.norm(x)
        elif self.how == "shuffle":
            batch, channels, height, width = x.shape
            x = (
                x.view(batch, 2, channels // 2, height, width)
                .transpose(1, 2)
                .reshape(batch, channels, height, width)
            )
        elif self.how == "roll":
            x = x.roll((3, -2), (2, 3))
        elif self.how == "softmax":
            x = x.softmax(1)
        elif self.how == "transpose":
            x = x.transpose(2, 3)
        elif self.how == "spatial product":
            x = x * torch.linspace(0, 1, x.shape[3], dtype=x.dtype)
        elif self.how == "square":
            x = x * x
        elif self.how == "chunk":
            first, second = x.chunk(2, 1)
            x = torch.cat([second, first.tanh()], 1)
        x = self.second(x).relu()
        return self.head(F.adaptive_max_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize("how", ["attention", "group norm", "softmax", "spatial product"])
def test_a_step_without_a_rule_runs_densely_and_is_named_once(how, caplog):
    torch.manual_seed(0)
    network = Odd(how).double().eval()
    images = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    with caplog.at_level(logging.INFO):
        found, engine = incremental_drops(network, images, window=4, stride=3)
    expected = occlusion_drops(network, images, window=4, stride=3, engine="dense")
    assert engine.graph.unknown()
    assert sum("no delta rule" in record.message for record in caplog.records) == 1
    assert largest_error(found, expected) <= 1e-10


@pytest.mark.parametrize("how", ["shuffle", "roll", "square", "chunk"])
def test_what_only_moves_numbers_has_a_rule_however_it_is_written(how):
    torch.manual_seed(0)
    network = Odd(how).double().eval()
    images = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    found, engine = incremental_drops(network, images, window=4, stride=3)
    assert not engine.graph.unknown()
    assert largest_error(found, brute_force(network, images, window=4, stride=3)) <= 1e-10


class DataDependent(nn.Module):
    """Control flow on values: cannot be traced."""

    def __init__(self):
        super().__init__()
        self.body = small_network()

    def forward(self, x):
        return self.body(x) if x.mean() > 0 else self.body(-x)


class Hooked(nn.Module):
    """Computes something else than its graph says."""

    def __init__(self):
        super().__init__()
        self.body = small_network()
        self.body[1].register_forward_hook(lambda module, inputs, output: output * 2)

    def forward(self, x):
        return self.body(x)


def test_what_cannot_be_traced_falls_back_to_plain_passes_with_a_warning(caplog):
    network = DataDependent().double().eval()
    images = torch.rand(1, 3, 48, 48, dtype=torch.float64)
    with caplog.at_level(logging.WARNING):
        found = occlusion_drops(network, images, window=6, stride=2)
    assert any("one forward pass per window" in record.message for record in caplog.records)
    assert torch.equal(found, occlusion_drops(network, images, window=6, stride=2, engine="dense"))


def test_a_module_whose_hook_changes_its_output_is_not_taken_for_what_it_seems():
    network = Hooked().double().eval()
    images = torch.rand(1, 3, 24, 24, dtype=torch.float64)
    found, engine = incremental_drops(network, images, window=6, stride=3)
    assert engine.graph.unknown() == ["call_module body.1"]
    assert largest_error(found, brute_force(network, images, window=6, stride=3)) <= 1e-10


def test_an_incremental_run_that_is_impossible_is_refused():
    with pytest.raises(ValueError, match=r"^network cannot be occluded incrementally"):
        occlusion_drops(
            DataDependent().eval(), torch.rand(1, 3, 24, 24), window=6, stride=3, engine="incremental"
        )


def test_many_images_go_together_and_stay_apart():
    network = lively(small_network()).double()
    images = torch.rand(7, 3, 24, 24, dtype=torch.float64)
    together = occlusion_drops(network, images, window=5, stride=4, engine="incremental")
    alone = torch.cat(
        [occlusion_drops(network, i[None], window=5, stride=4, engine="incremental") for i in images]
    )
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


def test_the_same_call_gives_the_same_bits():
    network, images = lively(small_network()), torch.rand(2, 3, 24, 24)
    first, second = (
        occlusion_drops(network, images, window=5, stride=2, fill=noise(samples=2)) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_weights_may_change_between_calls():
    network, images = lively(small_network()).double(), torch.rand(1, 3, 24, 24, dtype=torch.float64)
    before = occlusion_drops(network, images, window=5, stride=2)
    with torch.no_grad():
        network[0].weight.mul_(1.5)
    after = occlusion_drops(network, images, window=5, stride=2)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, occlusion_drops(network, images, window=5, stride=2, engine="dense"))


def test_bfloat16_keeps_the_order_of_the_windows():
    network, images = lively(five_convolutions()), torch.rand(1, 3, 32, 32)
    exact = occlusion_drops(network, images, window=8, stride=4)
    rough = occlusion_drops(network, images, window=8, stride=4, precision="bfloat16", engine="incremental")
    assert rank_correlation(rough[0], exact[0]).min() > 0.98


BIG = [
    "alexnet",
    "vgg11_bn",
    "vgg16",
    "resnet18",
    "resnet50",
    "densenet121",
    "googlenet",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", BIG)
def test_the_usual_networks_are_exact(name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": True} if name == "googlenet" else {}
    network = lively(getattr(models, name)(weights=None, num_classes=20, **options))
    images, options = pictures(1), {"window": (24, 30), "stride": (19, 17), "fill": 0.5}
    found, engine = incremental_drops(network, images, **options)
    assert not engine.graph.unknown()
    network, images = network.double(), images.double()
    expected = occlusion_drops(network, images, engine="dense", **options)
    assert largest_error(found, expected) <= 1e-5
    found, _ = incremental_drops(network, images, **options)
    assert largest_error(found, expected) <= 1e-10
