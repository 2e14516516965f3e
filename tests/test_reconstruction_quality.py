"""Measures of a decoder's pictures, against what follows by hand."""

import pytest
import torch
from torch import nn

from interp_cnn.evaluation.reconstructions import (
    distance_to_others,
    grid_measure,
    phase_means,
    psnr,
    reconstruction_quality,
)


class Pixels(nn.Module):
    """The maps are the pixels; the class is whether the image is bright."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Identity()

    def forward(self, images):
        mean = self.maps(images).mean(dim=(1, 2, 3))
        return torch.stack((0.5 - mean, mean - 0.5), dim=1)


class Batch:
    def __init__(self, images):
        self.images, self.labels = images, (images.mean(dim=(1, 2, 3)) > 0.5).long()


class Grey(nn.Module):
    def forward(self, maps):
        return torch.full_like(maps, 0.6)


def quality(decoder):
    images = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[:12] *= 0.5
    images[12:] = 0.5 + 0.5 * images[12:]
    return images, reconstruction_quality(
        Pixels(), decoder, [Batch(images[::2]), Batch(images[1::2])], layer="maps", scale=torch.ones(3)
    )


def test_a_perfect_decoder_has_no_error_and_a_blank_one_has_what_chance_has():
    _, perfect = quality(nn.Identity())
    assert perfect["nre"].value == perfect["feature_error"].value == 0
    assert perfect["ssim"].value == pytest.approx(1) and perfect["psnr"].value == pytest.approx(100)
    assert perfect["class_agreement"].value == perfect["accuracy_on_pictures"].value == 1
    images, blank = quality(Grey())
    assert blank["class_agreement"].value == 0.5 and blank["accuracy"].value == 1
    assert blank["class_agreement"].low < 0.5 + 1e-9 and blank["class_agreement"].n == 24
    error = ((images - 0.6) ** 2).flatten(1).mean(dim=1)
    assert blank["psnr"].value == pytest.approx(float((-10 * error.log10()).mean()), abs=1e-4)
    assert 0.4 < blank["nre"].value < 1.2 and blank["nre"].low < blank["nre"].value < blank["nre"].high
    assert blank["nre"].value == pytest.approx(blank["feature_error"].value)
    assert blank["grid"].value == pytest.approx(0, abs=1e-4)


def test_distances_equal_a_loop():
    values = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0))
    for number, found in enumerate(distance_to_others(values)):
        others = [float((values[number] - values[k]).norm()) for k in range(5) if k != number]
        assert found == pytest.approx(sum(others) / 4, rel=1e-4)
    assert distance_to_others(values[:1]).isnan().all()


def test_a_checkerboard_is_seen_and_noise_is_not():
    noise = torch.rand(50, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    board = noise.clone()
    board[..., ::4, ::4] += 1
    assert grid_measure(phase_means(noise, 4)) < 0.03 < 0.5 < grid_measure(phase_means(board, 4))


def test_psnr_is_twenty_for_a_tenth():
    assert psnr(torch.full((1, 1, 4, 4), 0.6), torch.full((1, 1, 4, 4), 0.5)) == pytest.approx(20, abs=1e-3)
