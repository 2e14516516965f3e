"""Single-pixel changes against loops and captum, finite differences against the gradient."""

from functools import partial

import pytest
import torch
from relevance_networks import Functional, images_and_targets, prepared
from torch import nn

from interp_cnn.explanation.gradients import gradients
from interp_cnn.explanation.gradients.finite_differences import sensitivity_check, single_pixel


def test_single_pixel_equals_one_image_at_a_time():
    network, (images, targets) = prepared(Functional(), size=8), images_and_targets(2, 8)
    each = single_pixel(network, images, targets, step=-0.2, batch_size=17)
    together = single_pixel(network, images, targets, colours="together")
    assert each.shape == images.shape and together.shape == (2, 1, 8, 8)
    with torch.no_grad():
        for b, target in enumerate(targets):
            before = network(images[b : b + 1])[0, target]
            for row in range(0, 8, 3):
                for column in range(8):
                    moved = images[b].clone()
                    moved[1, row, column] -= 0.2
                    change = network(moved[None])[0, target] - before
                    torch.testing.assert_close(each[b, 1, row, column], change, atol=1e-5, rtol=1e-4)
                    moved = images[b].clone()
                    moved[:, row, column] += 0.1
                    change = network(moved[None])[0, target] - before
                    torch.testing.assert_close(together[b, 0, row, column], change, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("colours", ["each", "together"])
def test_without_targets_single_pixel_gives_every_class_its_own_map(colours):
    network, (images, _) = prepared(Functional(), size=8), images_and_targets(2, 8)
    every = single_pixel(network, images, None, colours=colours, batch_size=50)
    assert every.shape == (2, 5, 3 if colours == "each" else 1, 8, 8)
    for target in range(5):
        alone = single_pixel(network, images, torch.full((2,), target), colours=colours, batch_size=50)
        torch.testing.assert_close(every[:, target], alone, rtol=0, atol=0)


def test_single_pixel_equals_captum_with_the_changed_pixel_as_baseline():
    captum = pytest.importorskip("captum.attr")
    network, (images, targets) = prepared(Functional(), size=8), images_and_targets(2, 8)
    theirs = captum.FeatureAblation(network).attribute(images, images + 0.1, target=targets)
    torch.testing.assert_close(single_pixel(network, images, targets), -theirs.detach(), atol=1e-5, rtol=1e-4)


def test_finite_differences_equal_the_gradient_and_check_sensitivity_analysis():
    network, (images, targets) = prepared(Functional(), size=8).double(), images_and_targets(2, 8)
    images = images.double()
    expected = gradients._gradient(network, images, targets)
    check = sensitivity_check(network, images, targets, entries=40, step=1e-6)
    slopes = expected.flatten(1)[:, check.entries]
    torch.testing.assert_close(check.finite, slopes.square(), atol=1e-7, rtol=1e-5)
    assert check.sensitivity.shape == (2, 40) and len(check.entries.unique()) == 40 and check.error < 1e-5
    wrong = type(check)(check.entries, check.sensitivity * 1.5, check.finite)
    assert wrong.error > 0.3
    single = sensitivity_check(network.float(), images.float(), targets, entries=40, step=1e-4)
    assert single.error < 0.02


def test_questions_without_an_answer_are_refused():
    network, (images, targets) = prepared(Functional(), size=8), images_and_targets(2, 8)
    for ask, words in (
        (partial(single_pixel, step=0.0), "step"),
        (partial(single_pixel, colours="some"), "colours"),
        (partial(sensitivity_check, step=-1.0), "step"),
        (partial(sensitivity_check, entries=0), "entries"),
    ):
        with pytest.raises(ValueError, match=words):
            ask(network, images, targets)
    for ask in (single_pixel, sensitivity_check):
        with pytest.raises(ValueError, match="final softmax"):
            ask(nn.Sequential(network, nn.Softmax(1)), images, targets)
        with pytest.raises(ValueError, match=r"0\.\.4"):
            ask(network, images, targets + 5)
        network.train()
        ask(network, images, targets)
        assert network.training and network.norm1.training
        network.eval()
