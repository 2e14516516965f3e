"""Networks that write into their images, mix a batch, answer at random, or run where nothing can be watched."""

import copy
from collections.abc import Callable

import pytest
import torch
from promised_sums import ALLOWED, relevance_miss
from random_networks import random_network
from relevance_networks import images_and_targets
from torch import Tensor, nn

from interp_cnn.evaluation.maps.completeness import removals
from interp_cnn.evaluation.maps.pixel_flipping import deletion
from interp_cnn.explanation.gradients import gradients
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import METHODS
from interp_cnn.explanation.methods.run import ImageMap, asked, explain_images
from interp_cnn.explanation.network.contrast import LogitDifferences
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.explanation.occlusion.fills import constant
from interp_cnn.explanation.occlusion.maps import occlusion_drops

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
OPTIONS = Options(window=6, stride=6, batch_size=4)
QUICK = (
    "occlusion",
    "saliency",
    "smooth_grad",
    "lrp",
    "deeplift",
    "grad_cam",
    "guided_backprop",
    "single_pixel",
)
TARGETS = torch.tensor([0, 1])


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip


class Behind(nn.Module):
    """The layers behind one operation on the images."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.layers, self.operation = layers(), operation

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.operation(images))


def images_of() -> Tensor:
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", QUICK)
def test_a_network_that_writes_into_its_images_is_handed_copies(name):
    images = images_of()
    ours = explain_images(name, Behind(lambda x: x.sub_(0.45).div_(0.225)).eval(), images, TARGETS, OPTIONS)
    wanted = explain_images(name, Behind(lambda x: (x - 0.45) / 0.225).eval(), images_of(), TARGETS, OPTIONS)
    assert torch.equal(images, images_of())
    torch.testing.assert_close(ours.maps, wanted.maps, rtol=1e-3, atol=1e-5)


MIXING = {
    "mean and deviation": lambda x: (x - x.mean()) / x.std(),
    "largest": lambda x: x / x.max(),
    "smallest": lambda x: x - x.min(),
    "first image": lambda x: x - 0.5 * x[:1],
    "neighbour": lambda x: x + 0.5 * x.roll(1, 0),
    "norm": lambda x: x / x.norm(),
}


def test_a_network_whose_equals_are_told_apart_by_rounding_is_explained_and_that_is_said(caplog):
    network = random_network(
        1079
    )  # two cells of a mask's map are equal up to rounding, which the batch decides
    images, targets = images_and_targets(2, 16, seed=1079)
    assert relevance_miss(network, images, targets, "epsilon") <= ALLOWED[torch.float32]
    assert "in double precision they are not" in caplog.text


@pytest.mark.parametrize("how", MIXING)
def test_a_network_that_mixes_the_images_of_a_batch_is_refused(how):
    network = Behind(MIXING[how]).eval()
    for name in ("occlusion", "saliency", "deeplift", "shapley_values"):
        with pytest.raises(ValueError, match="mixes the images of a batch"):
            METHODS[name].maps(network, images_of(), TARGETS, OPTIONS)
    with pytest.raises(ValueError, match="mixes the images of a batch"):
        METHODS["integrated_gradients"].maps(network, images_of()[:1], TARGETS[:1], OPTIONS)
    gradients.saliency(network, images_of()[:1], TARGETS[:1])  # one image alone is right


def test_a_network_is_tried_once_in_one_state_and_again_in_any_other():
    seen: list[int] = []
    share = {"share": [0.0]}

    class Switched(Behind):
        def __init__(self) -> None:
            super().__init__(None)
            self.options, self.epochs = share, 0

        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return self.layers(images - self.options["share"][0] * images.mean())

    network = Switched().eval()

    def passes() -> list[int]:
        seen.clear()
        gradients.smooth_grad(network, images_of(), TARGETS, samples=1)
        return list(seen)

    first, again = passes(), passes()
    assert first == [1, 2, *again]
    for change in (
        lambda: setattr(network, "epochs", 1),
        lambda: network.layers[2].register_forward_hook(lambda *_: None),
        lambda: setattr(network.layers[0], "weight", nn.Parameter(network.layers[0].weight.detach().clone())),
        lambda: network.layers.__setitem__(1, nn.ReLU()),
        lambda: network.layers[6].bias.detach().add_(0.1),
    ):
        change()
        assert passes() == first
        assert passes() == again
    share["share"][0] = 0.5
    with pytest.raises(Refusal, match="mixes the images of a batch"):
        passes()


def _by_data(network: nn.Module) -> Callable[[], object]:
    network.gate = nn.Parameter(torch.zeros(3, 1, 1))
    network.operation = lambda images: images - network.gate * images.mean()
    return lambda: network.gate.data.fill_(0.5)


def _by_a_closure(network: nn.Module) -> Callable[[], object]:
    share = 0.0

    def switch() -> None:
        nonlocal share
        share = 0.5

    network.operation = lambda images: images - share * images.mean()
    return switch


def _by_an_object_that_is_called(network: nn.Module) -> Callable[[], object]:
    class Mean:
        share = 0.0

        def __call__(self, images: Tensor) -> Tensor:
            return images - self.share * images.mean()

    network.operation = Mean()
    return lambda: setattr(network.operation, "share", 0.5)


def _by_the_owner_of_a_hook(network: nn.Module) -> Callable[[], object]:
    class Hook:
        share = 0.0

        def change(self, module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
            return (given[0] - self.share * given[0].mean(),)

    hook = Hook()
    network.layers.register_forward_pre_hook(hook.change)
    return lambda: setattr(hook, "share", 0.5)


@pytest.mark.parametrize(
    "prepared", [_by_data, _by_a_closure, _by_an_object_that_is_called, _by_the_owner_of_a_hook]
)
def test_what_was_tried_is_tried_again_where_the_network_changes_behind_torch(prepared):
    network = Behind(lambda images: images).eval()
    switch = prepared(network)
    gradients.smooth_grad(network, images_of(), TARGETS, samples=1)
    switch()
    with pytest.raises(Refusal, match="mixes the images of a batch"):
        gradients.smooth_grad(network, images_of(), TARGETS, samples=1)


def test_an_image_that_tells_nothing_settles_nothing():
    network = Behind(lambda x: x - x.mean()).eval()
    gradients.smooth_grad(network, torch.zeros(1, 3, 12, 12), TARGETS[:1], samples=1)  # its mean is its pixel
    with pytest.raises(Refusal, match="mixes the images of a batch"):
        gradients.smooth_grad(network, images_of(), TARGETS, samples=1)


@pytest.mark.parametrize("name", ["saliency", "lrp", "deeplift"])
def test_a_network_that_was_right_for_one_image_is_tried_again_for_several(name):
    network = Behind(lambda x: x - x.mean()).eval()
    METHODS[name].maps(network, images_of()[:1], TARGETS[:1], OPTIONS)  # one image alone is right
    with pytest.raises(Refusal, match="mixes the images of a batch"):
        METHODS[name].maps(network, images_of(), TARGETS, OPTIONS)


@pytest.mark.parametrize("scale", [0.1, 1e-3])
def test_a_network_that_answers_at_random_is_refused(scale):
    network = Behind(lambda x: x + scale * torch.randn_like(x)).eval()
    before = torch.get_rng_state()
    for name in ("occlusion", "saliency", "lrp"):
        with pytest.raises(ValueError, match="answers at random"):
            METHODS[name].maps(network, images_of()[:1], TARGETS[:1], OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_scripted_network_is_answered_by_the_methods_that_need_no_layers():
    plain, images = layers(), images_of()
    scripted = torch.jit.script(copy.deepcopy(plain))
    for name in ("occlusion", "saliency", "smooth_grad"):
        ours = explain_images(name, scripted, images, TARGETS, OPTIONS).maps
        torch.testing.assert_close(
            ours, explain_images(name, plain, images, TARGETS, OPTIONS).maps, atol=1e-5, rtol=1e-3
        )
    answers = {name: asked(name, scripted, images, TARGETS, OPTIONS, tolerant=True)[0] for name in QUICK}
    assert {name for name, one in answers.items() if isinstance(one, ImageMap)} >= {"occlusion", "saliency"}
    assert all("\n" not in str(one) for one in answers.values() if isinstance(one, Refusal))


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
def test_scripted_rectifiers_are_not_missed_from_guided_back_propagation(name):
    half = layers()
    half[1] = torch.jit.script(half[1])
    with pytest.raises(Refusal, match=r"cannot be reached \(ReluBackward0\)"):
        getattr(gradients, name)(half, images_of(), TARGETS)


def test_an_error_of_the_network_is_a_refusal_with_its_place():
    def overwritten(x: Tensor) -> Tensor:
        y = x.exp()
        return y.mul_(0.5)

    with pytest.raises(Refusal, match=r"cannot be differentiated .*inplace operation"):
        gradients.saliency(Behind(overwritten).eval(), images_of(), TARGETS)
    assert explain_images(
        "occlusion", Behind(overwritten).eval(), images_of(), TARGETS, OPTIONS
    ).maps.shape == (2, 12, 12)
    with pytest.raises(
        Refusal, match=r"fails in layer 'layers.0', test_image_by_image.py, line \d+ .RuntimeError"
    ):
        gradients.saliency(Behind(lambda x: x[:, :2]).eval(), images_of(), TARGETS)


def test_grad_cam_takes_the_maps_behind_the_last_activation_where_its_module_is_used_twice():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, _, self.second, self.relu, *head = layers()
            self.head = nn.Sequential(*head)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.relu(self.second(self.relu(self.first(images)))))

    ours = gradients.grad_cam(Shared().eval(), images_of(), TARGETS)
    torch.testing.assert_close(ours, gradients.grad_cam(layers(), images_of(), TARGETS, layer="3"))


MEASURES = {
    "removals": lambda network, images: removals(
        network, images, TARGETS[: len(images)], torch.ones(1, 12, 12, dtype=torch.bool), fill=constant(0.0)
    ),
    "deletion": lambda network, images: deletion(
        network, images, TARGETS[: len(images)], torch.rand(len(images), 12, 12)
    ),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_of_maps_refuse_networks_that_mix_or_draw_too(measure):
    ask = MEASURES[measure]
    for how in MIXING.values():
        with pytest.raises(Refusal, match="mixes the images of a batch"):
            ask(Behind(how).eval(), images_of())
    with pytest.raises(Refusal, match="answers at random"):
        ask(Behind(lambda x: x + 0.1 * torch.randn_like(x)).eval(), images_of()[:1])
    images = images_of()
    ask(Behind(lambda x: x.sub_(0.45)).eval(), images)
    assert torch.equal(images, images_of())


def scripted(network: nn.Module) -> nn.Module:
    return torch.jit.script(network)


def traced(network: nn.Module) -> nn.Module:
    return torch.jit.trace(network, images_of())


def exported(network: nn.Module) -> nn.Module:
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    return torch.export.export(network, (images_of(),), dynamic_shapes=(batch,)).module()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("make", [scripted, traced, exported])
def test_what_speaks_for_a_class_rather_than_its_rival_is_asked_of_compiled_networks_too(make):
    plain, images = layers(), images_of()
    network = make(copy.deepcopy(plain))
    for name in ("occlusion", "saliency", "gradient_x_input", "smooth_grad"):
        ours, wanted = (
            explain_images(
                name, LogitDifferences(one, [(0, 2), (1, 0)], 3).eval(), images, TARGETS, OPTIONS
            ).maps
            for one in (network, plain)
        )
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-3)
    differences = LogitDifferences(network, [(0, 2), (1, 0)], 3)
    answers = {name: asked(name, differences, images, TARGETS, OPTIONS, tolerant=True)[0] for name in QUICK}
    assert all("\n" not in str(one) for one in answers.values() if isinstance(one, Refusal))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("method", [*gradients.__all__], ids=str)
def test_a_quantised_network_has_no_slopes_and_says_so(method):
    network = torch.ao.quantization.quantize_dynamic(layers(), {nn.Linear})
    with pytest.raises(
        ValueError, match=r"no gradient|no influence|cannot be differentiated|code in which none"
    ) as refusal:
        getattr(gradients, method)(network, images_of(), TARGETS)
    assert "\n" not in str(refusal.value)


class LayoutMatters(nn.Module):
    """`contiguous` copies some layouts and hands on others, so the step in place overwrites x, or does not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()

    def forward(self, x: Tensor) -> Tensor:
        x = 1.0 * x
        y = x.contiguous()
        return self.layers(x + y.mul_(2))


@pytest.mark.parametrize("name", [*QUICK, "integrated_gradients", "rise"])
def test_a_map_does_not_depend_on_how_the_images_lie_in_memory(name):
    network, images = LayoutMatters(), images_of()
    one, other = (
        METHODS[name].maps(network, given, TARGETS, OPTIONS).maps
        for given in (images, images.contiguous(memory_format=torch.channels_last))
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("engine", ["dense", "incremental", "one_batch"])
def test_occlusion_of_a_network_that_looks_at_the_layout_is_that_of_plain_passes(engine):
    network, images = LayoutMatters(), images_of()
    hidden = images.clone()
    hidden[:, :, :6, :6] = 0
    with torch.no_grad():
        wanted = network(images.clone()) - network(hidden)
    found = occlusion_drops(
        network, images.contiguous(memory_format=torch.channels_last), window=6, stride=6, engine=engine
    )
    torch.testing.assert_close(found[..., 0, 0], wanted, atol=1e-5, rtol=1e-4)
