"""Networks of somebody else that were trained on normalised images: mean and deviation given, or a doubt said."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from interp_cnn.runs.inputs import network_subject, with_classes
from interp_cnn.runs.networks import load_network
from interp_cnn.runs.normalisation import checked_statistics, sees_bare_pixels

NETS = """
import torch
from torch import nn

def layers(channels=3, classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, classes))

def grey():
    return layers(1)

def large():
    return layers(3, 1000)

def scripted():
    return torch.jit.script(layers().eval())
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch) -> str:
    name = f"nets_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(
    ("factory", "channels", "mean", "std"),
    [
        ("layers", 3, 0.5, 0.25),
        ("layers", 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("layers", 3, [0.1], [1, 2, 3]),
        ("grey", 1, 0.13, [0.3]),
        ("scripted", 3, [0.4, 0.5, 0.6], 0.2),
    ],
)
def test_a_network_with_mean_and_deviation_is_sent_normalised_pixels(nets, factory, channels, mean, std):
    bare = load_network(f"{nets}:{factory}")
    given = load_network(f"{nets}:{factory}", mean=mean, std=std)
    images = torch.rand(2, channels, 9, 9)
    wanted = (images - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    torch.testing.assert_close(given(images), bare(wanted))
    assert not given.training


def test_a_torchvision_network_takes_the_given_mean_in_place_of_its_own():
    torch.manual_seed(0)
    own = load_network("torchvision:squeezenet1_1", num_classes=3)
    torch.manual_seed(0)
    given = load_network("torchvision:squeezenet1_1", num_classes=3, mean=0.5, std=0.5)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(given(images), own.body(2 * images - 1))
    assert not torch.equal(given(images), own(images))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (0.5, None, "mean is given without std"),
        (None, 0.5, "std is given without mean"),
        ([0.5, 0.5], 1.0, r"mean is \[0.5, 0.5\]; expected one number, or 3, one per channel"),
        (0.5, 0.0, "std is 0.0; expected numbers above 0"),
        (0.5, [0.2, -0.2, 0.2], "expected numbers above 0"),
        ("imagenet", 1.0, "mean is imagenet; expected one number, or 3"),
        (True, 1.0, "mean is True; expected one number"),
        (float("nan"), 1.0, "mean is nan; expected one number"),
        ([], 1.0, r"mean is \[\]; expected one number"),
        ([123.7, 116.3, 103.5], 58.0, "expected that of pixels from 0 to 1"),
    ],
)
def test_a_mean_that_is_none_is_refused_in_one_sentence(mean, std, words):
    with pytest.raises(ValueError, match=words):
        checked_statistics(mean, std, 3)


class Scaled(nn.Module):
    def __init__(self, before, layers: nn.Module) -> None:
        super().__init__()
        self.before, self.layers = before, layers

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.before(images))


@pytest.mark.parametrize(
    ("before", "bare"),
    [
        (lambda x: x, True),
        (lambda x: x.clone().contiguous(), True),
        (lambda x: nn.functional.pad(x, (1, 1, 1, 1)), True),
        (lambda x: nn.functional.interpolate(x, (20, 20)), True),
        (lambda x: (x - 0.45) / 0.225, False),
        (lambda x: 2 * x - 1, False),
        (lambda x: 255 * x, False),
        (lambda x: x - x.mean((1, 2, 3), keepdim=True), False),
    ],
)
def test_whether_the_first_layer_sees_bare_pixels_is_watched(before, bare):
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2)).eval()
    images = torch.linspace(0, 1, 192).view(1, 3, 8, 8)
    assert sees_bare_pixels(Scaled(before, layers), images) is bare
    assert not any(module._forward_pre_hooks for module in layers.modules())


def test_a_doubt_is_one_line_for_networks_as_large_as_imagenets_and_none_where_a_mean_is_given(nets, caplog):
    with caplog.at_level(logging.WARNING):
        with_classes(network_subject(f"{nets}:large"), (12, 12))
    [line] = [record.getMessage() for record in caplog.records]
    assert "sees pixels from 0 to 1 as they are" in line and "mean=[0.485,0.456,0.406]" in line
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        with_classes(network_subject(f"{nets}:large", mean=0.5, std=0.25), (12, 12))
        with_classes(
            network_subject(f"{nets}:layers"), (12, 12)
        )  # few classes: most likely trained on pixels
    assert not caplog.records
