import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_cnn.model.filter_loss import FilterLoss
from interp_cnn.model.interpretable_conv import kept_feature_maps, make_interpretable, template_masks

LABELS = torch.arange(6) % 4


def network_of(**mask):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    return make_interpretable(nn.Sequential(*layers).double(), "1", **mask).double()


def images_of():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def pulled(network, ratio, loss=None):
    """Gradients of all parameters, the maps' losses and the weight of one step."""
    (mask,) = template_masks(network).values()
    loss = loss or FilterLoss(8, (6, 6), num_classes=4)
    with kept_feature_maps(network) as maps:
        task = functional.cross_entropy(network(images_of()), LABELS)
        own = loss(maps["1"], LABELS, mask.beta).loss
        pull, kept = mask.auxiliary_loss, maps["1"]
        pull.join(own, ratio)
    parameters = list(network.parameters())
    found = torch.autograd.grad(task, [kept, *parameters], allow_unused=True)
    return found[0], dict(zip([name for name, _ in network.named_parameters()], found[1:], strict=True)), pull


@pytest.mark.parametrize("mask", [{}, {"enabled": False}, {"beta_rule": "spread"}])
def test_a_pull_is_the_weighted_loss_added_to_the_tasks(mask):
    network = network_of(**mask)
    _, gradients, pull = pulled(network, 0.25)
    module = template_masks(network)["1"]
    with kept_feature_maps(network) as maps:
        task = functional.cross_entropy(network(images_of()), LABELS)
        own = FilterLoss(8, (6, 6), num_classes=4)(maps["1"], LABELS, module.beta).loss
        kept = maps["1"]
    norms = [torch.autograd.grad(one, kept, retain_graph=True)[0].norm() for one in (task, own)]
    assert pull.weight.item() == pytest.approx(0.25 * float(norms[0] / norms[1]))
    sums = torch.autograd.grad(task + pull.weight * own, list(network.parameters()))
    for name, expected in zip(gradients, sums, strict=True):
        assert torch.allclose(gradients[name], expected, rtol=1e-9, atol=1e-12), name


def test_the_gradient_of_the_maps_is_pulled_as_hard_as_was_asked():
    plain, _, _ = pulled(network_of(), 0.0)
    for ratio in (0.1, 3.0):
        whole, _, _ = pulled(network_of(), ratio)
        assert ((whole - plain).norm() / plain.norm()).item() == pytest.approx(ratio)


@pytest.mark.parametrize("factor", [0.0, math.inf, math.nan])
def test_a_loss_without_a_finite_gradient_does_not_pull(factor):
    class Broken(FilterLoss):
        def forward(self, *inputs):
            terms = super().forward(*inputs)
            return terms._replace(loss=terms.loss * factor)

    plain, _, _ = pulled(network_of(), 0.0)
    whole, _, pull = pulled(network_of(), 0.5, Broken(8, (6, 6), num_classes=4))
    assert torch.equal(whole, plain) and pull.weight == 0


def test_a_network_that_is_only_looked_at_is_not_pulled():
    network = network_of()
    with torch.no_grad(), kept_feature_maps(network):
        network(images_of())
        assert template_masks(network)["1"].auxiliary_loss is None
