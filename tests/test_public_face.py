"""What a user imports from `interp_cnn`: every name is there, importing costs nothing, and calls feel at home."""

import importlib
import subprocess
import sys
from types import FunctionType, ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import interp_cnn
from interp_cnn.explanation.gradients import gradients
from interp_cnn.explanation.methods.options import Options, window_of
from interp_cnn.explanation.network.feature_maps import feature_maps


def test_every_public_name_is_loaded_when_it_is_used():
    for name in interp_cnn.__all__:
        assert getattr(interp_cnn, name) is not None
    assert set(interp_cnn.__all__) <= set(dir(interp_cnn))
    assert interp_cnn.__version__.count(".") >= 1


FACES = [
    f"explanation.{room}"
    for room in (
        *("concepts", "decisions", "filters", "gradients"),
        *("occlusion", "propagation", "receptive_field"),
    )
]


@pytest.mark.parametrize("room", FACES)
def test_a_room_of_explanations_gives_what_it_says(room):
    module = importlib.import_module(f"interp_cnn.{room}")
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        assert not isinstance(value, ModuleType), f"{name} is a file, not what it holds"
        if isinstance(value, type | FunctionType):
            assert value.__module__.startswith(f"interp_cnn.{room}."), name


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="oclusion_map"):
        _ = interp_cnn.oclusion_map


def test_importing_the_package_loads_no_heavy_library():
    heavy = "{'torch', 'numpy', 'hydra', 'pandas', 'matplotlib', 'pytorch_lightning'}"
    code = f"import sys, interp_cnn; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_all_public_names_can_be_imported_by_name_in_a_fresh_process():
    code = f"from interp_cnn import {', '.join(interp_cnn.__all__)}"
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=True)


# Calls feel at home: one image or several, a class or one for each, a layer by name or itself

MAPS = {
    "lrp": {},
    "deeplift": {},
    "integrated_gradients": {},
    "grad_cam": {},
    "shapley_values": {"features": 4},
    "occlusion_map": {},
}


def network_and_images() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    )
    return network.double().eval(), torch.rand(2, 3, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("name", MAPS)
def test_one_image_or_several_and_one_class_or_each_are_the_same_question(name):
    network, images = network_and_images()
    method, options = getattr(interp_cnn, name), MAPS[name]
    wanted = method(network, images, torch.tensor([3, 3]), **options)
    colourless = name in ("grad_cam", "occlusion_map")
    assert wanted.shape == ((2, 8, 8) if colourless else (2, 3, 8, 8))
    for classes in (3, np.int64(3), torch.tensor(3), torch.tensor([3, 3], dtype=torch.uint8)):
        torch.testing.assert_close(method(network, images, classes, **options), wanted)
    for classes in (3, torch.tensor([3])):
        torch.testing.assert_close(method(network, images[1], classes, **options), wanted[1:])
    for wrong in (True, 3.0, [3, 3], torch.tensor([3, 3, 3]), "3", None):
        with pytest.raises(ValueError, match="targets must be"):
            method(network, images, wrong, **options)
    for wrong in (5, -1, torch.tensor([0, 5]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match=r"targets must be classes in 0\.\.4"):
            method(network, images, wrong, **options)
    with pytest.raises(ValueError, match="images must be a floating point tensor"):
        method(network, images[0, 0], 3, **options)


@pytest.mark.parametrize("name", ["saliency", "smooth_grad", "guided_backprop", "gradient_x_input"])
def test_gradients_take_one_image_and_one_class_too(name):
    network, images = network_and_images()
    method = getattr(gradients, name)
    torch.testing.assert_close(method(network, images[0], 3), method(network, images[:1], torch.tensor([3])))


def test_drops_have_windows_by_themselves_as_the_command_has():
    network, images = network_and_images()
    large = torch.rand(1, 3, 50, 60, dtype=torch.float64)
    window, stride = window_of(Options(), (50, 60))
    expected = interp_cnn.occlusion_drops(network, large, window=window, stride=stride)
    assert torch.equal(interp_cnn.occlusion_drops(network, large[0]), expected)
    grid = interp_cnn.occlusion_drops(network, images, window=0.5, stride=0.25)
    assert torch.equal(grid, interp_cnn.occlusion_drops(network, images, window=4, stride=2))
    assert torch.equal(grid, interp_cnn.occlusion_drops(network, images, window=(4, 4), stride=0.25))
    for wrong in ({"window": 1.5}, {"stride": 0.0}, {"window": -0.1}, {"stride": 2.0}):
        with pytest.raises(ValueError, match=r"must be pixels .1 or more. or a share"):
            interp_cnn.occlusion_map(network, images, 3, **wrong)


def test_a_layer_is_its_name_or_the_module_itself():
    network, images = network_and_images()
    layer = network[1]
    torch.testing.assert_close(
        interp_cnn.grad_cam(network, images, 3, layer=layer),
        interp_cnn.grad_cam(network, images, 3, layer="1"),
    )
    assert torch.equal(feature_maps(network, images, layer), feature_maps(network, images, "1"))
    by_module, by_name = (interp_cnn.receptive_field(network, one, (8, 8)) for one in (layer, "1"))
    assert by_module == by_name
    batch = SimpleNamespace(images=images, labels=torch.tensor([0, 1]), names=["a", "b"])
    found = [interp_cnn.exemplars(network, [batch], layer=one, count=1) for one in (layer, "1")]
    assert found[0].layer == found[1].layer == "1"
    assert torch.equal(found[0].scores, found[1].scores)
    for ask in (
        lambda other: interp_cnn.grad_cam(network, images, 3, layer=other),
        lambda other: feature_maps(network, images, other),
        lambda other: interp_cnn.receptive_field(network, other, (8, 8)),
        lambda other: interp_cnn.exemplars(network, [batch], layer=other),
    ):
        with pytest.raises(ValueError, match="layer is a ReLU that is no module of the network"):
            ask(nn.ReLU())
