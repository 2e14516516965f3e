"""The real patch that excites a filter most, against pasting every one by hand."""

import pytest
import torch
from test_silencing import cross_network, network_of
from torch import nn

from interp_cnn.explanation.filters.pasting import (
    best_paste,
    paste_corners,
    pasted,
    peaks_of_images,
    quietest,
    random_patches,
)
from interp_cnn.explanation.network.feature_maps import feature_maps_and_logits
from interp_cnn.model.interpretable_conv import make_interpretable


def by_hand(network, images, patches, number):
    """Mean peak and logits of each patch over all places and images, one at a time."""
    height, width = images.shape[2:]
    side = patches.shape[3]
    peaks, logits = [], []
    for patch in patches:
        some, others = [], []
        for image in images:
            for down, right in ((0.25, 0.25), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (0.75, 0.75)):
                edited = image.clone()
                top, left = round(down * (height - side)), round(right * (width - side))
                edited[:, top : top + side, left : left + side] = patch
                maps, answer = feature_maps_and_logits(network, edited[None], "3")
                some.append(float(maps[0, number].max())), others.append(answer[0])
        peaks.append(sum(some) / len(some)), logits.append(torch.stack(others))
    return torch.tensor(peaks), logits


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_the_best_patch_is_the_one_that_raises_the_peak_most(channels, masked):
    for seed in range(3):
        network = network_of(channels, seed)
        if masked:
            make_interpretable(network, ["3"], image_size=(9, 9), channels=channels)
        generator = torch.Generator().manual_seed(seed)
        images = 0.2 * torch.rand(5, channels, 9, 9, generator=generator)
        patches = torch.rand(6, channels, 4, 4, generator=generator)
        controls = torch.rand(3, channels, 4, 4, generator=generator)
        number = int(feature_maps_and_logits(network, images, "3")[0].amax((0, 2, 3)).argmax())
        found = best_paste(network, images, patches, controls, number, layer="3", batch_size=7)
        strengths, _ = by_hand(network, images[[0, 2, 4]], patches, number)
        torch.testing.assert_close(found.strengths, strengths, atol=1e-5, rtol=1e-4)
        best = int(strengths.argmax())
        assert found.best == best
        [after], [logits] = by_hand(network, images[[1, 3]], patches[best : best + 1], number)
        random, others = by_hand(network, images[[1, 3]], controls, number)
        maps, before = feature_maps_and_logits(network, images[[1, 3]], "3")
        assert found.after == pytest.approx(float(after), abs=1e-5)
        assert found.control == pytest.approx(float(random.mean()), abs=1e-5)
        assert found.before == pytest.approx(float(maps[:, number].amax((1, 2)).mean()), abs=1e-5)
        for row, literal in enumerate((before, logits, torch.cat(others))):
            torch.testing.assert_close(found.logits[row], literal.mean(0), atol=1e-5, rtol=1e-4)
            for category in range(3):
                share = float((literal.argmax(1) == category).double().mean())
                assert float(found.decided[row, category]) == pytest.approx(share)


def test_the_known_patch_is_found_among_others():
    cross = torch.eye(4) + torch.eye(4).flip(0)
    patches = torch.stack([torch.zeros(4, 4), cross.roll(1, 0), cross, torch.ones(4, 4)])[:, None]
    found = best_paste(cross_network(), torch.zeros(4, 1, 12, 12), patches, patches[:1], 0, layer="1")
    assert found.best == 2 and (found.before, found.after, found.control) == (0, 2, 0)


def test_a_patch_replaces_what_lies_below_it_and_nothing_else():
    images, patch = torch.rand(2, 3, 8, 10), torch.rand(3, 4, 4)
    corners = paste_corners((8, 10), 4)
    edited = pasted(images, patch, corners)
    assert edited.shape == (2, 5, 3, 8, 10) and len(set(corners)) == 5
    for place, (top, left) in enumerate(corners):
        inside = torch.zeros(8, 10, dtype=torch.bool)
        inside[top : top + 4, left : left + 4] = True
        assert torch.equal(edited[:, place, :, ~inside], images[:, :, ~inside])
        assert torch.equal(edited[1, place, :, inside].view(3, 4, 4), patch)
    assert set(paste_corners((6, 6), 6)) == {(0, 0)}


def test_the_quietest_images_are_those_with_the_lowest_peaks_and_ties_are_drawn():
    peaks = torch.tensor([3.0, 0, 1, 0, 0, 2])
    drawn = [quietest(peaks, 2, torch.Generator().manual_seed(seed)).tolist() for seed in range(30)]
    assert {number for two in drawn for number in two} == {1, 3, 4}
    assert quietest(peaks, 5, torch.Generator()).tolist()[3:] == [2, 5]


def test_peaks_of_images_are_those_of_the_maps():
    from types import SimpleNamespace

    network, images = network_of(1, 0), torch.rand(5, 1, 9, 9)
    batches = [SimpleNamespace(images=images[:2]), SimpleNamespace(images=images[2:])]
    expected = feature_maps_and_logits(network, images, "3")[0].amax((2, 3))
    torch.testing.assert_close(peaks_of_images(network, batches, "3"), expected)


def test_random_patches_are_pieces_of_the_images():
    images = [torch.arange(20.0).view(1, 4, 5), 100 + torch.arange(20.0).view(1, 4, 5)]
    drawn = random_patches(images, 3, 40, torch.Generator().manual_seed(0))
    assert drawn.shape == (40, 1, 3, 3)
    corners = {int(patch[0, 0, 0]) for patch in drawn}
    assert corners <= {number + 100 * image for number in (0, 1, 2, 5, 6, 7) for image in (0, 1)}
    assert len(corners) > 6
    for patch in drawn:
        assert (patch[0] - patch[0, 0, 0]).tolist() == [[0, 1, 2], [5, 6, 7], [10, 11, 12]]


@pytest.mark.parametrize(
    ("images", "patches", "controls", "sentence"),
    [
        (1, 4, 4, "images has 1; expected at least 2"),
        (2, 4, 3, r"patches \(2, 1, 4, 4\) and controls \(2, 1, 3, 3\); expected at least one of each"),
        (2, 10, 10, "side is 10; expected 1 to 9 pixels"),
    ],
)
def test_what_cannot_be_pasted_is_refused(images, patches, controls, sentence):
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten())
    with pytest.raises(ValueError, match=sentence):
        best_paste(
            network,
            torch.zeros(images, 1, 9, 9),
            torch.zeros(2, 1, patches, patches),
            torch.zeros(2, 1, controls, controls),
            0,
            layer="1",
        )
