"""Captum's words and Quantus's function: the same call gives the same map as Captum, and Quantus takes ours."""

import numpy as np
import pytest
import torch
from torch import nn

import interp_cnn
from interp_cnn import bridges

pytestmark = pytest.mark.filterwarnings("ignore:Setting", "ignore:Input Tensor")  # Captum's own
captum = pytest.importorskip("captum.attr", reason="captum (dev group) is not installed")


@pytest.fixture(scope="module")
def given():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5)),
    )
    return network.double().eval(), torch.rand(2, 3, 16, 16, dtype=torch.float64), torch.tensor([3, 1])


# name, arguments of the constructor, arguments of the call: the very same for both libraries
CALLS = [
    ("Saliency", {}),
    ("InputXGradient", {}),
    ("GuidedBackprop", {}),
    ("DeepLift", {}),
    ("DeepLift", {"baselines": 0.5}),
    ("Occlusion", {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)}),
    ("Occlusion", {"sliding_window_shapes": (3, 5, 3), "strides": (3, 3, 2), "baselines": 0.25}),
]


@pytest.mark.parametrize(("name", "options"), CALLS)
def test_the_same_call_gives_what_captum_gives(name, options, given):
    network, images, targets = given
    theirs = options
    if name == "DeepLift" and "baselines" in options:
        theirs = {"baselines": torch.full_like(images, options["baselines"])}
    expected = getattr(captum, name)(network).attribute(
        images.clone().requires_grad_(), target=targets, **theirs
    )
    found = getattr(bridges, name)(network).attribute(images, target=targets, **options)
    assert found.shape == images.shape and not found.requires_grad
    dtype = torch.float32 if name == "Occlusion" else found.dtype  # what Captum's answers with
    torch.testing.assert_close(found.to(dtype), expected.detach())


class WithoutFlatten(nn.Module):
    """Captum's LRP has no rule for `nn.Flatten`; ours needs none."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, bias=False)
        self.rectifier = nn.ReLU()
        self.head = nn.Linear(4 * 36, 5, bias=False)

    def forward(self, images):
        return self.head(self.rectifier(self.convolution(images)).flatten(1))


def test_lrp_sums_to_the_logit_as_captums_does_without_biases():
    torch.manual_seed(1)
    network = WithoutFlatten().double()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    found = bridges.LRP(network).attribute(images, target=[0, 4])
    expected = captum.LRP(network).attribute(images.clone(), target=torch.tensor([0, 4])).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.sum((1, 2, 3)), network(images)[[0, 1], [0, 4]].detach(), rtol=1e-4, atol=1e-6
    )


def test_integrated_gradients_come_close_to_captums_many_steps_and_know_their_error(given):
    network, images, targets = given
    expected = captum.IntegratedGradients(network).attribute(images, target=targets, n_steps=2000)
    found, delta = bridges.IntegratedGradients(network).attribute(
        images, target=targets, return_convergence_delta=True
    )
    assert (found - expected).abs().sum() < 0.05 * expected.abs().sum()
    change = (network(images) - network(torch.zeros_like(images))).gather(1, targets[:, None])[:, 0].detach()
    torch.testing.assert_close(delta, found.sum((1, 2, 3)) - change)
    assert (delta.abs() < 0.01 * change.abs()).all()
    few = bridges.IntegratedGradients(network).attribute(images, target=targets, n_steps=9)
    assert not torch.equal(few, found), "the option has an effect"


def test_grad_cam_is_captums_at_the_size_of_the_images(given):
    network, images, targets = given
    layer = network[3]
    theirs = captum.LayerGradCam(network, layer).attribute(images, target=targets, relu_attributions=True)
    theirs = captum.LayerAttribution.interpolate(theirs, (16, 16), "bilinear").detach()
    found = bridges.GradCam(network, layer).attribute(images, target=targets)
    assert found.shape == (2, 1, 16, 16)
    assert np.corrcoef(found.flatten(), theirs.flatten())[0, 1] > 0.999


def test_every_method_of_explain_has_one_channel_and_options(given):
    network, images, targets = given
    found = bridges.Attribution(network, "occlusion", window=4, stride=2).attribute(images, target=targets)
    assert found.shape == (2, 1, 16, 16) and found.dtype == images.dtype
    other = bridges.Attribution(network, "occlusion", window=8, stride=4).attribute(images, target=3)
    assert not torch.equal(found, other)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda n, x: bridges.Saliency(n).attribute(x), "target is None; expected a class"),
        (
            lambda n, x: bridges.Saliency(n).attribute((x, x), target=0),
            "inputs is tuple; expected one tensor",
        ),
        (lambda n, x: bridges.Saliency(lambda x: x).attribute(x, target=0), "forward_func is a function"),
        (lambda n, x: bridges.Occlusion(n).attribute(x, (1, 4, 4), target=0), "with all channels"),
        (lambda n, x: bridges.Saliency(n).attribute(x, target=9), r"classes in 0\.\.4"),
        (lambda n, x: bridges.explain_func(n, x, [0, 1], windw=3), "windw is no option of explain_func"),
        (lambda n, x: bridges.explain_func(n, x, [0]), "targets has 1 classes for 2 images"),
    ],
)
def test_a_wrong_call_is_answered_in_a_sentence(call, said, given):
    network, images, _ = given
    with pytest.raises(ValueError, match=said):
        call(network, images)


def test_the_network_is_handed_back_as_it_came(given):
    network, images, targets = given
    network.train()
    before = [it.requires_grad for it in network.parameters()]
    for name, options in CALLS:
        getattr(bridges, name)(network).attribute(images, target=targets, **options)
    assert network.training and before == [it.requires_grad for it in network.parameters()]
    assert all(it.grad is None for it in network.parameters())
    network.eval()


def test_a_map_for_quantus_is_the_map_of_explain(given):
    network, images, targets = given
    found = bridges.explain_func(model=network, inputs=images.numpy(), targets=targets.numpy(), method="lrp")
    assert found.shape == (2, 1, 16, 16) and found.dtype == np.float32
    ours = interp_cnn.lrp(network, images, targets).sum(1, keepdim=True)
    np.testing.assert_allclose(found, ours, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # Quantus's own
def test_metrics_of_quantus_call_our_methods():
    quantus = pytest.importorskip("quantus", reason="quantus (dev group) is not installed")
    run = interp_cnn.load_run("digits-interpretable")
    samples = [run.data.val_set[number] for number in range(6)]
    images = torch.stack([it.image for it in samples])
    labels = torch.tensor([int(it.label) for it in samples])
    digits = torch.stack([it.object_mask for it in samples])[:, None]
    metric = quantus.RelevanceMassAccuracy(abs=True, normalise=False, disable_warnings=True)
    found = metric(
        model=run.network,
        x_batch=images.numpy(),
        y_batch=labels.numpy(),
        s_batch=digits.numpy(),
        device="cpu",
        explain_func=bridges.explain_func,
        explain_func_kwargs={"method": "lrp"},
    )
    maps = interp_cnn.lrp(run.network, images, labels).sum(1, keepdim=True).abs()
    expected = (maps * digits).sum((1, 2, 3)) / maps.sum((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.mean(found) > 2 * digits.float().mean(), "more on the digit than pixels drawn at random"
