"""What every relevance method of the registry keeps, whatever it computes.

A map has its image's size, number format and device. An image's map is the same alone and in a batch, in any order and
for any batch size; and a method leaves everything as it found it: modes, weights, statistics, flags, hooks, the images
and the caller's random numbers. Float64 throughout, so that rounding in batches of other sizes is far below the bound.
"""

import random
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_cnn.explanation.methods.method import MethodResult
from interp_cnn.explanation.methods.options import OcclusionOptions, Options
from interp_cnn.explanation.methods.registry import METHODS
from interp_cnn.model.backbones import build_network

SIZE = (8, 12)
TARGETS = torch.tensor([2, 0, 1])
OCCLUSION = OcclusionOptions(samples=32, cells=3, levels=1, audit=3, tolerance=0.2)
ROUNDING = {"rtol": 1e-7, "atol": 1e-10}


def masked() -> nn.Module:
    """One of ours, grey images, with template masks behind its last convolution."""
    torch.manual_seed(0)
    network = build_network(
        "small_cnn",
        num_classes=3,
        channels=1,
        image_size=SIZE,
        mean=(0.5,),
        std=(0.25,),
        widths=(4, 4, 4, 4, 6),
    )
    return _trained_a_little(network)


def plain() -> nn.Module:
    """Somebody's, with batch norm and dropout."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(24, 3),
    )  # fmt: skip
    return _trained_a_little(network)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"masked": masked, "plain": plain}


def _trained_a_little(network: nn.Module) -> nn.Module:
    """In float64, with statistics that are no longer the first ones, and modules in both modes."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    network.double().train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].eval()  # as somebody does who freezes its statistics
    next(network.parameters()).requires_grad_(False)
    return network


def images_for(network: nn.Module) -> Tensor:
    channels = next(module for module in network.modules() if isinstance(module, nn.Conv2d)).in_channels
    return torch.rand(3, channels, *SIZE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def ask(
    name: str, network: nn.Module, images: Tensor, targets: Tensor = TARGETS, batch_size: int = 2
) -> MethodResult:
    options = Options(window=4, stride=4, batch_size=batch_size, seed=3, occlusion=OCCLUSION)
    return METHODS[name].maps(network, images, targets, options)


SLOW = {
    ("shapley_values", "masked"),
    ("shapley_values", "plain"),
    ("integrated_gradients", "masked"),
    ("single_pixel", "plain"),
}
ASKED = [
    pytest.param(*one, marks=[pytest.mark.slow] if one in SLOW else []) for one in product(METHODS, NETWORKS)
]


@pytest.mark.parametrize(("name", "kind"), ASKED)
def test_a_method_gives_maps_like_the_images_and_leaves_everything_as_it_found_it(name, kind):
    network = NETWORKS[kind]()
    images = images_for(network).requires_grad_()
    pixels = images.detach().clone()
    before = _state(network)
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    drawn = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()

    found = ask(name, network, images)

    assert found.maps.shape == (3, *SIZE) and found.sums.shape == (3,)
    assert found.maps.dtype == images.dtype and found.maps.device == images.device
    assert not found.maps.requires_grad and torch.isfinite(found.maps).all()
    assert METHODS[name].signed or found.maps.min() >= 0
    assert len(found.notes) in (0, 3)

    assert torch.equal(images, pixels) and images.requires_grad and images.grad is None
    assert _state(network) == before
    assert random.getstate() == drawn[0]
    assert np.array_equal(np.random.get_state()[1], drawn[1])
    assert torch.equal(torch.get_rng_state(), drawn[2])
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("name", "kind"), ASKED)
def test_a_map_depends_on_its_image_alone(name, kind):
    network = NETWORKS[kind]()
    images = images_for(network)
    together = ask(name, network, images)
    turned = ask(name, network, images.flip(0), TARGETS.flip(0), batch_size=32)
    torch.testing.assert_close(turned.maps.flip(0), together.maps, **ROUNDING)
    torch.testing.assert_close(turned.sums.flip(0), together.sums, **ROUNDING)
    single = ask(name, network, images[1:2], TARGETS[1:2], batch_size=1)
    torch.testing.assert_close(single.maps[0], together.maps[1], **ROUNDING)
    assert single.notes == together.notes[1:2]


def _state(network: nn.Module) -> list:
    """All that a method could leave behind in a network."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    kept = [
        (key, value.detach().clone().numpy().tobytes(), value.requires_grad, value.grad)
        for key, value in tensors
    ]
    modules = [
        (
            key,
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            "forward" in vars(module),
        )
        for key, module in network.named_modules()
    ]
    return [kept, modules]
