"""Training on images that lose a patch: which pixels go, how often, and that a training takes notice."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from interp_cnn.cli.main import main
from interp_cnn.explanation.occlusion.windows import window_grid
from interp_cnn.runs.trunk_maps import trunk_maps_for
from interp_cnn.training.classification import Classification
from interp_cnn.training.deleted_patches import delete_patches
from interp_cnn.training.finetuning import FineTuning


@pytest.mark.parametrize("size", [(8, 8), (18, 23), (48, 48)])
def test_an_image_loses_one_whole_patch_or_nothing(size):
    """Pixel by pixel: the patch is a window of H // 4 x W // 4 pixels, the rest of the image is as it was."""
    images = torch.rand(200, 3, *size)
    found = delete_patches(images, 0.5, (0.1, 0.2, 0.3), torch.Generator().manual_seed(1))
    side = size[0] // 4, size[1] // 4
    windows = window_grid(size, side, side)
    masks = [windows.mask(row, column) for row in range(4) for column in range(4)]
    counts = [0] * 17
    for before, after in zip(images, found, strict=True):
        changed = (before != after).any(0)
        which = [number for number, mask in enumerate(masks) if torch.equal(mask, changed)]
        assert which or not changed.any()
        for channel, value in enumerate((0.1, 0.2, 0.3)):
            assert torch.equal(after[channel], torch.where(changed, torch.tensor(value), before[channel]))
        counts[which[0] if which else 16] += 1
    assert 70 <= counts[16] <= 130 and min(counts[:16]) >= 1  # half of them, and every patch


def test_who_loses_a_patch_depends_on_the_generator_alone():
    images = torch.rand(6, 1, 16, 16)
    drawn = [delete_patches(images, 0.5, (0.0,), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(delete_patches(images, 0.0, (0.0,), torch.Generator()), images)
    every = delete_patches(images, 1.0, (2.0,), torch.Generator())
    assert (every == 2).sum((1, 2, 3)).tolist() == [16] * 6


class Watched(nn.Module):
    """Keeps the images that it is sent."""

    def __init__(self):
        super().__init__()
        self.head, self.seen = nn.Linear(1, 2), []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return self.head(images.mean((2, 3)))


def images_of_a_step(share: float, views: int = 1, seed: int = 0) -> torch.Tensor:
    network = Watched()
    module = Classification(
        network,
        num_classes=2,
        image_size=(8, 8),
        channels=1,
        views=views,
        deleted_patches=share,
        mean=(0.5,),
    )
    module.trainer = SimpleNamespace(num_training_batches=1, estimated_stepping_batches=1)  # pyright: ignore
    module.log = lambda *arguments, **options: None  # pyright: ignore
    batch = SimpleNamespace(images=torch.ones(20, 1, 8, 8), labels=torch.zeros(20, dtype=torch.int64))
    torch.manual_seed(seed)
    module.training_step(batch, 0)
    return network.seen[-1]  # the first are those by which layers are measured


@pytest.mark.parametrize("views", [1, 2])
def test_a_training_step_sees_images_without_patches(views, monkeypatch):
    monkeypatch.setattr(Classification, "current_epoch", 0)
    monkeypatch.setattr(Classification, "global_step", 0)
    whole, some, again = (images_of_a_step(share, views) for share in (0.0, 0.5, 0.5))
    assert len(whole) == 20 * views and torch.equal(whole[:20], torch.ones(20, 1, 8, 8))
    lost = (some[:20] == 0.5).sum((1, 2, 3))
    assert set(lost.tolist()) == {0, 4} and torch.equal(some, again)


def test_a_share_beyond_one_and_a_cache_of_pictures_are_refused(capsys, tmp_path):
    with pytest.raises(ValueError, match=r"training\.deleted_patches is 1\.5; expected a share"):
        images_of_a_step(1.5)
    words = {"cache": "memory", "cached_views": 2, "deleted_patches": 0.5, "views": 1, "epochs": 2}
    arguments = {"settings": FineTuning(frozenset()), "accelerator": "cpu", "folder": tmp_path}
    with pytest.raises(ValueError, match=r"training\.cache is memory, and training\.deleted_patches=0\.5"):
        trunk_maps_for(OmegaConf.create(words), nn.Identity(), None, **arguments)  # pyright: ignore
    auto = OmegaConf.create({**words, "cache": "auto"})
    assert trunk_maps_for(auto, nn.Identity(), None, **arguments) is None  # pyright: ignore
    assert main(["train", "training.deleted_patches=2", f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    assert "training.deleted_patches is 2" in capsys.readouterr().err
