"""Single deletion: against a pass for every patch and scipy, on linear networks, and maps that say nothing."""

import pytest
import reference_measures as reference
import torch
from torch import nn

from interp_cnn.evaluation.maps.single_deletion import patch_drops, patch_size, patch_sums, single_deletion
from interp_cnn.explanation.occlusion.fills import dataset_mean
from interp_cnn.training.deleted_patches import delete_patches


@pytest.mark.parametrize("size", [(16, 16), (18, 23), (7, 9)])
def test_the_score_is_that_of_a_pass_for_every_patch(size):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 3)
    )
    images, targets, maps = torch.rand(4, 2, *size), torch.tensor([0, 2, 1, 1]), torch.randn(4, *size)
    maps[3, : size[0] // 2] = 0.5  # some patches are tied
    colour = (0.4, 0.6)
    drops = patch_drops(network, images, targets, fill=dataset_mean(colour))
    expected = [
        reference.single_deletion(network, image, int(target), map_, torch.tensor(colour))
        for image, target, map_ in zip(images, targets, maps, strict=True)
    ]
    assert single_deletion(maps, drops).tolist() == pytest.approx(expected, abs=1e-6)


def test_a_linear_networks_contributions_are_in_the_right_order_and_their_opposite_in_the_wrong_one():
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    images, targets = torch.rand(3, 1, 16, 16), torch.tensor([0, 1, 0])
    maps = (network[1].weight[targets].view_as(images) * (images - 0.3)).sum(1).detach()
    drops = patch_drops(network, images, targets, fill=dataset_mean([0.3]))
    torch.testing.assert_close(drops, patch_sums(maps), atol=1e-5, rtol=0)
    assert single_deletion(maps, drops).tolist() == pytest.approx([1.0] * 3)
    assert single_deletion(-maps, drops).tolist() == pytest.approx([-1.0] * 3)


def test_an_even_map_gets_nothing_a_random_one_nothing_on_average_and_equal_drops_have_no_answer():
    drops = torch.randn(500, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert single_deletion(torch.ones(500, 8, 8), drops).tolist() == [0.0] * 500
    noise = torch.randn(500, 8, 8, generator=torch.Generator().manual_seed(1))
    assert abs(single_deletion(noise, drops).mean().item()) < 0.05
    assert single_deletion(noise[:2], torch.ones(2, 16)).isnan().all()
    own = drops.view(500, 4, 4)
    assert single_deletion(own, drops).tolist() == pytest.approx([1.0] * 500)


def test_the_patches_are_those_of_the_training():
    images = torch.zeros(60, 1, 18, 23)
    lost = delete_patches(images, 1.0, (1.0,), torch.Generator().manual_seed(0))
    height, width = patch_size((18, 23))
    sums = patch_sums(lost[:, 0])
    assert sorted(set(sums.flatten().tolist())) == [0, height * width]
    assert (sums > 0).sum(1).tolist() == [1] * 60 and (sums.sum(0) > 0).sum() > 12
    with pytest.raises(ValueError, match="images are 3 x 9 pixels; expected 4 or more"):
        patch_size((3, 9))
