"""Gradient methods against captum where captum is right, against autograd written out, and against closed forms."""

import pytest
import torch
import torch.nn.functional as F
from relevance_networks import Functional, Sequence, images_and_targets, prepared
from torch import nn

from interp_cnn.explanation.baselines import blurred, reference_images
from interp_cnn.explanation.gradients import gradients
from interp_cnn.explanation.network.randomness import drawn_seed, image_seed

captum = pytest.importorskip("captum.attr")

EVERY = [getattr(gradients, name) for name in gradients.__all__]


class Linear(nn.Module):
    """Logits linear in the pixels."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(classes, 3, 8, 8, generator=torch.Generator().manual_seed(3)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bchw,kchw->bk", images, self.weights)


@pytest.fixture(scope="module")
def asked():
    return prepared(Functional()), *images_and_targets()


def test_saliency_and_gradient_x_input_equal_captum(asked):
    network, images, targets = asked
    theirs = captum.Saliency(network).attribute(images.requires_grad_(), target=targets)
    torch.testing.assert_close(gradients.saliency(network, images, targets), theirs)
    theirs = captum.InputXGradient(network).attribute(images, target=targets).detach()
    torch.testing.assert_close(gradients.gradient_x_input(network, images, targets), theirs)
    assert not gradients.gradient_x_input(network, images, targets).requires_grad


def test_sensitivity_analysis_is_the_squared_gradient(asked):
    network, images, targets = asked
    leaf = images.detach().clone().requires_grad_()
    network(leaf)[torch.arange(len(images)), targets].sum().backward()
    torch.testing.assert_close(gradients.sensitivity_analysis(network, images, targets), leaf.grad**2)


def test_gradient_x_input_sums_to_the_logit_without_biases():
    network, (images, targets) = prepared(Sequence(bias=False)), images_and_targets()
    logits = network(images).gather(1, targets[:, None])[:, 0].detach()
    torch.testing.assert_close(gradients.gradient_x_input(network, images, targets).sum((1, 2, 3)), logits)


@pytest.mark.parametrize("steps", [2, 7, 40])
def test_integrated_gradients_equal_captum_with_the_same_steps(asked, steps):
    network, images, targets = asked
    theirs = captum.IntegratedGradients(network).attribute(
        images, baselines=0.5, target=targets, n_steps=steps, method="riemann_middle"
    )
    ours = gradients.integrated_gradients(network, images, targets, baseline=0.5, steps=steps, batch_size=5)
    torch.testing.assert_close(ours, theirs.detach().float(), atol=1e-6, rtol=1e-4)


def test_several_baselines_are_averaged(asked):
    network, images, targets = asked
    one, two = (
        gradients.integrated_gradients(network, images, targets, baseline=baseline, steps=9)
        for baseline in ("blur", "mean")
    )
    both = gradients.integrated_gradients(network, images, targets, baseline=["blur", "mean"], steps=9)
    torch.testing.assert_close(both, (one + two) / 2)


def test_smooth_grad_is_the_mean_gradient_over_the_noise_drawn(asked):
    network, images, targets = asked
    ours = gradients.smooth_grad(
        network,
        images,
        targets,
        samples=4,
        noise=0.2,
        generator=torch.Generator().manual_seed(5),
        batch_size=7,
    )
    seed, expected = drawn_seed(torch.Generator().manual_seed(5)), torch.zeros_like(images)
    for b, image in enumerate(images.detach()):
        own = torch.Generator().manual_seed(image_seed(image, seed))
        for _ in range(4):
            noise = torch.randn(image.shape, generator=own)
            leaf = (image + 0.2 * (image.max() - image.min()) * noise).requires_grad_()
            network(leaf[None])[0, targets[b]].backward()
            expected[b] += leaf.grad / 4
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_smooth_grad_agrees_with_captum_on_average(asked):
    network, images, targets = asked
    images = (images - images.amin((1, 2, 3), keepdim=True)).detach()
    images = images / images.amax((1, 2, 3), keepdim=True)  # range 1, so that the two kinds of noise agree
    ours = gradients.smooth_grad(network, images, targets, samples=600, noise=0.1)
    tunnel = captum.NoiseTunnel(captum.Saliency(network))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = tunnel.attribute(images, target=targets, nt_samples=600, stdevs=0.1, abs=False)
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.98


def test_smooth_grad_does_not_depend_on_the_batch_size(asked):
    network, images, targets = asked
    small, large = (
        gradients.smooth_grad(network, images, targets, samples=5, batch_size=size) for size in (3, 64)
    )
    torch.testing.assert_close(small, large, atol=1e-6, rtol=1e-4)


def test_guided_backprop_and_deconvnet_equal_captum_on_relu_modules():
    network, (images, targets) = prepared(Sequence()), images_and_targets()
    images.requires_grad_()
    for ours, theirs in (
        (gradients.guided_backprop, captum.GuidedBackprop),
        (gradients.deconvnet, captum.Deconvolution),
    ):
        with pytest.warns(UserWarning, match="Setting backward hooks"):
            expected = theirs(network).attribute(images, target=targets).detach()
        torch.testing.assert_close(ours(network, images, targets), expected)


@pytest.mark.parametrize("rule", ["guided_backprop", "deconvnet"])
def test_changed_rectifiers_are_seen_however_relu_is_spelled(rule):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(8, 3, 3, 3, generator=generator), torch.randn(4, 8, 3, 3, generator=generator)
    spellings = [
        F.relu,
        torch.relu,
        torch.Tensor.relu_,
        nn.ReLU(inplace=True),
        lambda x: x.clamp(min=0),
        lambda x: F.relu(x, inplace=True),
        lambda x: torch.clamp_min(x, 0),
    ]

    class Spelled(nn.Module):
        def __init__(self, relu):
            super().__init__()
            self.relu = relu

        def forward(self, images):
            x = self.relu(F.conv2d(images, first))
            return F.conv2d(self.relu(x * 1.0) + 0.5, second).mean((2, 3))

    images, targets = images_and_targets(classes=4)
    maps = [getattr(gradients, rule)(Spelled(relu), images, targets) for relu in spellings]
    for other in maps[1:]:
        torch.testing.assert_close(maps[0], other)

    leaf, bent = images.clone(), []  # the two rules by hand, layer by layer
    before = F.conv2d(leaf, first)
    gradient = torch.zeros(len(images), 4, 12, 12)
    gradient[torch.arange(len(images)), targets] = 1 / 144
    gradient = F.conv_transpose2d(gradient, second)
    for _ in range(2):
        gradient = gradient.clamp(min=0) * ((before > 0) if rule == "guided_backprop" else 1)
        bent.append(gradient)
    torch.testing.assert_close(maps[0], F.conv_transpose2d(gradient, first))
    assert (maps[0] - gradients._gradient(Spelled(F.relu), images, targets)).abs().max() > 1e-3


@pytest.mark.parametrize("rule", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize(
    "alias",
    [
        lambda x: x.view(x.shape),
        lambda x: x[:],
        lambda x: x.flatten(1).view(x.shape),
        lambda x: x.permute(0, 1, 2, 3),
    ],
)
@pytest.mark.parametrize(
    "in_place",
    [torch.relu_, lambda x: F.relu(x, True), lambda x: F.leaky_relu(x, 0.0, True), lambda x: x.clamp_(0)],
)
def test_rectifiers_in_place_are_seen_by_every_name_of_their_memory(rule, alias, in_place):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(8, 3, 3, 3, generator=generator), torch.randn(4, 8, 3, 3, generator=generator)

    class Named(nn.Module):
        def __init__(self, plain):
            super().__init__()
            self.plain = plain

        def forward(self, images):
            x = F.conv2d(images, first)
            if self.plain:
                x = y = F.relu(x)
            else:
                y = in_place(alias(x))
            return F.conv2d(x - 0.3 * y, second).mean((2, 3))

    images, targets = images_and_targets(classes=4)
    wanted, got = (getattr(gradients, rule)(Named(plain), images, targets) for plain in (True, False))
    torch.testing.assert_close(got, wanted)


def test_guided_backprop_refuses_a_network_without_rectifiers():
    images, targets = images_and_targets(size=8, classes=4)
    with pytest.raises(ValueError, match="runs none"):
        gradients.guided_backprop(Linear(), images, targets)


def test_grad_cam_equals_captum(asked):
    network = prepared(Sequence(), size=24)
    images, targets = images_and_targets(size=24)
    theirs = captum.LayerGradCam(network, network[4]).attribute(
        images, target=targets, relu_attributions=True
    )
    theirs = captum.LayerAttribution.interpolate(theirs, (24, 24), "bilinear").detach()[:, 0]
    ours = gradients.grad_cam(network, images, targets)
    assert ours.shape == (3, 24, 24)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients.grad_cam(network, images, targets, layer="4"), theirs)
    signed = gradients.grad_cam(network, images, targets, layer="3", positive=False)
    assert signed.min() < 0


def test_grad_cam_refuses_layers_it_cannot_mean(asked):
    network, images, targets = asked
    for layer, words in (
        ("twice", "ran 2 times"),
        ("nowhere", "name of a module"),
        ("linear", "feature maps"),
    ):
        with pytest.raises(ValueError, match=words):
            gradients.grad_cam(network, images, targets, layer=layer)


def test_grad_cam_maps_are_those_of_the_layer_although_a_relu_behind_it_works_in_place():
    network = prepared(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(5))
    )
    images, targets = images_and_targets()
    theirs = prepared(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)))
    torch.testing.assert_close(
        gradients.grad_cam(network, images, targets, layer="0", positive=False),
        gradients.grad_cam(theirs, images, targets, layer="0", positive=False),
    )


@pytest.mark.parametrize("method", EVERY, ids=lambda method: method.__name__)
def test_every_method_leaves_the_network_as_it_came_and_does_not_mix_images(asked, method):
    network, (_, images, targets) = prepared(Functional()).train(), asked
    network.norm1.eval()
    together = method(network, images, targets)
    assert network.training and network.twice.training and not network.norm1.training
    assert all(parameter.grad is None for parameter in network.parameters())
    network.eval()
    if method is not gradients.smooth_grad:  # its noise is drawn for the whole batch
        alone = torch.cat([method(network, images[b : b + 1], targets[b : b + 1]) for b in range(3)])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert together.shape == ((3, 16, 16) if method is gradients.grad_cam else (3, 3, 16, 16))
    with torch.inference_mode():
        torch.testing.assert_close(method(network, images.clone(), targets.clone()), together)


@pytest.mark.parametrize("method", EVERY, ids=lambda method: method.__name__)
def test_every_method_refuses_what_has_no_answer(asked, method):
    network, images, targets = asked
    images = images.detach()
    probabilities = nn.Sequential(network, nn.Softmax(1))
    log_probabilities = nn.Sequential(network, nn.LogSoftmax(1))
    for asked_network, asked_images, asked_targets, words in (
        (network, images[0, 0], targets, "B, C, H, W"),
        (network, images.long(), targets, "floating point"),
        (network, images, targets[:2], r"\(3,\)"),
        (network, images, targets.float(), "whole numbers"),
        (network, images, targets + 5, r"0\.\.4"),
        (network, images, targets - 9, r"0\.\.4"),
        (network, images / 0, targets, "finite"),
        (network, images[:0], targets[:0], "at least one"),
        (probabilities, images, targets, "final softmax"),
        (log_probabilities, images, targets, "log_softmax"),
        (network.conv1, images, targets, "logits"),
    ):
        with pytest.raises(ValueError, match=words):
            method(asked_network, asked_images, asked_targets)


def test_probabilities_are_refused_although_the_smallest_are_rounded_to_zero(asked):
    network, images, targets = asked
    certain = nn.Sequential(network, nn.Linear(5, 5, bias=False), nn.Softmax(1)).eval()
    certain[1].weight.data = 1e4 * torch.eye(5)
    assert (certain(images.detach()) == 0).any()
    with pytest.raises(ValueError, match="final softmax"):
        gradients.saliency(certain, images.detach(), targets)


def test_a_detached_network_is_refused():
    class Detached(Linear):
        def forward(self, images):
            return super().forward(images.detach())

    images, targets = images_and_targets(size=8, classes=4)
    with pytest.raises(ValueError, match="no gradient"):
        gradients.saliency(Detached(), images, targets)


def test_reference_images_are_what_their_names_say():
    images, _ = images_and_targets()
    assert reference_images(images, "zero")[0].abs().max() == 0
    torch.testing.assert_close(reference_images(images, "mean")[0][1, 2, 3, 4], images[1, 2].mean())
    torch.testing.assert_close(reference_images(images, 0.25)[0], torch.full((1, 3, 16, 16), 0.25))
    assert [one.shape[0] for one in reference_images(images, ["zero", images[:1], images])] == [1, 1, 3]
    flat = torch.full((1, 3, 16, 16), 0.3)
    torch.testing.assert_close(blurred(flat, 2.0), flat)
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = blurred(point, 2.0)[0, 0]
    rows = torch.arange(41) - 20.0
    assert abs((spread.sum(1) * rows**2).sum().sqrt().item() - 2.0) < 0.02
    for wrong in ("grey", [], float("nan"), images[:2], torch.zeros(2, 5), None):
        with pytest.raises(ValueError, match="baseline"):
            reference_images(images, wrong)
