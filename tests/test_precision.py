"""Explanations and measures compute in true float32, whatever the program around them allows.

Without a GPU two things stand for one: a dispatch mode that rounds what convolutions and matrix products get to TF32's
10 bits of mantissa, as long as torch's switches allow TF32; and a network that notes the switches and autocast in its
forward pass.
"""

from contextlib import contextmanager
from itertools import groupby

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from interp_cnn.evaluation.maps.completeness import random_squares, removals
from interp_cnn.evaluation.maps.pixel_flipping import Regions, random_order, replaced_shares, score_curves
from interp_cnn.evaluation.maps.randomisation import randomisation_check
from interp_cnn.explanation.gradients.finite_differences import sensitivity_check
from interp_cnn.explanation.gradients.gradients import saliency
from interp_cnn.explanation.methods.options import OcclusionOptions, Options
from interp_cnn.explanation.methods.registry import METHODS
from interp_cnn.explanation.methods.run import explain_images
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.network.precision import PRECISIONS, chosen_precision, precision, rounding
from interp_cnn.explanation.occlusion.fills import blur
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.maps import multi_scale_maps, occlusion_drops
from interp_cnn.explanation.occlusion.sampling import SampledOcclusion
from interp_cnn.explanation.propagation.lrp import lrp_conservation
from interp_cnn.explanation.receptive_field.field import measured_receptive_field
from interp_cnn.explanation.shapley import shapley_estimate

OPTIONS = Options(window=4, stride=4, batch_size=64, occlusion=OcclusionOptions(samples=256))
TARGETS = torch.tensor([0, 2])
PRODUCTS = {
    torch.ops.aten.convolution: "conv",
    torch.ops.aten.convolution_backward: "conv",
    torch.ops.aten.mm: "matmul",
    torch.ops.aten.addmm: "matmul",
    torch.ops.aten.bmm: "matmul",
    torch.ops.aten.baddbmm: "matmul",
}


class TF32(TorchDispatchMode):
    """Products of float32 tensors as a GPU makes them: rounded to 10 bits of mantissa where that is allowed."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kind = PRODUCTS.get(function.overloadpacket)
        if kind and _allowed(kind):
            args = tuple(_rounded(value) for value in args)
        return function(*args, **(kwargs or {}))


def _allowed(kind: str) -> bool:
    place = torch.backends.cudnn if kind == "conv" else torch.backends.cuda.matmul
    place = getattr(place, "conv", place)
    newer = getattr(place, "fp32_precision", None)
    return place.allow_tf32 if newer is None else newer == "tf32"


def _rounded(value):
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    return ((value.contiguous().view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


@contextmanager
def as_on_a_gpu():
    """What a training on a GPU leaves switched on: TF32 for convolutions and products, and autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with TF32(), torch.autocast("cpu", dtype=torch.bfloat16):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def switches() -> dict:
    """Every switch of the precision of products that torch has, and autocast."""
    cudnn, mkldnn, matmul = torch.backends.cudnn, torch.backends.mkldnn, torch.backends.cuda.matmul
    found = {"autocast": torch.is_autocast_enabled("cpu"), "autocast type": torch.get_autocast_dtype("cpu")}
    readings = {"cudnn": lambda: cudnn.allow_tf32, "matmul": torch.get_float32_matmul_precision}
    if hasattr(cudnn, "conv"):
        places = {"conv": cudnn.conv, "rnn": cudnn.rnn, "product": matmul, "cpu conv": mkldnn.conv}
        readings |= {
            name: lambda place=place: place.fp32_precision
            for name, place in {**places, "cpu product": mkldnn.matmul, "cpu rnn": mkldnn.rnn}.items()
        }
    for name, read in readings.items():
        try:
            found[name] = read()
        except RuntimeError:  # the older switches cannot be read where the newer ones say something else
            found[name] = "unreadable"
    return found


class Probe(nn.Module):
    """A network that notes in its forward pass whether products may be rounded."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.notes = network, []

    def forward(self, images):
        self.notes.append((_allowed("conv"), _allowed("matmul"), torch.is_autocast_enabled("cpu")))
        return self.network(images)


@pytest.fixture(scope="module", autouse=True)
def _both_forms_say_the_same():
    """From here on the newer switches say in words what they leave open at first."""
    torch.set_float32_matmul_precision(torch.get_float32_matmul_precision())


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _sampled(network, images):
    job = SampledOcclusion(network, images, TARGETS, masks=lambda n, g: torch.rand(n, 16, 16, generator=g))
    list(job.run(32))
    return job.map()


def _summed(network, images, targets):
    return saliency(network, images, targets).sum(1)


def _generator():
    return torch.Generator().manual_seed(0)


METHOD_CALLS = {
    name: lambda network, images, name=name: explain_images(name, network, images, TARGETS, OPTIONS).maps
    for name in METHODS
}
CALLS = METHOD_CALLS | {
    "method alone": lambda n, x: METHODS["lrp"].maps(n, x, TARGETS, OPTIONS).maps,
    "conservation": lambda n, x: torch.stack([one.propagated for one in lrp_conservation(n, x, TARGETS)]),
    "sensitivity check": lambda n, x: torch.tensor(
        sensitivity_check(n, x, TARGETS, generator=_generator()).error
    ),
    "shapley": lambda n, x: shapley_estimate(n, x, TARGETS, features=8).values,
    "drops": lambda n, x: occlusion_drops(n, x, window=4, stride=2, engine="incremental"),
    "dense drops": lambda n, x: occlusion_drops(n, x, window=4, stride=4, engine="dense"),
    "scales": lambda n, x: multi_scale_maps(n, x, TARGETS, windows=[4, 6], strides=[2, 2]),
    "sampled": _sampled,
    "feature maps": lambda n, x: feature_maps(n, x, "network.4"),
    "field": lambda n, x: torch.tensor(measured_receptive_field(n, "network.4", (16, 16)).size),
    "score curves": lambda n, x: (
        score_curves(
            n,
            x,
            TARGETS,
            random_order(2, 16, _generator()),
            regions=Regions((16, 16), 4),
            shares=replaced_shares(4),
            fill=blur(),
        ).logit
    ),
    "removals": lambda n, x: (
        removals(n, x, TARGETS, random_squares((16, 16), 5, _generator()), fill=blur()).drops
    ),
    "randomisation": lambda n, x: torch.stack(
        [one.rank for one in randomisation_check(n, x, TARGETS, _summed, generator=_generator())]
    ),
}


def test_the_stand_in_for_a_gpu_changes_what_a_network_answers(network, images):
    with torch.no_grad():
        exact = network(images)
        with as_on_a_gpu():
            rough = network(images)
        with TF32():
            rounded = network(images)
    assert 1e-5 < (rounded - exact).abs().max() < 1e-2
    assert (rough.float() - exact).abs().max() > 1e-4


@pytest.mark.parametrize("name", CALLS)
def test_a_map_or_measure_is_the_same_to_the_bit_where_a_gpu_would_round(name, network, images):
    probe = Probe(network).eval()
    expected = CALLS[name](probe, images)
    probe.notes.clear()
    before = switches()
    with as_on_a_gpu():
        inside = switches()
        found = CALLS[name](probe, images)
        assert switches() == inside
    assert switches() == before
    assert probe.notes and set(probe.notes) == {(False, False, False)}
    assert torch.equal(found, expected), (found - expected).abs().max()


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("products", ["highest", "high", "medium"])
def test_every_switch_is_back_as_it_was_also_after_an_error(tf32, autocast, products):
    was = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            before = switches()
            for name in PRECISIONS:
                with pytest.raises(ArithmeticError), precision(name):
                    raise ArithmeticError
                assert switches() == before
                with precision(name), precision("float32"):
                    assert not _allowed("conv") and not _allowed("matmul")
                    assert not torch.is_autocast_enabled("cpu")
                assert switches() == before
    finally:
        torch.set_float32_matmul_precision(was[0])
        torch.backends.cudnn.allow_tf32 = was[1]


@pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has the older switches only"
)
def test_switches_that_disagree_with_the_older_ones_are_left_as_they_were():
    convolution, product = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    was = convolution.fp32_precision, product.fp32_precision
    convolution.fp32_precision, product.fp32_precision = "ieee", "tf32"
    try:
        before = switches()
        assert "unreadable" in before.values()
        with chosen_precision():
            assert not _allowed("conv") and not _allowed("matmul")
        assert switches() == before
    finally:
        convolution.fp32_precision, product.fp32_precision = was


def test_the_caller_of_a_job_is_not_in_its_precision_between_two_steps(network, images):
    jobs = [
        OcclusionJob(network, images, window=4, stride=4),
        SampledOcclusion(network, images, TARGETS, masks=lambda n, g: torch.rand(n, 16, 16, generator=g)),
    ]
    with as_on_a_gpu():
        inside = switches()
        for job in jobs:
            for _ in job.run():
                assert switches() == inside
                break


def test_a_precision_that_was_chosen_holds_for_what_is_called_inside(network, images):
    probe = Probe(network).eval()
    with precision("tf32"):
        saliency(probe, images, TARGETS)
    with precision("bfloat16"):
        saliency(probe, images, TARGETS)
    saliency(probe, images, TARGETS)
    notes = [note for note, _ in groupby(probe.notes)]  # a network is tried before it is explained
    assert notes == [(True, True, False), (False, False, True), (False, False, False)]
    with pytest.raises(ValueError, match="precision is 'float16'; expected one of float32, tf32, bfloat16"):
        precision("float16").__enter__()


ALWAYS_EXACT = ("deeplift", "single_pixel", "occlusion_pairs")


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith(("shapley", "rise"))])
@pytest.mark.parametrize("chosen", ["tf32", "bfloat16"])
def test_a_coarser_precision_gives_a_map_that_is_close(name, chosen, network, images):
    exact = explain_images(name, network, images, TARGETS, OPTIONS).maps
    with precision(chosen), TF32():
        found = explain_images(name, network, images, TARGETS, OPTIONS).maps
    error = ((found - exact).norm() / exact.norm()).item()
    if name in ALWAYS_EXACT or name.startswith("lrp"):
        assert error == 0
    else:
        assert error < {"tf32": 0.05, "bfloat16": 0.3}[chosen]


def test_rounding_knows_type_and_mode():
    assert rounding(torch.float32) == 2.0**-24 and rounding(torch.float64) == 2.0**-53
    with precision("tf32"):
        assert rounding(torch.float32) == 2.0**-11 and rounding(torch.float64) == 2.0**-53
    with precision("bfloat16"):
        assert rounding(torch.float32) == 2.0**-8 == rounding(torch.bfloat16)
