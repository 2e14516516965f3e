"""Decoders in their folders: trained once, read again, anew for another network; and the command that makes one."""

import pytest
import torch
from omegaconf import OmegaConf

from interp_cnn.commands import train as command
from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.digits import DigitsParts
from interp_cnn.model.backbones import build_network
from interp_cnn.runs import decoders
from interp_cnn.runs.decoders import DecoderSettings, decoder_for, decoder_in


@pytest.fixture(scope="module")
def data():
    data = PartDataModule(DigitsParts, batch_size=64, image_size=16, distractors=0, scale=(1.5, 1.5))
    data.setup()
    return data


def small_network(data):
    torch.manual_seed(0)
    size = {"image_size": (16, 16), "mean": data.mean, "std": data.std}
    return build_network("small_cnn", num_classes=10, channels=1, widths=(4, 4, 6, 6, 8), **size)


@pytest.mark.slow
def test_a_decoder_is_trained_once_and_anew_for_other_weights(data, tmp_path, monkeypatch):
    network, settings = small_network(data), DecoderSettings(epochs=1)
    options = {"layer": "conv5", "folder": tmp_path, "settings": settings}
    trainer = {"accelerator": "cpu"}
    first = decoder_for(network, data, trainer=trainer, **options)
    with monkeypatch.context() as patch:
        patch.setattr(decoders, "fit", lambda *args, **kwargs: pytest.fail("trained twice"))
        again = decoder_for(network, data, trainer=trainer, **options)
    maps = torch.rand(2, 8, 4, 4)
    assert torch.equal(first(maps), again(maps)) and first(maps).shape == (2, 1, 16, 16)
    assert not again.training and (tmp_path / "metrics.csv").is_file()
    found = decoder_in(tmp_path, network, data, layer="conv5")
    assert torch.equal(first(maps), found(maps))
    assert decoder_in(tmp_path, network, data, layer="conv4") is None
    with pytest.raises(FileNotFoundError, match="holds no decoder"):
        decoder_in(tmp_path / "elsewhere", network, data, layer="conv5")
    with torch.no_grad():
        network.head.bias += 1
    monkeypatch.setattr(decoders, "fit", lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("anew")))
    with pytest.raises(RuntimeError, match="anew"):
        decoder_for(network, data, trainer=trainer, **options)


def test_an_inversion_without_a_run_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match=r"give training\.run=RUN_FOLDER"):
        command.invert(OmegaConf.create({"training": {"kind": "inversion", "run": None}}), tmp_path)
