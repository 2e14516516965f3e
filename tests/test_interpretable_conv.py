import copy
import shutil

import pytest
import reference
import torch
import torchvision
from torch import nn

from interp_cnn.model.backbones import TOP_LAYERS, Normalise, SmallCNN, build_network
from interp_cnn.model.filter_loss import FilterLoss
from interp_cnn.model.interpretable_conv import (
    MaskedLayer,
    TemplateMask,
    kept_feature_maps,
    make_interpretable,
    template_masks,
)
from interp_cnn.model.layer_shapes import layer_shapes
from interp_cnn.model.templates import peak_positions


def small(seed=0, **options):
    torch.manual_seed(seed)
    defaults = {"num_classes": 4, "channels": 1, "image_size": (32, 32), "mean": (0.3,), "std": (0.2,)}
    return build_network("small_cnn", **{**defaults, **options})


def test_twins_have_the_same_weights_and_differ_in_the_masks_switch_alone():
    on, off = small(), small(mask={"enabled": False})
    assert on.state_dict().keys() == off.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(on.state_dict().values(), off.state_dict().values(), strict=True)
    )
    images = torch.rand(3, 1, 32, 32)
    assert not torch.allclose(on.eval()(images), off.eval()(images))


def test_the_plain_twin_equals_the_network_without_any_mask_module():
    network = SmallCNN(4, channels=1).eval()
    masked = make_interpretable(
        copy.deepcopy(network), ["conv5"], image_size=(32, 32), channels=1, enabled=False
    )
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(network(images), masked.eval()(images))


def test_masks_stand_behind_several_named_layers():
    network = small(layers=["conv4", "conv5"])
    assert list(template_masks(network)) == ["conv4", "conv5"]
    assert isinstance(network.conv4, MaskedLayer)
    assert small(layers=["conv4"], extra_conv=True)(torch.rand(2, 1, 32, 32)).shape == (2, 4)


def test_the_extra_layer_of_the_publication_is_masked_and_ends_in_a_relu():
    network = small(extra_conv=True)
    assert len(template_masks(network)) == 2
    last = network.conv5[1]
    assert isinstance(last.layer[-1], nn.ReLU)
    assert last.layer[0].weight.shape == (128, 128, 3, 3)


def test_any_users_network_by_layer_name():
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.rand(1, 3, 8, 8))
    make_interpretable(network, ["1"], image_size=(8, 8))
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 2)


def test_a_users_network_needs_no_image_size_whatever_its_head_takes():
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 6 * 6, 2))
    network[0].eval()
    make_interpretable(network, layers=["1"], beta_rule="spread")
    assert network[1].mask.beta.shape == (6,)
    assert network(torch.rand(2, 2, 8, 8)).shape == (2, 2)
    assert network.training and not network[0].training


def test_a_network_that_does_not_run_on_the_given_images_is_one_sentence():
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 6 * 6, 2))
    with pytest.raises(
        ValueError, match=r"does not run on an image of 3 x 9 x 9 .*; give the image_size"
    ) as one:
        make_interpretable(network, ["1"], image_size=(9, 9))
    assert "\n" not in str(one.value)
    with pytest.raises(ValueError, match=r"does not run on an image of 4 x 224 x 224 .*4 channels"):
        make_interpretable(network, ["1"], channels=4)
    assert not network[1]._forward_hooks


def test_layers_within_one_another_are_all_masked():
    network = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3)), nn.Flatten())
    make_interpretable(network, ["0", "0.0"])
    assert [mask.filters for mask in template_masks(network).values()] == [4, 5]
    with pytest.raises(ValueError, match="names a layer twice: 0, 0"):
        make_interpretable(network, ["0", "0"])


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (["conv9"], "no layer 'conv9'; it has"),
        ([], "layers is empty"),
        (["head"], "does not give a feature map"),
    ],
)
def test_a_wrong_layer_is_named(layers, words):
    with pytest.raises(ValueError, match=words):
        make_interpretable(SmallCNN(4, channels=1), layers, image_size=(32, 32), channels=1)


def test_inference_needs_no_labels_and_state_is_in_the_state_dict():
    network = small(mask={"beta_rule": "spread"}).train()
    network.conv5.mask.match_spread(torch.rand(4, 128, 8, 8))
    again = small(seed=1, mask={"beta_rule": "spread"})
    again.load_state_dict(network.state_dict())
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(network.eval()(images), again.eval()(images))


def test_kept_maps_are_those_before_the_mask_and_are_let_go_afterwards():
    network = small().eval()
    images = torch.rand(2, 1, 32, 32)
    with kept_feature_maps(network) as maps:
        network(images)
        kept = maps["conv5"]
    assert torch.equal(
        network.conv5.mask(kept), network.conv5(network.conv4(network.conv3(_up_to_conv3(network, images))))
    )
    assert network.conv5.mask.kept_maps is None


def _up_to_conv3(network, images):
    maps = network.pool(network.conv1(network.normalise(images)))
    return network.pool(network.conv2(maps))


@pytest.mark.parametrize("maps", [1, 3, 5])
def test_templates_of_each_filter_refuse_maps_of_another_number(maps):
    with pytest.raises(ValueError, match=f"4 filters, got {maps} maps"):
        TemplateMask(4, beta_rule="spread")(torch.rand(2, maps, 5, 5))


def test_the_steepness_is_a_buffer_and_no_parameter():
    for rule in ("fixed", "spread"):
        assert "conv5.mask.beta" in dict(small(mask={"beta_rule": rule}).named_buffers())


def test_the_gradient_through_a_network_equals_the_mask_held_constant():
    network = small().double().eval()
    images = torch.rand(2, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(network(images)[:, 0].sum(), images)
    with kept_feature_maps(network) as maps, torch.no_grad():
        network(images)
        positions = peak_positions(maps["conv5"])
    mask = network.conv5.mask
    fixed = mask.masks_at(positions, 8, 8).double()
    hook = mask.register_forward_hook(lambda module, inputs, output: inputs[0] * fixed)
    (expected,) = torch.autograd.grad(network(images)[:, 0].sum(), images)
    hook.remove()
    assert torch.allclose(found, expected, atol=1e-6)


def test_half_a_mask_is_half_way_between_the_map_and_the_masked_map():
    mask = TemplateMask(3).double()
    maps = torch.rand(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    masked = mask(maps).detach()
    half = TemplateMask(3, strength=0.5).double()(maps)
    mask.growth = 0.5
    assert torch.equal(half, mask(maps))
    assert torch.allclose(half, (maps + masked) / 2)
    with torch.no_grad():
        assert torch.equal(half, mask(maps))
    (gradient,) = torch.autograd.grad(half.sum(), maps)
    assert torch.allclose(gradient * maps, half)  # the mask is a constant
    mask.growth = 0.0
    assert torch.equal(mask(maps), maps)


def test_normalise_speaks_in_pixels():
    layer = Normalise((0.5, 0.4, 0.3), (0.2, 0.1, 0.4))
    images = torch.rand(2, 3, 4, 4)
    assert torch.allclose(layer(images)[:, 1], (images[:, 1] - 0.4) / 0.1)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_the_mask_works_in_half_precision(precision):
    maps = torch.rand(2, 3, 7, 7).to(precision)
    masked = TemplateMask(3).to(precision)(maps)
    assert masked.dtype == precision
    assert masked.isfinite().all()


@pytest.mark.parametrize("position", ["argmax", "centroid", "template"])
def test_autocast_moves_no_position(position):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(20, 5, 9, 9, generator=generator) * 5000
    expected = peak_positions(maps, position=position)
    for precision in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", precision):
            assert torch.equal(peak_positions(maps, position=position), expected)


def test_an_exported_network_equals_the_module():
    network = small().eval()
    images = torch.rand(2, 1, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: batch},)).module()
    more = torch.rand(5, 1, 32, 32)
    assert torch.allclose(exported(more), network(more), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_torchvision_networks_get_their_masks_by_name(name):
    size = 64
    network = build_network(
        name, num_classes=3, channels=3, image_size=(size, size), mean=(0.5,), std=(0.25,)
    )
    assert list(template_masks(network)) == ["body." + TOP_LAYERS[name]]
    assert network.eval()(torch.rand(2, 3, size, size)).shape == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TOP_LAYERS if name != "small_cnn"])
def test_every_named_backbone_trains_a_step(name):
    network = build_network(name, num_classes=3, channels=1, image_size=(64, 64), mean=(0.5,), std=(0.25,))
    with kept_feature_maps(network) as maps:
        loss = network(torch.rand(2, 1, 64, 64)).square().sum()
        kept = maps[next(iter(template_masks(network)))]
        assert (kept >= 0).all()
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def literally_masked(maps):
    """The mask of the loops, map by map."""
    masked = torch.empty_like(maps)
    for image in range(maps.shape[0]):
        for index in range(maps.shape[1]):
            masked[image, index] = torch.from_numpy(reference.mask(maps[image, index].numpy(), 4.0, "l2"))
    return masked


@pytest.mark.parametrize("layer", ["layer4", "layer4.1.bn2"])
def test_a_residual_network_is_masked_after_or_before_the_addition(layer):
    torch.manual_seed(0)
    plain = torchvision.models.resnet18(num_classes=3).eval()
    network = make_interpretable(copy.deepcopy(plain), [layer])
    last = plain.layer4[1]
    images = torch.rand(1, 3, 96, 96)  # a grid of 3 x 3
    with torch.no_grad():
        stem = nn.Sequential(plain.conv1, plain.bn1, plain.relu, plain.maxpool)(images)
        inputs = plain.layer4[0](plain.layer3(plain.layer2(plain.layer1(stem))))
        branch = last.bn2(last.conv2(last.bn1(last.conv1(inputs)).relu()))
        if layer == "layer4":
            maps = literally_masked((branch + inputs).relu())
        else:
            maps = (literally_masked(branch.relu()) + inputs).relu()
        expected = plain.fc(plain.avgpool(maps).flatten(1))
        assert torch.allclose(network(images), expected, atol=1e-5)
        assert not torch.allclose(plain(images), expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
# the compiler looks at gradients of tensors that are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_network_equals_the_eager_one_in_maps_logits_loss_and_gradients():
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    make_interpretable(network, "1")
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    found = []
    for run in (network, torch.compile(network)):
        loss = FilterLoss(8, (6, 6), num_classes=4)
        with kept_feature_maps(network) as maps:
            logits = run(images)
            kept = maps["1"]
            network[1].mask.auxiliary_loss.join(loss(kept, labels, network[1].mask.beta).loss, 0.3)
        total = logits.square().mean()
        found.append([kept, logits, total, *torch.autograd.grad(total, list(network.parameters()))])
    for eager, compiled in zip(*found, strict=True):
        assert torch.allclose(eager, compiled, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("position", ["argmax", "centroid", "template"])
def test_an_onnx_file_equals_the_module(position, tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra onnx)")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")
    network = small(mask={"position": position}).eval()
    images = torch.rand(2, 1, 32, 32)
    file = str(tmp_path / "network.onnx")
    torch.onnx.export(
        network, (images,), file, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
    )
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    more = torch.rand(5, 1, 32, 32)
    (found,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    assert torch.allclose(torch.from_numpy(found), network(more), atol=1e-5)


def test_an_unknown_network_or_weights_file_is_named(tmp_path):
    options = {"num_classes": 3, "channels": 3, "image_size": (64, 64), "mean": (0.5,), "std": (0.25,)}
    with pytest.raises(ValueError, match="network 'resnet1' is unknown"):
        build_network("resnet1", **options)
    with pytest.raises(FileNotFoundError, match=r"missing\.pth does not exist"):
        build_network("small_cnn", weights=str(tmp_path / "missing.pth"), **options)
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"broken\.pth cannot be read"):
        build_network("small_cnn", weights=str(tmp_path / "broken.pth"), **options)


def test_layer_shapes_leave_the_mode_of_the_network_alone():
    network = SmallCNN(4, channels=1).train()
    assert layer_shapes(network, ["conv5"], image_size=(48, 40), channels=1) == {"conv5": (128, 12, 10)}
    assert network.training


class Keyword(nn.Module):
    """A block that its network calls with a keyword."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3)

    def forward(self, images, scale=1.0):
        return self.convolution(images) * scale


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = Keyword(), nn.Linear(6, 2)

    def forward(self, images):
        return self.head(self.block(images, scale=2.0).mean((2, 3)))


def test_a_block_that_is_called_with_keywords_can_be_masked():
    network, images = Keywords(), torch.rand(2, 3, 9, 9)
    maps = network.block(images, scale=2.0)
    make_interpretable(network, ["block"], image_size=(9, 9))
    mask = network.block.mask
    torch.testing.assert_close(network(images), network.head(mask(maps).mean((2, 3))))


@pytest.mark.parametrize("again", ["block", "block.layer", "block.mask"])
def test_a_layer_that_is_masked_is_not_masked_again(again):
    network = make_interpretable(Keywords(), ["block"], image_size=(9, 9))
    with pytest.raises(ValueError, match=f"layers names {again}, which has a mask already"):
        make_interpretable(network, [again], image_size=(9, 9))
