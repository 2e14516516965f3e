"""Shares of filters in a logit: they sum to it, equal literal implementations, and tell what happens without them."""

import pytest
import torch
import torchvision
from torch import nn

from interp_cnn import filter_contributions, filter_relevance, lrp
from interp_cnn.explanation.decisions.contributions import METHODS
from interp_cnn.explanation.decisions.head import Head, chosen_layer
from interp_cnn.explanation.decisions.removal import filters_for, removal
from interp_cnn.explanation.network.feature_maps import evaluation_mode, feature_maps
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.model.backbones import build_network

TARGETS = torch.tensor([1, 3])


class Pooled(nn.Module):
    """Two convolutions, mean, linear: the head behind `second` is linear behind its ReLU."""

    def __init__(self, hidden: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()
        self.norm = nn.BatchNorm1d(4)
        self.hidden = nn.Linear(4, 6) if hidden else None
        self.last = nn.Linear(6 if hidden else 4, 5)
        nn.init.uniform_(self.norm.running_mean, -1, 1)
        nn.init.uniform_(self.norm.bias, -1, 1)

    def forward(self, images):
        x = self.relu(self.second(torch.relu(self.first(images))))
        x = self.norm(x.mean((2, 3)))
        return self.last(x if self.hidden is None else torch.relu(self.hidden(x)))


class Reshaped(nn.Module):
    """Knows the number of its images as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)

    def forward(self, images):
        return self.last(torch.relu(self.conv(images)).view(images.size(0), -1))


def masked() -> nn.Module:
    torch.manual_seed(1)
    return build_network(
        "small_cnn", num_classes=5, channels=3, image_size=(32, 32), mean=[0.5] * 3, std=[0.2] * 3,
        widths=(6, 8, 8, 10, 12),
    )  # fmt: skip


def images(size: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(5))


def torchvision_network(name: str) -> nn.Module:
    torch.manual_seed(2)
    network = torchvision.models.get_model(name, weights=None, num_classes=5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return network.double()


NETWORKS = ["masked", "resnet18", "vgg16_bn", "densenet121", "mobilenet_v3_small", "squeezenet1_0"]
SLOW = {"resnet18", "vgg16_bn", "densenet121"}


def network_named(name: str) -> nn.Module:
    return masked().double() if name == "masked" else torchvision_network(name)


each_network = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS]
)


@each_network
@pytest.mark.parametrize("method", ["lrp", "deeplift"])
def test_shares_and_rest_sum_to_the_logit(name, method):
    network, x = network_named(name), images().double()
    found = filter_contributions(network, x, TARGETS, method=method)
    logits = network.eval()(x).gather(1, TARGETS[:, None])[:, 0]
    assert torch.equal(found.targets, TARGETS)
    torch.testing.assert_close(found.scores, logits)
    torch.testing.assert_close(found.shares.sum(1) + found.rest, logits, rtol=1e-9, atol=1e-12)
    assert found.shares.shape == found.activations.shape[:2] and found.positions.shape == (
        *found.shares.shape,
        2,
    )


@each_network
def test_what_silence_says_is_the_rest(name):
    """Literally: a hook that makes the layer's maps zero."""
    network, x = network_named(name), images().double()
    for method in ("deeplift", "integrated_gradients"):
        found = filter_contributions(network, x, TARGETS, method=method)
        handle = network.get_submodule(found.layer).register_forward_hook(lambda *call: call[2] * 0)
        silent = network.eval()(x).gather(1, TARGETS[:, None])[:, 0]
        handle.remove()
        torch.testing.assert_close(found.shares.sum(1) + found.rest, found.scores, rtol=1e-9, atol=1e-12)
        size = silent.abs() + found.shares.abs().sum(1)
        closely = 1e-12 if method == "deeplift" else 5e-3  # of a line cut into pieces
        assert ((found.rest - silent).abs() <= closely * size).all()
        torch.testing.assert_close(found.missing, (found.rest - silent).abs(), rtol=1e-6, atol=1e-12)


def test_a_linear_head_has_one_answer_and_it_is_the_explicit_one():
    network, x = Pooled().double().eval(), images(9, 1).double()
    maps = feature_maps(network, x, "relu")
    slope = network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()
    expected = network.last.weight[TARGETS] * slope * maps.mean((2, 3))
    shift = network.norm.bias - slope * network.norm.running_mean
    rest = network.last.bias[TARGETS] + (network.last.weight[TARGETS] * shift).sum(1)
    for method in METHODS:
        found = filter_contributions(network, x, TARGETS, method=method)
        assert found.layer == "relu" and found.linear and not found.bypassed
        torch.testing.assert_close(found.shares, expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found.rest, rest, rtol=1e-5, atol=1e-7)


def test_relevance_behind_a_hidden_layer_equals_plain_loops():
    """Epsilon, one unit after the other; biases and the norm's shift keep what is theirs."""
    network, x = Pooled(hidden=True).double().eval(), images(9, 1).double()
    maps = feature_maps(network, x, "relu")
    found = filter_contributions(network, x, TARGETS, layer="relu", method="lrp")
    slope = (network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()).tolist()
    shift = (network.norm.bias - torch.tensor(slope) * network.norm.running_mean).tolist()
    for image, target in enumerate(TARGETS.tolist()):
        means = maps[image].mean((1, 2)).tolist()
        normed = [s * m + t for s, m, t in zip(slope, means, shift, strict=True)]
        w, b = network.hidden.weight.tolist(), network.hidden.bias.tolist()
        before = [
            sum(v * n for v, n in zip(row, normed, strict=True)) + c for row, c in zip(w, b, strict=True)
        ]
        hidden = [max(0.0, z) for z in before]
        last = network.last.weight[target].tolist()
        logit = sum(v * h for v, h in zip(last, hidden, strict=True)) + network.last.bias[target].item()
        of_hidden = [logit * v * h / logit for v, h in zip(last, hidden, strict=True)]
        of_normed = [0.0] * 4
        for unit, z in enumerate(before):
            for d in range(4):
                of_normed[d] += of_hidden[unit] * w[unit][d] * normed[d] / z
        shares = [r * s * m / n for r, s, m, n in zip(of_normed, slope, means, normed, strict=True)]
        torch.testing.assert_close(
            found.shares[image], torch.tensor(shares, dtype=torch.float64), rtol=1e-4, atol=1e-5
        )
        assert found.rest[image].item() == pytest.approx(logit - sum(shares), abs=1e-5)


def test_the_map_of_one_filter_equals_plain_loops():
    """Conditional relevance (Achtibat et al. 2023): only the filter's relevance goes on, by epsilon, without biases."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 2, bias=False), nn.ReLU(), nn.Conv2d(2, 3, 2, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(27, 3, bias=False),
    ).double()  # fmt: skip
    for parameter in network.parameters():
        parameter.data *= 10  # so that what stabilises the quotients does not matter
    x = torch.rand(1, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    first = network[1](network[0](x))
    before = network[2](first)
    second = network[3](before)
    for number in range(3):
        mine = torch.zeros(3, 3, 3, dtype=torch.float64)
        mine[number] = (network[5].weight[2].view(3, 3, 3) * second[0])[number]
        of_first = torch.zeros(2, 4, 4, dtype=torch.float64)
        for row in range(3):
            for column in range(3):
                if before[0, number, row, column] <= 0:
                    continue
                for c in range(2):
                    for i in range(2):
                        for j in range(2):
                            z = network[2].weight[number, c, i, j] * first[0, c, row + i, column + j]
                            of_first[c, row + i, column + j] += (
                                z * mine[number, row, column] / before[0, number, row, column]
                            ).detach()
        of_pixels = torch.zeros(5, 5, dtype=torch.float64)
        raw = network[0](x)
        for c in range(2):
            for row in range(4):
                for column in range(4):
                    if raw[0, c, row, column] <= 0:
                        continue
                    for i in range(2):
                        for j in range(2):
                            z = network[0].weight[c, 0, i, j] * x[0, 0, row + i, column + j]
                            of_pixels[row + i, column + j] += (
                                z * of_first[c, row, column] / raw[0, c, row, column]
                            ).detach()
        found = filter_relevance(network, x, 2, number, layer="3")
        assert (found[0, 0] - of_pixels).abs().max() <= 1e-5 * network(x)[0, 2].abs()


@pytest.mark.slow
@each_network
@pytest.mark.parametrize("rule", ["epsilon", "epsilon-plus"])
def test_the_maps_of_filters_sum_to_their_shares_and_together_to_the_map_of_the_layer(name, rule):
    network, x = network_named(name), images().double()
    found = filter_contributions(network, x, TARGETS, rule=rule)
    whole = filter_relevance(network, x, TARGETS, rule=rule)
    size = whole.abs().amax((1, 2, 3))
    half = found.shares.shape[1] // 2
    low = filter_relevance(network, x, TARGETS, range(half), rule=rule)
    high = filter_relevance(network, x, TARGETS, range(half, found.shares.shape[1]), rule=rule)
    assert ((low + high - whole).abs().amax((1, 2, 3)) <= 1e-5 * size).all()
    strongest = found.shares.argmax(1)
    one = filter_relevance(network, x, TARGETS, strongest, rule=rule)
    shares = found.shares.gather(1, strongest[:, None])[:, 0]
    torch.testing.assert_close(one.sum((1, 2, 3)), shares, rtol=1e-5, atol=1e-8)


def test_without_biases_in_the_head_the_whole_map_is_that_of_lrp():
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5, bias=False)
    ).double()  # fmt: skip
    x = images(12).double()
    torch.testing.assert_close(filter_relevance(network, x, TARGETS, layer="3"), lrp(network, x, TARGETS))


def test_a_rival_is_subtracted():
    network, x = masked(), images()
    lead = filter_contributions(network, x, TARGETS, against=torch.tensor([0, 0]))
    one, other = (filter_contributions(network, x, targets) for targets in (TARGETS, torch.tensor([0, 0])))
    torch.testing.assert_close(lead.shares, one.shares - other.shares)
    torch.testing.assert_close(lead.shares.sum(1) + lead.rest, lead.scores, rtol=1e-5, atol=1e-6)


def test_a_residual_branch_round_the_layer_goes_to_the_rest_and_is_told():
    network, x = torchvision_network("resnet18"), images().double()
    found = filter_contributions(network, x, TARGETS, layer="layer4.0.bn2", method="deeplift")
    assert found.bypassed and not filter_contributions(network, x, TARGETS).bypassed
    handle = network.layer4[0].bn2.register_forward_hook(lambda *call: call[2] * 0)
    silent = network.eval()(x).gather(1, TARGETS[:, None])[:, 0]
    handle.remove()
    torch.testing.assert_close(found.rest, silent, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("make", [masked, lambda: torchvision_network("resnet18").float(), Reshaped])
def test_the_head_answers_like_the_network_whose_filters_are_silenced(make):
    network = make()
    x = images(8 if isinstance(network, Reshaped) else 32)[:1]
    with evaluation_mode(network), torch.no_grad():
        layer = "layer4.1.conv2" if hasattr(network, "layer4") else chosen_layer(network, x, None)
        head = Head(network, x, layer)
        depth = head.maps.shape[1]
        kept = torch.rand(5, depth, generator=torch.Generator().manual_seed(0)).round()
        for row, answer in zip(kept, head(head.maps * kept[:, :, None, None]), strict=True):
            handle = network.get_submodule(layer).register_forward_hook(
                lambda *call, row=row: call[2] * row[:, None, None]
            )
            torch.testing.assert_close(answer, network(x)[0], rtol=1e-4, atol=1e-6)
            handle.remove()


def test_behind_a_linear_head_a_filter_costs_its_share_and_the_order_by_shares_is_the_fastest_way_down():
    network, x = masked(), images()[:1]
    found = filter_contributions(network, x, 2, method="exact")
    without = removal(network, x[0], found)
    shares, target = found.shares[0], 2
    torch.testing.assert_close(without.drops, shares, rtol=1e-4, atol=1e-5)
    down = found.scores - torch.cat([torch.zeros(1), shares[found.order()].cumsum(0)])
    torch.testing.assert_close(without.most[:, target], down, rtol=1e-4, atol=1e-5)
    assert (without.most[:, target] <= without.random[..., target] + 1e-5).all()
    assert (without.least[:, target] >= without.random[..., target] - 1e-5).all()
    assert 0 < without.area <= 1


def test_shares_in_the_wrong_order_have_an_area_below_zero():
    network, x = masked(), images()[:1]
    found = filter_contributions(network, x, 2, method="exact")
    wrong = filter_contributions(network, x, 2, method="exact")
    object.__setattr__(wrong, "maps", -found.maps)
    assert removal(network, x, wrong).area == pytest.approx(-removal(network, x, found).area)


def test_filters_for_a_part_of_the_evidence():
    shares = torch.tensor([[5.0, 4.0, 1.0, -3.0], [-1.0, -1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0]])
    assert filters_for(shares).tolist() == [2, 0, 4]
    assert filters_for(shares, 1.0).tolist() == [3, 0, 4]


def test_layers_of_class_maps_are_no_filters():
    network, x = torchvision_network("squeezenet1_0"), images(64).double()
    assert filter_contributions(network, x, TARGETS).layer.startswith("features")


def test_what_cannot_be_shared_out_is_refused_in_a_sentence():
    network, x = Pooled(hidden=True), images(9, 1)
    with pytest.raises(
        Refusal, match=r"linear head behind 'relu', and there is relu in the network's forward"
    ):
        filter_contributions(network, x, TARGETS, layer="relu", method="exact")
    with pytest.raises(Refusal, match="expected feature maps"):
        filter_contributions(network, x, TARGETS, layer="last")
    with pytest.raises(ValueError, match="method must be one of"):
        filter_contributions(network, x, TARGETS, method="gradcam")
    with pytest.raises(ValueError, match=r"the layer has 0\.\.3"):
        filter_relevance(network, x, TARGETS, 4)
    with pytest.raises(ValueError, match="compares with silence"):
        filter_contributions(network, x, TARGETS, baseline="zero")


def test_the_network_is_left_as_it_was():
    network, x = masked().train(), images()
    before = [parameter.clone() for parameter in network.parameters()]
    hooks = sum(len(module._forward_hooks) for module in network.modules())
    found = filter_contributions(network, x, TARGETS)
    removal(network, x[0], found)
    filter_relevance(network, x, TARGETS, 0)
    assert network.training and hooks == sum(len(module._forward_hooks) for module in network.modules())
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_images_one_by_one(method):
    network, x = masked(), images()
    together = filter_contributions(network, x, TARGETS, method=method)
    alone = torch.cat(
        [filter_contributions(network, x[i], int(TARGETS[i]), method=method).shares for i in range(2)]
    )
    torch.testing.assert_close(together.shares, alone, rtol=1e-4, atol=1e-6)
