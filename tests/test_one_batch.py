"""All windows in one batch against one forward pass per window, and against a CUDA graph's conditions."""

import copy

import numpy as np
import pytest
import torch
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
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from interp_cnn.evaluation.statistics import rank_correlation
from interp_cnn.explanation.occlusion import choice
from interp_cnn.explanation.occlusion.fills import as_fill, blur, noise
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.maps import occlusion_drops
from interp_cnn.explanation.occlusion.occluders import Occluders
from interp_cnn.explanation.occlusion.one_batch import kernels
from interp_cnn.explanation.occlusion.one_batch.engine import OneBatchOcclusion
from interp_cnn.explanation.occlusion.one_batch.frames import is_whole
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


def engine_of(network, images, *, window, stride, overhang="none", dtype=None):
    grid = window_grid(tuple(images.shape[2:]), window, stride, overhang)
    with torch.no_grad():
        return OneBatchOcclusion(network, grid, images, dtype=dtype)


def one_batch_drops(engine, images, *, fill=0.0, capacity=40):
    grid = engine.grid
    occluders = Occluders(images, grid, as_fill(fill))
    with torch.no_grad():
        clean = engine.clean(images)
        drops = torch.full((*clean.logits.shape, len(grid.rows), len(grid.columns)), float("nan")).to(images)
        for batch in engine.batches(len(images), capacity):
            for part in engine.drops(clean, batch, occluders.listed_changes):
                some = slice(part.images.start, part.images.stop)
                drops[some, :, torch.tensor(part.rows), torch.tensor(part.columns)] = part.drops
    return drops


def largest_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_drops_equal_one_forward_pass_per_window(name, dtype, bound):
    network = copy.deepcopy(NETWORKS[name]).to(dtype)
    images = pictures(2, (30, 34)).to(dtype)
    for window, stride, overhang in [(11, 6, "none"), ((4, 14), (8, 5), "both"), (disc(13), 7, "end")]:
        engine = engine_of(network, images, window=window, stride=stride, overhang=overhang)
        found = one_batch_drops(engine, images, fill=0.4)
        options = {"window": window, "stride": stride, "fill": 0.4, "overhang": overhang, "engine": "dense"}
        expected = occlusion_drops(copy.deepcopy(network).double(), images.double(), **options)
        plain = largest_error(
            occlusion_drops(network, images, **options), expected
        )  # tiny drops: all rounding
        assert largest_error(found, expected) <= max(bound, plain), (window, stride, overhang)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_window_stride_size_fill_and_network_is_exact(data):
    network = NETWORKS[data.draw(st.sampled_from(sorted(SMALL)))]
    height, width = data.draw(st.integers(17, 32)), data.draw(st.integers(17, 32))
    window = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    stride = (data.draw(st.integers(4, 12)), data.draw(st.integers(4, 12)))
    overhang = data.draw(st.sampled_from(["none", "end", "both"]))
    images = torch.rand(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    fill = data.draw(st.sampled_from([0.0, images.flip(0), noise(samples=1), blur(5)]))
    engine = engine_of(network, images, window=window, stride=stride, overhang=overhang)
    found = one_batch_drops(engine, images, fill=fill)
    expected = occlusion_drops(
        network, images, engine="dense", window=window, stride=stride, fill=fill, overhang=overhang
    )
    assert largest_error(found, expected) <= 1e-10


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 5, 3, padding=1, dilation=2),
        nn.Conv2d(3, 5, 3, stride=3),
        nn.Conv2d(3, 5, (1, 5), stride=(1, 2), padding=(0, 3)),
        nn.Conv2d(3, 6, 4, stride=2, padding=1, groups=3),
        nn.Conv2d(3, 3, 3, padding=2, groups=3),
        nn.Conv2d(3, 5, 3, padding="same"),
        nn.Conv2d(3, 5, 2, stride=4),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d(3, 1, 1),
        nn.MaxPool2d(2, 2, 0, dilation=2),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AdaptiveAvgPool2d(4),
    ],
    ids=str,
)
def test_awkward_geometry_is_exact(convolution, pool):
    torch.manual_seed(0)
    convolution = copy.deepcopy(convolution)
    more = nn.Conv2d(convolution.out_channels, 4, 2)
    network = nn.Sequential(
        convolution, nn.Softplus(), pool, more, nn.Conv2d(4, 4, 3, padding=2), nn.Tanh(), nn.Flatten()
    )
    network = nn.Sequential(network, nn.LazyLinear(3)).eval()
    images = torch.rand(1, 3, 21, 26)
    network(images)
    network, images = network.double(), images.double()
    engine = engine_of(network, images, window=(2, 3), stride=(5, 4), overhang="both")
    assert sum(not is_whole(frame) for frame in engine.program.layout.frames.values()) > 1
    found = one_batch_drops(engine, images, fill=0.3)
    expected = occlusion_drops(
        network, images, engine="dense", window=(2, 3), stride=(5, 4), overhang="both", fill=0.3
    )
    assert largest_error(found, expected) <= 1e-12


@pytest.mark.parametrize("most", [1, 3, 7])
def test_where_memory_ends_a_batch_goes_in_halves(most, monkeypatch):
    network, images = NETWORKS["plain"], pictures(2, (30, 34)).double()
    engine = engine_of(network, images, window=9, stride=6)
    expected = one_batch_drops(engine, images, capacity=11)
    run = engine.replays.run

    def small(maps, values, table, change):
        if change.shape[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(maps, values, table, change)

    monkeypatch.setattr(engine.replays, "run", small)
    torch.testing.assert_close(one_batch_drops(engine, images, capacity=11), expected, rtol=1e-12, atol=1e-12)


class Odd(nn.Module):
    """A step that no rule knows, read beside one that is known."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        x = self.first(x).relu()
        y = self.second(x)
        return (x.cumsum(2) + y).mean((2, 3))


def test_what_has_no_rule_is_computed_on_whole_values():
    network, images = Odd().double(), pictures(2, (18, 20)).double()
    engine = engine_of(network, images, window=3, stride=5)
    assert len(engine.program.frontier) == 2
    expected = occlusion_drops(network, images, engine="dense", window=3, stride=5)
    assert largest_error(one_batch_drops(engine, images), expected) <= 1e-12


def test_a_delta_handed_on_under_another_name_is_not_overwritten():
    class Aliases(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.convolution, self.same = nn.Conv2d(3, 6, 3, padding=1), nn.Identity()

        def forward(self, x):
            x = self.convolution(x)
            y = self.same(x)
            z = (y + 2).contiguous()
            return (y.relu() + z * 0.5 - x + (x + 1).relu()).mean((2, 3))

    network, images = Aliases().double(), pictures(1, (18, 20)).double()
    engine = engine_of(network, images, window=3, stride=4)
    expected = occlusion_drops(network, images, engine="dense", window=3, stride=4)
    assert largest_error(one_batch_drops(engine, images), expected) <= 1e-12


def test_a_plan_gives_the_same_bits_again_for_other_images_and_in_other_batches():
    network, images = NETWORKS["residual"], pictures(5, (30, 34)).double()
    engine = engine_of(network, images, window=9, stride=6)
    alone = [one_batch_drops(engine, image[None]) for image in images]
    again = [one_batch_drops(engine, image[None]) for image in images]
    fresh = [
        one_batch_drops(engine_of(network, image[None], window=9, stride=6), image[None]) for image in images
    ]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(alone, again, fresh, strict=True))
    for capacity in (7, 3 * len(engine.grid), 1000):
        together = one_batch_drops(engine, images, capacity=capacity)
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


def test_batches_have_one_size_and_hold_the_wanted_windows_once():
    engine = engine_of(NETWORKS["plain"], pictures(1, (30, 34)).double(), window=9, stride=4)
    wanted = np.zeros((6, 7), dtype=bool)
    wanted[1, 2:5] = wanted[4, ::3] = True
    batches = engine.batches(2, 4, wanted)
    assert {len(batch.windows) for batch in batches} == {3}
    listed = [(i, w) for b in batches for i in b.images for w in b.windows[: b.count]]
    assert sorted(listed) == [(i, w) for i in (0, 1) for w in np.flatnonzero(wanted)]


WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2"}
FACTORIES = {"arange", "as_tensor", "empty", "eye", "from_numpy", "full", "linspace", "ones", "rand", "randn"}
FACTORIES |= {"scalar_tensor", "tensor", "zeros"}


class NoWaiting(TorchDispatchMode):
    """Refuses what waits for the device: numbers read on the host, sizes that depend on values."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        assert name not in WAITS, f"{name} waits for the device"
        return function(*arguments, **(keywords or {}))


class NothingFromTheHost(TorchFunctionMode):
    """Refuses tensors made without a word about the device: they lie on the host."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        made = (
            getattr(function, "__name__", "") in FACTORIES
            and getattr(function, "__module__", "") != "torch._tensor"
        )
        assert not made or keywords.get("device") is not None, (
            f"{function.__name__} makes a tensor on the host"
        )
        return function(*arguments, **keywords)


@pytest.mark.parametrize("name", SMALL)
def test_a_run_waits_for_no_number_and_takes_none_from_the_host(name):
    """What a CUDA graph asks for: the second run of a batch of some size is recorded."""
    images = pictures(1, (30, 34)).double()
    engine = engine_of(NETWORKS[name], images, window=9, stride=6)
    occluders = Occluders(images, engine.grid, as_fill(0.2))
    with torch.no_grad():
        clean = engine.clean(images)
        (batch,) = engine.batches(1, 1000)
        listed, table = engine._listed(batch, images.device)
        change = occluders.listed_changes(batch.images, listed)
        engine.replays.run(clean.maps, clean.values, table, change)  # constants find their type and device
        with NoWaiting(), NothingFromTheHost():
            engine.replays.run(clean.maps, clean.values, table, change)


@pytest.mark.parametrize("harm", [lambda x: x * float(x.sum()), lambda x: x + torch.zeros(1)])
def test_the_watchers_see_what_they_look_for(harm):
    with pytest.raises(AssertionError), NoWaiting(), NothingFromTheHost():
        harm(torch.ones(2))


def test_bfloat16_keeps_the_order_of_the_windows():
    network, images = lively(five_convolutions()), pictures(1)
    exact = occlusion_drops(network, images, engine="dense", window=8, stride=8)
    rough = one_batch_drops(
        engine_of(network, images, window=8, stride=8, dtype=torch.bfloat16), images, capacity=1000
    )
    assert rank_correlation(rough[0], exact[0]).min() > 0.98


def test_the_fused_rectifier_equals_torch_where_triton_interprets_it(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for dtype in (torch.float32, torch.bfloat16):
        assert kernels.agrees_with_torch(torch.device("cpu"), dtype)


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_job_runs_on_the_engine_that_was_asked_for(precision):
    network, images = lively(five_convolutions()), pictures(3)
    options = {"window": 8, "stride": 12, "overhang": "end", "precision": precision}
    job = OcclusionJob(network, images, engine="one_batch", **options)
    steps = list(job.run())
    assert job.engine == job.cost().engine == "one_batch"
    assert job.known.all() and steps[-1].done == steps[-1].total
    expected = occlusion_drops(
        network.double(), images.double(), engine="dense", window=8, stride=12, overhang="end"
    )
    assert largest_error(job.drops, expected) <= 1e-5


def test_a_job_for_some_windows_computes_them_alone_and_goes_on_where_it_stopped():
    network, images = NETWORKS["residual"], pictures(2, (30, 34)).double()
    wanted = torch.zeros(2, 4, 5, dtype=torch.bool)
    wanted[0, 1, 2:] = wanted[1, ::2, 0] = True
    first, second = (
        OcclusionJob(network, images, window=9, stride=6, engine="one_batch", wanted=wanted) for _ in range(2)
    )
    next(first.run())
    second.load_state_dict(first.state_dict())
    list(second.run())
    assert torch.equal(second.known, wanted)
    expected = occlusion_drops(network, images, engine="dense", window=9, stride=6)
    there = wanted[:, None].expand_as(expected)
    torch.testing.assert_close(second.drops[there], expected[there], rtol=1e-10, atol=1e-12)


def test_on_a_gpu_the_faster_way_is_taken_and_measured_once(monkeypatch):
    network, images = lively(five_convolutions()), pictures(1)
    engine = engine_of(network, images, window=8, stride=8)
    occluders = Occluders(images, engine.grid, as_fill(0.0))
    for own, plain, faster in ((1.0, 2.0, True), (2.0, 1.0, False)):
        choice._MEASURED.clear()
        seconds = iter([own, plain])
        monkeypatch.setattr(choice, "seconds_of", lambda function, device, seconds=seconds: next(seconds))
        monkeypatch.setattr(choice, "plain_seconds", lambda *arguments, seconds=seconds: next(seconds))
        for _ in range(2):
            assert choice.faster_than_plain(engine, network, occluders) is faster


TORCHVISION = [
    *("alexnet", "vgg11", "resnet18", "resnet50", "densenet121", "googlenet", "mobilenet_v2"),
    *("mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1", "convnext_tiny", "regnet_x_400mf"),
    "shufflenet_v2_x0_5",
]


@pytest.mark.slow
@pytest.mark.parametrize("overhang", ["none", "end", "both"])
@pytest.mark.parametrize("name", TORCHVISION)
def test_the_usual_networks_are_exact(name, overhang):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": True} if name == "googlenet" else {}
    network = lively(getattr(models, name)(weights=None, num_classes=20, **options)).double()
    images = pictures(2).double()
    for window, stride in [((7, 10), (29, 23)), (5, 31)]:
        engine = engine_of(network, images, window=window, stride=stride, overhang=overhang)
        found = one_batch_drops(engine, images, fill=0.5)
        expected = occlusion_drops(
            network, images, engine="dense", window=window, stride=stride, overhang=overhang, fill=0.5
        )
        assert largest_error(found, expected) <= 1e-12
