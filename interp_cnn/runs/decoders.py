"""Decoders of a network's layers: trained once into a folder, read from it afterwards.

config.yaml, checkpoints/, metrics.csv    like a training's run folder
decoder.json                              written last: what the decoder belongs to
"""

import json
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.explanation.concepts.transactions import channel_scale
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.model.interpretable_conv import layer_shapes
from interp_cnn.model.upconvolution import Upconvolution
from interp_cnn.runs.folder import load_checkpoint, write_json
from interp_cnn.storage.fingerprints import fingerprint
from interp_cnn.training.checkpoints import LAST, finished_epochs
from interp_cnn.training.devices import trainer_arguments
from interp_cnn.training.fit import fit
from interp_cnn.training.inversion import Inversion

ON_ONE_DEVICE = {"accelerator": "auto", "devices": 1, "precision": "auto"}
RECORD = "decoder.json"
SCALE_BATCHES = 16  # of training images, for the channels' scale


@dataclass(frozen=True)
class DecoderSettings:
    """How a decoder is trained; see `Inversion`. Many steps of few images do better than few of many."""

    epochs: int = 6
    batch_size: int = 16
    learning_rate: float = 3e-3
    feature_weight: float = 1.0
    whole: float = 0.2
    seed: int = 0


def decoder_for(
    network: nn.Module,
    data: PartDataModule,
    *,
    layer: str,
    folder: Path,
    settings: DecoderSettings,
    trainer: dict | None = None,
    device: torch.device | None = None,
    label: str = "training decoder",
) -> Upconvolution:
    """The decoder of a layer in evaluation mode: that of the folder if it belongs to this, else a new one.

    An interrupted training goes on from its last finished epoch.

    Args:
        network: any classifier; frozen afterwards.
        data: whose training images it learns from.
        layer: dotted module name.
        folder: its own.
        settings: of the training.
        trainer: arguments of Lightning's Trainer, with `auto` as in `trainer_arguments`.
        device: where to train; None: where the network lies.
        label: what the progress bar says.
    """
    place = device_of(network)
    question = {"network": fingerprint(network), "layer": layer, **asdict(settings)}
    network.eval().requires_grad_(False)
    torch.manual_seed(settings.seed)
    decoder = _untrained(network, data, layer)
    last, started, record = folder / "checkpoints" / LAST, folder / "started.json", folder / RECORD
    if _read(record) != question or not _is_complete(last, settings.epochs):
        going_on = last.is_file() and _read(started) == question and not record.is_file()
        if not going_on:  # or a further process of this training would go on from another decoder
            record.unlink(missing_ok=True)
            last.unlink(missing_ok=True)
        write_json(started, question)
        module = Inversion(
            network,
            decoder,
            layer=layer,
            feature_weight=settings.feature_weight,
            whole=settings.whole,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
        )
        batches = copy(data)
        batches.batch_size = settings.batch_size
        fit(
            module,
            batches,
            folder=folder,
            epochs=settings.epochs,
            seed=settings.seed,
            monitor="val/loss",
            gradient_clip=None,
            ckpt_path=last if going_on else None,
            label=label,
            trainer=trainer_arguments(trainer or ON_ONE_DEVICE, device or place),
        )
        network.to(place)  # Lightning leaves everything on the processor
        write_json(record, question)
    return _trained(decoder, network, last)


def decoder_in(folder: Path, network: nn.Module, data: PartDataModule, *, layer: str) -> Upconvolution | None:
    """The decoder of a folder, however it was trained; None where it belongs to another network or layer.

    Raises:
        FileNotFoundError: no decoder there.
        ValueError: its weights are not those of its last epoch.
    """
    record = _read(folder / RECORD)
    if record is None:
        raise FileNotFoundError(f"{folder} holds no decoder; train training=inversion makes one")
    if (record["network"], record["layer"]) != (fingerprint(network), layer):
        return None
    last = folder / "checkpoints" / LAST
    if not _is_complete(last, record["epochs"]):
        raise ValueError(f"{last} is not of epoch {record['epochs']}, the decoder's last; train it anew")
    return _trained(_untrained(network, data, layer), network, last)


def _is_complete(checkpoint: Path, epochs: int) -> bool:
    return checkpoint.is_file() and finished_epochs(load_checkpoint(checkpoint)) == epochs


def _untrained(network: nn.Module, data: PartDataModule, layer: str) -> Upconvolution:
    size = data.image_size
    filters, height, width = layer_shapes(network, [layer], image_size=size, channels=data.channels)[layer]
    scale = scale_of(network, data, layer=layer).cpu()
    return Upconvolution(filters, grid=(height, width), image_size=size, channels=data.channels, scale=scale)


def _trained(decoder: Upconvolution, network: nn.Module, checkpoint: Path) -> Upconvolution:
    """The decoder with the weights of a checkpoint, where the network is."""
    state = load_checkpoint(checkpoint)["state_dict"]
    prefix = "decoder."
    decoder.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    device = device_of(network)
    return decoder.to(device).eval().requires_grad_(False)


def scale_of(network: nn.Module, data: PartDataModule, *, layer: str) -> Tensor:
    """(D,) 99.5 % quantile of every channel over a sample of the training images in their fixed views."""
    device = device_of(network)
    wanted = min(len(data.train_set), SCALE_BATCHES * 64)
    numbers = torch.linspace(0, len(data.train_set) - 1, wanted).round().long().tolist()
    pieces = (numbers[start : start + 64] for start in range(0, len(numbers), 64))
    images = (torch.stack([data.train_set[number].image for number in piece]) for piece in pieces)
    return channel_scale(feature_maps(network, batch.to(device), layer) for batch in images)


def _read(record: Path) -> dict | None:
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
