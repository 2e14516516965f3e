"""A frozen trunk's maps are computed once for each picture, and nobody sees a difference but in time."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from interp_cnn.cli.main import main
from interp_cnn.data.samplers import EpochSampler
from interp_cnn.model.backbones import build_network, pretrained_parameters
from interp_cnn.runs.trunk_maps import trunk_maps_for
from interp_cnn.training.equivariance import random_view
from interp_cnn.training.finetuning import FineTuning
from interp_cnn.training.trunk_maps import TrunkMaps, own_generators


class Counted(nn.Module):
    """A trunk that counts the images that it is sent."""

    def __init__(self):
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 4, 3), 0

    def forward(self, images):
        self.seen += len(images)
        return self.conv(images)


@pytest.mark.parametrize("on_disk", [False, True])
def test_maps_are_computed_once_and_are_the_trunks_own(on_disk, tmp_path):
    trunk, images = Counted(), torch.rand(5, 3, 8, 8)
    expected = trunk.conv(images)
    store = TrunkMaps(9, tmp_path if on_disk else None)
    with store.instead_of(trunk):
        trunk(images[:3])
        found = trunk(images[[4, 2, 0, 3, 1, 4]])
        assert torch.allclose(found, expected[[4, 2, 0, 3, 1, 4]], atol=1e-6)
        assert trunk.seen == 5 and len(store) == 5 and not found.requires_grad
        assert torch.equal(trunk(images), trunk(images)) and trunk.seen == 5
        trunk(images + 1e-3)
        assert trunk.seen == 10 and len(store) == 9  # it is full
    assert trunk(images).requires_grad and trunk.seen == 15
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_with_a_cache_an_image_has_a_few_views_in_new_orders():
    sampler = EpochSampler(torch.zeros(6), seed=3, views=2)
    orders = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert [{draw.epoch for draw in order} for order in orders] == [{0}, {1}, {0}, {1}]
    assert [draw.index for draw in orders[0]] != [draw.index for draw in orders[2]]
    with pytest.raises(ValueError, match="views=0: expected 1 or more"):
        EpochSampler(torch.zeros(6), seed=3, views=0)


def test_the_second_view_of_an_image_depends_on_no_other_image():
    images = torch.rand(4, 3, 16, 16)
    together = random_view(images, own_generators(images, 0))
    alone = random_view(images[2:3], own_generators(images[2:3], 0))
    assert torch.equal(together.matrix[2:3], alone.matrix) and torch.allclose(
        together.images[2:3], alone.images
    )
    assert not torch.equal(together.matrix[0], together.matrix[1])
    assert not torch.equal(random_view(images, own_generators(images, 1)).matrix, together.matrix)


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=12).state_dict(), tmp_path / "resnet18.pth")
    network = build_network(
        "resnet18",
        num_classes=3,
        weights=str(tmp_path / "resnet18.pth"),
        channels=3,
        image_size=(64, 64),
        mean=(0.5,),
        std=(0.25,),
    )
    return network, pretrained_parameters(network), tmp_path


def asked(trained, *, freeze="trunk", count=100, network=None, **training):
    data = SimpleNamespace(
        train_set=range(count), val_set=range(20), image_size=(64, 64), channels=3, views=None
    )
    config = OmegaConf.create({"cache": "memory", "cached_views": 3, "epochs": 5, "views": 2, **training})
    settings = FineTuning(trained[1], freeze=freeze)
    return trunk_maps_for(
        config, network or trained[0], data, settings=settings, accelerator="cpu", folder=trained[2]
    ), data


def test_the_size_of_the_cache_is_said_before(trained, caplog):
    caplog.set_level(logging.WARNING)
    store, data = asked(trained)
    assert store.most == 100 * 3 * 2 + 20 and data.views == store.views == 3
    bytes_each = 128 * 8 * 8 * 4
    assert (
        f"620 maps of the trunk (6 views of each training image) are computed once and kept in memory: "
        f"{620 * bytes_each // 2**20} MiB" in caplog.text
    )
    assert asked(trained, epochs=1)[0].most == 100 * 2 + 20  # no more views than epochs
    assert asked(trained, cache="none")[0] is None


def test_what_changes_is_not_kept(trained):
    assert asked(trained, cache="auto", freeze="none")[0] is None
    assert asked(trained, cache="auto")[0] is not None
    assert asked(trained, cache="auto", count=10**12)[0] is None
    for training, words in (
        (
            {"freeze": "none"},
            "training.cache is memory, but no trunk stays as it is; expected training.freeze=trunk",
        ),
        ({"network": nn.Conv2d(3, 1, 1)}, "no trunk stays as it is"),
        ({"compile": True}, "expected none with training.compile=true"),
        ({"cache": "tape"}, "training.cache is 'tape'; expected one of none, auto, memory, disk"),
        ({"cached_views": 0}, "training.cached_views is 0; expected 1 or more"),
        ({"count": 10**12}, "free; expected disk, none or fewer training.cached_views"),
        ({"count": 10**12, "cache": "disk"}, "free; expected none or fewer training.cached_views"),
    ):
        with pytest.raises(ValueError, match=words):
            asked(trained, **training)


@pytest.mark.slow
def test_a_training_with_kept_maps_ends_where_one_without_them_ends(trained, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "photos"
    for number, name in enumerate(("red", "green")):
        (folder / name).mkdir(parents=True)
        for index in range(8):
            colour = [40 + 4 * index] * 3
            colour[number] = 220
            Image.new("RGB", (64, 64), tuple(colour)).save(folder / name / f"{index}.png")
    sent = []
    own = TrunkMaps.maps
    monkeypatch.setattr(
        TrunkMaps, "maps", lambda self, trunk, images: sent.append(len(images)) or own(self, trunk, images)
    )
    states = []
    for place, cached in (("kept", True), ("anew", False)):
        if not cached:  # the same views, but every map is computed anew
            monkeypatch.setattr(TrunkMaps, "_keep", lambda self, key, maps: None)
        settings = f"""data=image_folder data.root={folder} data.image_size=64 data.batch_size=4 model.name=resnet18
            model.weights={tmp_path / "resnet18.pth"} training=finetune training.epochs=3 training.cache=memory
            training.cached_views=1 device=cpu hydra.run.dir={tmp_path / place}"""
        code = main(["train", *settings.split()])
        assert code in (0, None), capsys.readouterr().err
        states.append(
            torch.load(tmp_path / place / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        )
    assert sent and states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.allclose(value.float(), states[1][name].float(), atol=1e-3), name
