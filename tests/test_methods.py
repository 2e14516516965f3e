"""Every relevance method by name: its maps, what they promise to sum to, and what is asked for many images."""

import pytest
import torch
from torch import nn

from interp_cnn.explanation.gradients import gradients
from interp_cnn.explanation.methods import registry as methods
from interp_cnn.explanation.methods import run as asking
from interp_cnn.explanation.methods.image import explain_image
from interp_cnn.explanation.methods.names import NAMES
from interp_cnn.explanation.methods.options import Options, occluder_of, window_of
from interp_cnn.explanation.methods.registry import METHODS, STANDARD, Method, MethodResult, methods_of
from interp_cnn.explanation.methods.run import ImageMap, asked, explain_images, fitting_batch
from interp_cnn.explanation.network.contrast import LogitDifferences
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.explanation.occlusion.maps import occlusion_map

LINEAR_IN_THE_LOGIT = ("gradient_x_input", "deeplift", "occlusion", "smooth_grad")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([0, 3, 3])
OPTIONS = Options(window=4, stride=2, batch_size=16)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_one_finite_map_an_image_and_leaves_the_network_as_it_was(name, network, images):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = explain_images(name, network, images, TARGETS, OPTIONS)
    assert found.maps.shape == (3, 16, 16) and found.maps.dtype == torch.float32
    assert torch.isfinite(found.maps).all() and found.maps.abs().sum() > 0
    assert found.seconds > 0 and found.forward_passes > 0
    if not METHODS[name].signed:
        assert found.maps.min() >= 0
    if name != "occlusion":
        torch.testing.assert_close(found.sums, found.maps.double().sum((1, 2)), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network.training and not network._forward_pre_hooks


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].total is not None])
def test_what_a_map_should_sum_to_is_the_logit_or_its_change(name, network, images):
    found = explain_images(name, network, images, TARGETS, OPTIONS)
    rows = torch.arange(3)
    with torch.no_grad():
        logit = network(images)[rows, TARGETS]
        black = network(torch.zeros_like(images))[rows, TARGETS]
        grey = network(images.mean((2, 3), keepdim=True).expand_as(images))[rows, TARGETS]
    expected = logit if name.startswith("lrp") else logit - (grey if name == "occlusion" else black)
    torch.testing.assert_close(found.expected, expected)
    if name.startswith("lrp") or name in ("deeplift", "integrated_gradients", "shapley_values"):
        tolerance = 0.02 if name == "integrated_gradients" else 1e-3
        torch.testing.assert_close(found.sums.float(), expected, rtol=tolerance, atol=1e-4)


def test_the_standard_set_is_made_of_methods():
    assert set(STANDARD) <= set(METHODS)


@pytest.mark.parametrize(("convolutions", "lrp"), [(8, "lrp"), (9, "lrp_epsilon_plus_flat")])
def test_the_standard_set_of_a_deep_network_has_lrp_by_a_composite(convolutions, lrp):
    deep = nn.Sequential(
        *(nn.Conv2d(3, 3, 3, padding=1) for _ in range(convolutions)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 2),
    )
    shallow = nn.Conv2d(3, 2, 8)
    assert methods_of(None, [shallow, deep]) == tuple(lrp if name == "lrp" else name for name in STANDARD)
    assert methods_of(None, [shallow]) == methods_of(None) == STANDARD
    assert methods_of(["lrp"], [deep]) == ("lrp",)
    assert list(explain_image(deep, torch.rand(3, 8, 8))) == list(methods_of(None, [deep]))


def test_a_map_adds_up_the_colours_of_the_method_itself(network, images):
    found = explain_images("gradient_x_input", network, images, TARGETS, OPTIONS)
    assert torch.equal(found.maps, gradients.gradient_x_input(network, images, TARGETS).sum(1))
    again = explain_images("smooth_grad", network, images, TARGETS, OPTIONS)
    assert torch.equal(explain_images("smooth_grad", network, images, TARGETS, OPTIONS).maps, again.maps)


def test_forward_passes_are_the_images_that_the_network_was_sent(network, images):
    assert explain_images("saliency", network, images, TARGETS, OPTIONS).forward_passes == 3
    assert explain_images("smooth_grad", network, images, TARGETS, OPTIONS).forward_passes == 3 * 25


def test_occlusion_is_complete_in_contributions_where_the_network_is_linear_and_windows_tile(images):
    torch.manual_seed(2)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    found = explain_images("occlusion", linear, images, TARGETS, Options(window=4, stride=4, fill="blur"))
    torch.testing.assert_close(found.sums.float(), found.expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fill", ["zero", "mean", "blur", 0.5, "noise", "shuffled", "neighbours", "inverted"])
def test_occlusion_hides_with_every_fill_and_says_what_hiding_all_would_do(fill, network, images):
    found = explain_images("occlusion", network, images, TARGETS, Options(window=6, stride=5, fill=fill))
    occluder = occluder_of(images, Options(fill=fill))
    everything = torch.ones(3, 1, 16, 16, dtype=torch.bool)
    with torch.no_grad():
        hidden = [network(occluder(images, everything, sample)) for sample in range(occluder.samples)]
        change = network(images) - torch.stack(hidden).mean(0)
    torch.testing.assert_close(found.expected, change[torch.arange(3), TARGETS], rtol=1e-4, atol=1e-5)
    if isinstance(fill, float):
        plain = occlusion_map(network, images, TARGETS, window=6, stride=5, fill=fill, overhang="end")
        torch.testing.assert_close(found.maps, plain)


def test_an_unknown_fill_is_refused_with_the_known_ones(images):
    with pytest.raises(ValueError, match=r"fill must be one of zero, mean, blur, inverted.* got 'mena'"):
        occluder_of(images, Options(fill="mena"))


def test_windows_given_as_shares_end_where_the_image_ends():
    for height in range(20, 260, 13):
        for width in (height, 2 * height, height + 7):
            (rows, columns), (step, step_again) = window_of(Options(), (height, width))
            assert step == step_again
            assert (height - rows) % step == 0 and (width - columns) % step == 0
            assert abs(rows - 0.17 * height) <= step and abs(columns - 0.17 * height) <= step
    assert window_of(Options(window=7, stride=3), (20, 40)) == ((7, 7), (3, 3))
    for wrong in ({"window": 0}, {"window": 1.5}, {"stride": -0.1}, {"stride": True}):
        with pytest.raises(ValueError, match=r"must be pixels .1 or more. or a share"):
            window_of(Options(**wrong), (20, 20))


def test_differences_are_those_of_the_logits_and_their_maps_those_of_the_maps(network, images):
    pairs = [(0, 1), (3, 2), (3, 0)]
    differences = LogitDifferences(network, pairs, 4).eval()
    outputs = torch.arange(3)
    with torch.no_grad():
        logits = network(images)
        wanted = torch.stack([logits[:, a] - logits[:, b] for a, b in pairs], 1)
        torch.testing.assert_close(differences(images), wanted)
    for name in LINEAR_IN_THE_LOGIT:
        first = explain_images(name, network, images, torch.tensor([a for a, _ in pairs]), OPTIONS)
        second = explain_images(name, network, images, torch.tensor([b for _, b in pairs]), OPTIONS)
        both = explain_images(name, differences, images, outputs, OPTIONS)
        scale = float(first.maps.abs().max())
        torch.testing.assert_close(
            both.maps, first.maps - second.maps, rtol=1e-3, atol=1e-4 * scale, msg=name
        )
    relevance = explain_images("lrp", differences, images, outputs, OPTIONS)
    torch.testing.assert_close(relevance.sums.float(), wanted[outputs, outputs], rtol=1e-3, atol=1e-5)


def bright(network, images, targets, options) -> MethodResult:
    if (images.mean((1, 2, 3)) > 0.6).any():
        raise ValueError("too bright\nto see")
    return MethodResult(images.sum(1), images.sum((1, 2, 3)))


def greedy(network, images, targets, options) -> MethodResult:
    if len(images) > 2:
        raise torch.OutOfMemoryError("out of memory")
    return MethodResult(images.sum(1), images.sum((1, 2, 3)))


def test_a_tolerant_question_gives_maps_to_the_others_where_one_image_is_refused(network, monkeypatch):
    monkeypatch.setitem(METHODS, "bright", Method(bright, "", ""))
    images = torch.full((5, 3, 4, 4), 0.2)
    images[3] = 0.9
    targets = torch.zeros(5, dtype=torch.int64)
    answers = asked("bright", network, images, targets, OPTIONS, tolerant=True)
    assert [isinstance(one, ImageMap) for one in answers] == [True, True, True, False, True]
    assert isinstance(answers[3], Refusal) and str(answers[3]) == "too bright to see"
    assert torch.equal(answers[4].values, images[4].sum(0))
    with pytest.raises(ValueError, match="bright: too bright"):
        asked("bright", network, images, targets, OPTIONS)


def test_a_batch_that_does_not_fit_into_memory_is_asked_in_halves(network, monkeypatch):
    monkeypatch.setitem(METHODS, "greedy", Method(greedy, "", ""))
    images = torch.rand(7, 3, 4, 4)
    answers = asked("greedy", network, images, torch.zeros(7, dtype=torch.int64), OPTIONS)
    assert torch.equal(torch.stack([one.values for one in answers]), images.sum(1))
    monkeypatch.setitem(METHODS, "greedy", Method(lambda *_: greedy(None, images, None, None), "", ""))
    with pytest.raises(ValueError, match="greedy: an image of 4 x 4 pixels does not fit into memory"):
        asked("greedy", network, images, torch.zeros(7, dtype=torch.int64), OPTIONS)


def test_a_bug_is_no_refusal(network, images, monkeypatch):
    def broken(*question):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setitem(METHODS, "broken", Method(broken, "", ""))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        asked("broken", network, images, TARGETS, OPTIONS, tolerant=True)


def test_fewer_images_fit_into_memory_the_larger_they_are(network, monkeypatch):
    monkeypatch.setattr(asking, "free_memory", lambda device: 40e6)
    sizes = [fitting_batch(network, torch.zeros(3, side, side), most=1000) for side in (16, 64, 256)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1] >= 1
    per_pixel = 4 * (6 + 6 + 6 + 6 / 4 + 8 / 4 + 8 / 4)  # bytes written by the layers up to the average
    fitting = 40e6 / 4 / (4 * per_pixel * 64**2)
    assert sizes[1] <= fitting < 2 * sizes[1]
    monkeypatch.setattr(asking, "free_memory", lambda device: 0)
    assert fitting_batch(network, torch.zeros(3, 64, 64)) == 1


def test_costs_rank_methods_as_their_passes_do():
    costs = {name: methods.METHODS[name].cost((64, 64), Options()) for name in METHODS}
    assert costs["occlusion"] > costs["integrated_gradients"] > costs["saliency"]


def test_what_relevance_lacks_is_a_note_of_the_image_that_it_is_missing_from(network, images):
    class Lossy:
        def share(self, layer, relevance):
            return layer.spread(relevance) * torch.tensor([0.5, 1.0, 1.0]).reshape(
                3, *[1] * (layer.input.dim() - 1)
            )

    found = methods._lrp({nn.Linear: Lossy()})(network, images, TARGETS, OPTIONS)
    assert found.notes == ("50.00% of the logit is missing from the map", "", "")
    assert METHODS["lrp"].maps(network, images, TARGETS, OPTIONS).notes == ("", "", "")


def test_a_change_that_is_the_rounding_of_its_parts_is_a_note_of_its_image():
    class Cancelling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)
            return torch.stack([x[:, :384].sum(1) - x[:, 384:].reshape(-1, 24, 16).sum(1).sum(1), x[:, 0]], 1)

    half = torch.rand(2, 384, generator=torch.Generator().manual_seed(0))
    images = torch.cat([half, half[:, torch.arange(383, -1, -1)]], 1).reshape(2, 3, 16, 16)
    images[1, 0] += 1
    found = METHODS["deeplift"].maps(Cancelling(), images, torch.tensor([0, 0]), OPTIONS)
    assert "rounding of its parts" in found.notes[0] and not found.notes[1]


def test_the_names_that_are_known_without_torch_are_those_of_the_methods():
    assert tuple(METHODS) == NAMES


def test_integrated_gradients_stop_at_the_gradients_asked_for():
    network, images = random_kinks(), torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    passes = []
    for most in (16, 64):
        options = Options(gradients=most)
        notes = METHODS["integrated_gradients"].maps(network, images, torch.tensor([0]), options).notes
        passes.append(int(notes[0].split()[0]))
    assert passes[0] <= 16 < passes[1] <= 64


def random_kinks():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3),
        *(it for _ in range(6) for it in (nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))),
    ]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 14 * 14, 3)).eval()
    for module in network:
        if isinstance(module, nn.Conv2d):
            module.weight.data *= 3
    return network
