import pytest
import torch
from torch import nn

from interp_cnn.explanation.network.feature_maps import (
    evaluation_mode,
    feature_maps,
    feature_maps_and_logits,
    peaks,
)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 64, 2),
    )


def test_the_maps_are_the_module_output_and_the_logits_those_of_the_same_pass():
    network, images = small_network().eval(), torch.rand(2, 3, 8, 8)
    maps, logits = feature_maps_and_logits(network, images, "2")
    assert torch.equal(maps, network[:3](images))
    assert torch.equal(logits, network(images))


def test_a_following_inplace_relu_does_not_change_the_maps():
    network, images = small_network().eval(), torch.rand(2, 3, 8, 8)
    maps = feature_maps(network, images, "1")
    assert torch.equal(maps, network[:2](images).clone()) or (maps < 0).any()
    with torch.no_grad():
        assert torch.allclose(maps, network[1](network[0](images)))
    assert (maps < 0).any()


def test_every_module_comes_back_in_the_mode_it_had_also_after_an_error():
    network = small_network().train()
    network[1].eval()
    feature_maps(network, torch.rand(2, 3, 8, 8), "2")
    assert network.training and not network[1].training and network[3].training
    with pytest.raises(ZeroDivisionError), evaluation_mode(network):
        assert not network[3].training
        1 / 0  # noqa: B018
    assert network.training and not network[1].training and network[3].training


def test_the_running_statistics_and_gradients_stay_untouched():
    network = small_network().train()
    before = network[1].running_mean.clone()
    maps = feature_maps(network, torch.rand(2, 3, 8, 8), "2")
    assert torch.equal(before, network[1].running_mean)
    assert not maps.requires_grad
    assert not network[2]._forward_hooks


def test_the_peak_is_the_first_maximum_in_row_major_order():
    maps = torch.zeros(2, 3, 4, 5)
    maps[0, 0, 2, 3] = 7.0
    maps[0, 1, 1, 4] = maps[0, 1, 3, 0] = 2.0
    maps[1, 2] = -1.0
    positions, scores = peaks(maps)
    assert positions.dtype == torch.int64 and positions.shape == (2, 3, 2)
    assert positions[0].tolist() == [[2, 3], [1, 4], [0, 0]]
    assert scores[0].tolist() == [7.0, 2.0, 0.0] and scores[1].tolist() == [0.0, 0.0, -1.0]


def test_a_wrong_layer_names_the_near_ones():
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ValueError, match=r"'feature.0'.*features\.0"):
        feature_maps(network, torch.rand(1, 3, 8, 8), "feature.0")


def test_a_layer_without_maps_says_what_it_gives():
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(B, D, h, w\)"):
        feature_maps(small_network(), torch.rand(2, 3, 8, 8), "5")
    with pytest.raises(ValueError, match=r"images has shape \(3, 8, 8\)"):
        feature_maps(small_network(), torch.rand(3, 8, 8), "2")
    with pytest.raises(ValueError, match="maps has shape"):
        peaks(torch.rand(3, 8, 8))
