"""Training a decoder: its losses by hand, what must not change, and that it gets better on real digits."""

import warnings

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from interp_cnn.data.parts import collate
from interp_cnn.model.upconvolution import Upconvolution
from interp_cnn.training.inversion import BEYOND, Inversion


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(8 * 12 * 12, 10),
    )


def small_inversion(**options):
    decoder = Upconvolution(8, grid=(12, 12), image_size=(48, 48), channels=1)
    return Inversion(small_network(), decoder, layer="2", **options)


def test_losses_equal_their_definition_and_masked_cells_do_not_count():
    module = small_inversion().eval()
    images = torch.rand(3, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    maps = module.feature_maps(images)
    masks = torch.zeros_like(maps)
    masks[:, 2:5, 3:7, 1:9] = 1
    pixel_error, feature_error = module.losses(images, maps, masks)
    pictures = module.decoder(maps * masks)
    again = module.network[:3](pictures)
    weights = torch.full((48, 48), BEYOND)
    weights[8:32, 0:40] = 1  # the kept cells and those around them, of four pixels each
    expected = ((pictures - images) ** 2 * weights / weights.mean()).mean()
    torch.testing.assert_close(pixel_error, expected)
    torch.testing.assert_close(feature_error, ((again - maps)[:, 2:5, 3:7, 1:9] ** 2).mean())
    masks = masks.clone()
    masks[0], masks[1] = 1, 0  # each image counts alike, however much is kept of it
    again = module.network[:3](module.decoder(maps * masks))
    squares = (again - maps) ** 2
    expected = (squares[0].mean() + squares[2, 2:5, 3:7, 1:9].mean()) / 3
    torch.testing.assert_close(module.losses(images, maps, masks)[1], expected)
    feature_error.backward()
    assert all(parameter.grad is None for parameter in module.network.parameters())
    assert module.decoder.draw.weight.grad.abs().sum() > 0


def test_maps_are_those_of_the_named_layer_not_of_the_one_in_place_behind_it():
    module = small_inversion()
    module.layer = "1"
    images = torch.rand(2, 1, 48, 48)
    torch.testing.assert_close(module.feature_maps(images), module.network[:2](images))
    assert module.feature_maps(images).min() < 0


@pytest.mark.slow
def test_a_training_improves_the_decoder_and_leaves_the_network_alone(digits):
    samples = [digits[number] for number in range(96)]
    loader = DataLoader(samples, batch_size=32, collate_fn=collate)
    module = small_inversion()
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    trainer = Trainer(
        max_epochs=15,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*logging interval.*")
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # as it should be
        (first,) = trainer.validate(module, loader, verbose=False)
        trainer.fit(module, loader, loader)
        (last,) = trainer.validate(module, loader, verbose=False)
    assert last["val/loss"] < 0.7 * first["val/loss"]
    assert set(last) == {"val/loss", "val/pixel_error", "val/feature_error", "val/class_agreement"}
    after = module.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    module.train()
    assert module.decoder.training and not module.network.training


@pytest.mark.parametrize(
    ("options", "sentence"), [({"feature_weight": -1}, "feature_weight is -1"), ({"whole": 1.5}, "whole 1.5")]
)
def test_wrong_arguments_are_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        small_inversion(**options)
    with pytest.raises(ValueError, match="layer is 'nothing'"):
        Inversion(small_network(), Upconvolution(8, grid=(12, 12), image_size=(48, 48)), layer="nothing")
