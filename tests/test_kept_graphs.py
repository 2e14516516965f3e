"""The graph of the network asked about last is kept, and never of a network that is another one by now."""

import gc
import weakref

import pytest
import torch
from occlusion_networks import Masked, five_convolutions, pictures
from torch import Tensor, nn

from interp_cnn.explanation.occlusion import occlusion_drops
from interp_cnn.explanation.occlusion.incremental import faithful

OPTIONS = {"window": 8, "stride": 4}


@pytest.fixture
def written(monkeypatch):
    """Counts how often a network is written down."""
    faithful._last.clear()
    count = []
    plain = faithful.graph_of
    monkeypatch.setattr(faithful, "graph_of", lambda *given: count.append(1) or plain(*given))
    yield count
    faithful._last.clear()


def network_of_five() -> nn.Module:
    return five_convolutions().eval().double()


def images_of(seed: int = 1, size: tuple[int, int] = (64, 64)) -> Tensor:
    return pictures(1, size, seed=seed).double()


def apart(network, images) -> float:
    """From plain passes, relative to the largest drop."""
    found = occlusion_drops(network, images, engine="incremental", **OPTIONS)
    plain = occlusion_drops(network, images, engine="dense", **OPTIONS)
    return float((found - plain).abs().max() / plain.abs().max())


def test_a_network_is_written_down_once_for_any_number_of_maps(written):
    network = network_of_five()
    for seed in range(3):
        assert apart(network, images_of(seed)) < 1e-9
    assert len(written) == 1


def zero_one_weight(network):
    network[6].weight.data[-1, -1, -1, -1] = 3.0  # torch counts no write here


def change_a_bias(network):
    with torch.no_grad():
        network[3].bias.add_(0.3)


def exchange_a_module(network):
    network[1] = nn.LeakyReLU(0.3)


def change_a_setting(network):
    network[2].kernel_size = 3
    network[2].padding = 1


def hook(network):
    network[4].register_forward_hook(lambda module, given, output: 0.5 * output)


def load(network):
    network.load_state_dict({name: value + 0.01 for name, value in network.state_dict().items()})


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [zero_one_weight, change_a_bias, exchange_a_module, change_a_setting, load]
)
def test_a_changed_network_is_written_down_anew(change, written):
    network, images = network_of_five(), images_of()
    assert apart(network, images) < 1e-9
    before = len(written)
    change(network)
    assert apart(network, images) < 1e-9
    assert len(written) > before


def test_a_hook_that_comes_later_counts(written):
    network, images = network_of_five(), images_of()
    occlusion_drops(network, images, **OPTIONS)
    hook(network)
    found, plain = (occlusion_drops(network, images, engine=name, **OPTIONS) for name in ("auto", "dense"))
    assert torch.allclose(found, plain, atol=1e-5 * float(plain.abs().max()))


def test_a_mask_switched_off_counts(written):
    network, images = Masked().eval().double(), images_of()
    assert apart(network, images) < 1e-9
    masks = [module for module in network.modules() if getattr(module, "enabled", None) is True]
    assert masks
    for mask in masks:
        mask.enabled = False
    assert apart(network, images) < 1e-9


def test_other_sizes_types_and_networks_have_graphs_of_their_own(written):
    first, second = network_of_five(), network_of_five()
    for network, images in (
        (first, images_of()),
        (second, images_of()),
        (first, images_of(size=(48, 48))),
        (five_convolutions().eval(), pictures(1)),
    ):
        assert apart(network, images) < (1e-9 if images.dtype == torch.float64 else 1e-3)
    assert len(written) == 4


def test_what_is_kept_goes_with_its_network(written):
    network = network_of_five()
    occlusion_drops(network, images_of(), engine="incremental", **OPTIONS)
    assert faithful._last
    there = weakref.ref(network)
    del network
    gc.collect()
    assert there() is None
    assert not faithful._last


def test_large_networks_are_not_kept(written, monkeypatch):
    monkeypatch.setattr(faithful, "MOST_BYTES", 1000)
    network = network_of_five()
    for _ in range(2):
        assert apart(network, images_of()) < 1e-9
    assert len(written) == 2
