import logging

import pytest
import torch
import torch.nn.functional as F
from reference_measures import pixels_that_reach
from torch import nn

from interp_cnn.explanation.receptive_field.field import measured_receptive_field, receptive_field
from interp_cnn.model.interpretable_conv import TemplateMask


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2, stride=2)
        )
        self.skip = nn.Conv2d(4, 4, 1, stride=2)

    def forward(self, x):
        return F.relu(self.body(x) + self.skip(x))


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(4, 2, 1)
        self.dilated = nn.Conv2d(4, 2, 3, padding=3, dilation=3)
        self.lopsided = nn.Conv2d(4, 2, (1, 5), padding=(0, 2))

    def forward(self, x):
        pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        return torch.cat([self.one(x), self.dilated(x), self.lopsided(x), pooled], 1)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())

    def forward(self, x):
        return self.conv(x) * self.squeeze(x)


class Mask(TemplateMask):
    def forward(self, x):
        if x.sum() < 0:  # torch.fx could not follow this
            return x
        return x * (x > 0).float()


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x) if x.sum() > -1e9 else x


def chain(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=1, padding=1), *layers).eval()


NETWORKS = {
    "plain": chain(nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1)),
    "strided dilated": chain(nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2), nn.AvgPool2d(3, 2, 1)),
    "no padding": chain(nn.Conv2d(4, 4, 5), nn.Conv2d(4, 4, 2, stride=2)),
    "rectangular": chain(nn.Conv2d(4, 4, (3, 5), stride=(1, 2), padding=(0, 1))),
    "same padding": chain(nn.Conv2d(4, 4, 4, padding="same"), nn.Conv2d(4, 4, 3, padding="same")),
    "residual": chain(Residual()),
    "inception": chain(Inception()),
    "adaptive": chain(nn.AdaptiveAvgPool2d((8, 8)), nn.Conv2d(4, 4, 3, padding=1)),
    "padding": chain(nn.ZeroPad2d((2, 0, 1, 0)), nn.Conv2d(4, 4, 3)),
    "mask": chain(nn.ReLU(), Mask(4), nn.Conv2d(4, 4, 3, padding=1)),
}


def last_layer(network: nn.Module) -> str:
    return list(dict(network.named_children()))[-1]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_interval_is_exactly_the_pixels_that_reach_the_cell(name):
    network, size = NETWORKS[name], (32, 32)
    layer = last_layer(network)
    field = receptive_field(network, layer, size)
    assert field.exact
    rows, columns = pixels_that_reach(network, layer, size)  # one (first, last) per cell
    assert (len(rows), len(columns)) == field.grid
    for axis, ends in enumerate((rows, columns)):
        position = torch.zeros(len(ends), 2, dtype=torch.int64)
        position[:, axis] = torch.arange(len(ends))
        boxes = field.boxes(position, clip=True)
        first, beyond = (boxes[:, 1], boxes[:, 3]) if axis == 0 else (boxes[:, 0], boxes[:, 2])
        assert [(int(a), int(b) - 1) for a, b in zip(first, beyond, strict=True)] == ends


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_noise_images_measure_nearly_the_same_field(name):
    network, layer = NETWORKS[name], last_layer(NETWORKS[name])
    exact, measured = (
        function(network, layer, (32, 32)) for function in (receptive_field, measured_receptive_field)
    )
    assert measured.grid == exact.grid and not measured.exact
    assert measured.stride == pytest.approx(exact.stride, abs=0.05)
    assert measured.start == pytest.approx(exact.start, abs=1.0)
    assert all(m <= e + 1e-6 for m, e in zip(measured.size, exact.size, strict=True))


def test_vgg_and_alexnet_have_the_published_fields():
    import torchvision

    vgg = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=True)
    field = receptive_field(vgg, "42", (224, 224))  # ReLU of conv5_3
    assert (field.size, field.stride, field.grid) == ((196.0, 196.0), (16.0, 16.0), (14, 14))
    alexnet = torchvision.models.alexnet(weights=None)
    field = receptive_field(alexnet, "features.10", (224, 224))
    assert (field.size, field.stride, field.grid) == ((163.0, 163.0), (16.0, 16.0), (13, 13))
    # conv1 sees pixels -2 ... 8, centre 3; two pools of 3 cells move it by 4 and 8; the rest is centred.
    assert field.start == (15.0, 15.0)


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("resnet18", "layer4", 435),
        ("densenet121", "features.denseblock2", None),
        ("googlenet", "inception4a", None),
    ],
)
def test_torchvision_branches_are_followed_exactly(name, layer, size):
    import torchvision

    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    network = getattr(torchvision.models, name)(weights=None, **options).eval()
    field = receptive_field(network, layer, (64, 64))
    assert field.exact and field.stride in {(32.0, 32.0), (8.0, 8.0), (16.0, 16.0)}
    assert size is None or field.size == (size, size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "stride"),
    [("resnet50", "layer3", 16), ("convnext_tiny", "features.5", 16)],
)
def test_large_networks_agree_with_the_pixels_that_reach(name, layer, stride):
    import torchvision

    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None).eval()
    field = receptive_field(network, layer, (64, 64))
    assert field.exact and field.stride == (stride, stride)
    rows, _ = pixels_that_reach(network, layer, (64, 64))
    position = torch.stack((torch.arange(len(rows)), torch.zeros(len(rows), dtype=torch.int64)), dim=1)
    boxes = field.boxes(position, clip=True)
    assert [(int(a), int(b) - 1) for a, b in zip(boxes[:, 1], boxes[:, 3], strict=True)] == rows


def test_a_gate_from_a_global_average_is_left_out_and_said():
    field = receptive_field(chain(Gated()), "1", (16, 16))
    assert field.sees_everything and field.size == (5.0, 5.0) and field.start == (0.0, 0.0)


def test_upsampling_keeps_the_centre():
    network = chain(nn.MaxPool2d(4), nn.Upsample(scale_factor=2, mode="bilinear"))
    field = receptive_field(network, "2", (16, 16))
    assert field.stride == (2.0, 2.0) and field.start == (0.5, 0.5) and field.grid == (8, 8)


def test_what_torch_fx_cannot_trace_is_measured_and_said_once(caplog):
    network = chain(Untraceable())
    with caplog.at_level(logging.WARNING):
        field = receptive_field(network, "1", (32, 32))
        receptive_field(network, "1", (32, 32))
    assert len([record for record in caplog.records if "measured by gradients" in record.message]) == 1
    assert (
        not field.exact
        and field.stride == pytest.approx((2.0, 2.0))
        and field.size == pytest.approx((5.0, 5.0))
    )
    assert field.start == pytest.approx((0.0, 0.0))


def test_boxes_are_slices_and_centres_are_pixel_centres():
    field = receptive_field(nn.Sequential(nn.Conv2d(3, 2, 4, stride=4)), "0", (16, 16))
    assert field.centres(torch.tensor([1, 2])).tolist() == [5.5, 9.5]
    assert field.boxes(torch.tensor([[1, 2]])).tolist() == [[8.0, 4.0, 12.0, 8.0]]
    assert field.cell_centres().shape == (16, 2) and field.cell_centres()[1].tolist() == [1.5, 5.5]
    wide = receptive_field(nn.Sequential(nn.Conv2d(3, 2, 5, padding=2)), "0", (16, 16))
    assert wide.boxes(torch.tensor([0, 15])).tolist() == [13.0, -2.0, 18.0, 3.0]
    assert wide.boxes(torch.tensor([0, 15]), clip=True).tolist() == [13.0, 0.0, 16.0, 3.0]


def test_a_layer_without_maps_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    with pytest.raises(ValueError, match="feature maps"):
        receptive_field(network, "2", (8, 8))
    with pytest.raises(ValueError, match="not a module"):
        receptive_field(network, "9", (8, 8))


def test_circular_padding_is_measured_and_does_not_call_itself_exact():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.ReLU())
    assert not receptive_field(network, "0", (16, 16)).exact
