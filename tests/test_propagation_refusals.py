"""Networks that relevance cannot be walked back through: one sentence that names the place, or the right map."""

import copy

import pytest
import torch
from relevance_networks import Sequence, images_and_targets, prepared
from torch import Tensor, nn

from interp_cnn.explanation.propagation.deeplift import deeplift
from interp_cnn.explanation.propagation.lrp import lrp

METHODS = pytest.mark.parametrize("method", [lrp, deeplift])


class Within(nn.Module):
    """A network whose forward enters a mode before it runs its layers."""

    def __init__(self, network: nn.Module, mode) -> None:
        super().__init__()
        self.network, self.mode = network, mode

    def forward(self, images: Tensor) -> Tensor:
        with self.mode():
            return self.network(images)


@METHODS
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_scripted_traced_exported_and_quantised_modules_are_refused_in_one_sentence(method):
    plain, (images, targets) = prepared(Sequence()), images_and_targets()
    half = copy.deepcopy(plain)
    half[1] = torch.jit.script(half[1])
    for network, words in (
        (torch.jit.script(copy.deepcopy(plain)), "network is scripted or traced"),
        (torch.jit.trace(copy.deepcopy(plain), images), "network is scripted or traced"),
        (half, "module '1' is scripted or traced"),
        (torch.export.export(copy.deepcopy(plain), (images,)).module(), "network is exported"),
        (
            torch.ao.quantization.quantize_dynamic(copy.deepcopy(plain), {nn.Linear}),
            "linear_dynamic in layer '7'",
        ),
    ):
        with pytest.raises(ValueError, match=words) as refusal:
            method(network, images, targets)
        assert "\n" not in str(refusal.value)


@METHODS
@pytest.mark.parametrize(
    "mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_a_mode_that_the_forward_enters_changes_no_map(method, mode):
    plain, (images, targets) = prepared(Sequence()), images_and_targets()
    expected = method(plain, images, targets)
    torch.testing.assert_close(method(Within(plain, mode), images, targets), expected)


@METHODS
def test_a_network_that_writes_into_its_input_gets_the_right_map_and_the_images_stay(method):
    class Standardised(nn.Module):
        def __init__(self, network: nn.Module, in_place: bool) -> None:
            super().__init__()
            self.network, self.in_place = network, in_place

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x.sub_(0.4).div_(0.2) if self.in_place else x.sub(0.4).div(0.2))

    plain, (images, targets) = prepared(Sequence()), images_and_targets()
    kept = images.clone()
    results = [method(Standardised(plain, in_place), images, targets) for in_place in (True, False)]
    torch.testing.assert_close(*results)
    assert torch.equal(images, kept)
