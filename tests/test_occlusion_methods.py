"""The ways to ask by hiding pixels, as the command `explain` offers them: each against the function it stands for."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from interp_cnn.explanation.methods.options import OcclusionOptions, Options, each_window
from interp_cnn.explanation.methods.registry import METHODS, method_named
from interp_cnn.explanation.methods.run import estimated, explain_images
from interp_cnn.explanation.network.contrast import LogitDifferences
from interp_cnn.explanation.occlusion.maps import becomes_class, occlusion_drops, occlusion_map
from interp_cnn.explanation.occlusion.pairs import pair_interactions

TARGETS = torch.tensor([1, 0])
OPTIONS = Options(window=4, stride=4, fill="zero", occlusion=OcclusionOptions(overhang="none", samples=256))
WINDOWS = {"window": 4, "stride": 4}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(384, 4)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def asked(name, network, images, **occlusion):
    options = replace(OPTIONS, occlusion=replace(OPTIONS.occlusion, **occlusion))
    return explain_images(name, network, images, TARGETS, options)


@pytest.mark.parametrize("unit", ["mean_drop", "contribution", "additive"])
def test_occlusion_takes_the_unit_asked_for(unit, network, images):
    expected = occlusion_map(network, images, TARGETS, **WINDOWS, unit=unit)
    torch.testing.assert_close(asked("occlusion", network, images, unit=unit).maps, expected)


def test_the_border_and_the_precision_are_asked_for(network, images):
    expected = occlusion_map(network, images, TARGETS, window=5, stride=4, overhang="both")
    options = replace(OPTIONS, window=5, occlusion=OcclusionOptions(overhang="both"))
    torch.testing.assert_close(explain_images("occlusion", network, images, TARGETS, options).maps, expected)
    assert method_named("occlusion", options).unit == "logit drop"


def test_several_windows_give_a_map_of_each_size_and_their_mean_per_pixel(network, images):
    options = replace(OPTIONS, window=(2, 0.25, 8), stride=(2, 4, 4))
    assert [one.stride for one in each_window(options)] == [2, 4, 4]
    apart = [
        explain_images(f"occlusion_window_{size}", network, images, TARGETS, options).maps
        for size in (2, 0.25, 8)
    ]
    for found, (window, stride) in zip(apart, [(2, 2), (4, 4), (8, 4)], strict=True):
        expected = occlusion_map(network, images, TARGETS, window=window, stride=stride, unit="contribution")
        torch.testing.assert_close(found, expected)
    together = explain_images("occlusion", network, images, TARGETS, options)
    torch.testing.assert_close(together.maps, torch.stack(apart).mean(0))
    assert method_named("occlusion", options).unit == "logit drop per pixel of the window"
    with pytest.raises(ValueError, match="one for each of the 3 windows"):
        each_window(replace(options, stride=(1, 2)))


def test_the_class_map_shows_the_class_that_the_window_over_the_pixel_makes(network, images):
    found = asked("occlusion_class", network, images).maps
    with torch.no_grad():
        logits = network(images)
    drops = occlusion_drops(network, images, **WINDOWS)
    cells = becomes_class(logits, drops)  # windows tile the image: a pixel is its window
    assert torch.equal(found.long(), cells.repeat_interleave(4, 1).repeat_interleave(4, 2))
    with pytest.raises(ValueError, match="leave out against"):
        pairs = LogitDifferences(network, [(0, 1), (1, 0)], 4)
        METHODS["occlusion_class"].maps(pairs, images, TARGETS, OPTIONS)


def test_the_pair_map_is_the_interaction_with_the_most_important_window(network, images):
    found = asked("occlusion_pairs", network, images)
    drops = occlusion_drops(network, images, **WINDOWS)
    for index, target in enumerate(TARGETS):
        row, column = divmod(int(drops[index, target].argmax()), 4)
        image = images[index : index + 1]
        expected = pair_interactions(network, image, [(row, column)], **WINDOWS)[0, target, 0]
        expected[row, column] = 0  # its own pixels
        torch.testing.assert_close(
            found.maps[index], expected.repeat_interleave(4, 0).repeat_interleave(4, 1)
        )
        assert (
            f"rows {4 * row} to {4 * row + 3}, columns {4 * column} to {4 * column + 3}" in found.notes[index]
        )


def test_coarse_to_fine_is_exact_where_it_splits_everything_and_says_what_it_left_out(network, images):
    exact = occlusion_map(network, images, TARGETS, **WINDOWS)
    found = asked("occlusion_refined", network, images, levels=1, matters=1e-9, audit=3)
    torch.testing.assert_close(found.maps, exact)
    rough = asked("occlusion_refined", network, images, levels=1, matters=0.9, audit=2)
    assert all("with 95% confidence at most 78% of the windows" in note for note in rough.notes)
    assert rough.forward_passes > 0


@pytest.mark.parametrize("name", ["occlusion_random", "rise"])
def test_random_masks_stop_when_they_are_certain_enough_and_say_how_certain(name, network, images):
    everything = asked(name, network, images, tolerance=None)
    assert all(note.startswith("256 masks, standard error") for note in everything.notes)
    early = asked(name, network, images, tolerance=1.0)
    assert all(note.startswith("128 masks") for note in early.notes)
    assert torch.equal(asked(name, network, images, tolerance=None).maps, everything.maps)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"overhang": "left"}, "occlusion.overhang must be one of none, end, both"),
        ({"unit": "percent"}, "occlusion.unit must be one of null, mean_drop"),
        ({"precision": "float16"}, "occlusion.precision must be one of float32, bfloat16"),
        ({"samples": 0}, "occlusion.samples must be a whole number"),
        ({"shown": 1.0}, "occlusion.shown must be below 1"),
        ({"tolerance": -1}, "occlusion.tolerance must be a finite number above 0"),
    ],
)
def test_an_option_out_of_range_is_refused_by_its_name(wrong, words):
    with pytest.raises(ValueError, match=words):
        OcclusionOptions(**wrong)


def test_a_window_method_of_no_size_is_refused():
    with pytest.raises(ValueError, match="must end in a size"):
        method_named("occlusion_window_large", OPTIONS)
    with pytest.raises(ValueError, match="did you mean occlusion_pairs"):
        method_named("occlusion_pair", OPTIONS)


def test_an_estimate_comes_before_the_map_and_counts_the_plan(network, images):
    passes, seconds = estimated("occlusion", network, images[0], OPTIONS)
    assert passes == pytest.approx(
        asked("occlusion", network, images[:1].expand(2, -1, -1, -1)).forward_passes / 2
    )
    assert seconds > 0
    assert estimated("lrp", network, images[0], OPTIONS)[0] == METHODS["lrp"].cost((16, 16), OPTIONS)
