"""The networks that are trained: a small CNN for the laptop, and torchvision's by name.

Every network takes pixels in [0, 1]; its first layer normalises them, so that whoever explains or measures it
speaks in pixels. The plain twin and the interpretable network are built by the same lines and differ in nothing
but the switch of their masks.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from interp_cnn.model.interpretable_conv import make_interpretable
from interp_cnn.storage.tensors import read_tensors

# The last layer whose map is still a grid of a useful size, and whether its output has passed a ReLU.
TOP_LAYERS = {
    "small_cnn": "conv5",
    "alexnet": "features.11",
    "vgg11_bn": "features.27",
    "vgg16": "features.29",
    "vgg16_bn": "features.42",
    "resnet18": "layer4",
    "resnet50": "layer4",
    "densenet121": "features.norm5",
    "convnext_tiny": "features.7",
    "mobilenet_v3_small": "features.12",
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# torchvision's weights of these networks see pixels from -1 to 1; torchvision normalises them as for ImageNet and
# takes that back inside (`transform_input`), which no file of weights says.
SYMMETRIC = ("googlenet", "inception_v3")


class Normalise(nn.Module):
    """(images - mean) / std, per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(tuple(mean))[:, None, None])
        self.register_buffer("std", torch.tensor(tuple(std))[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to zero mean and unit variance."""
        return (images - self.mean) / self.std


class Normalised(nn.Module):
    """A network of somebody else behind a normalisation, so that it takes pixels in [0, 1].

    Args:
        body: images of zero mean and unit variance (B, C, H, W) -> logits (B, K).
        mean: one number, or one per channel.
        std: likewise.
    """

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.normalise, self.body = Normalise(mean, std), body

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to logits (B, K)."""
        return self.body(self.normalise(images))


class SmallCNN(nn.Module):
    """Five 3 x 3 convolutions with batch norm, two poolings (stride 4), global average, one linear layer.

    The averages pass a batch norm before the linear layer: behind a mask they are small, and the twin without
    masks must not have the easier start.

    Args:
        num_classes: number of logits K.
        channels: image channels C.
        mean: per channel, for the normalisation.
        std: per channel.
        widths: filters of the five convolutions.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = 3,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
        widths: Sequence[int] = (32, 64, 96, 128, 128),
    ):
        super().__init__()
        if len(widths) != 5:
            raise ValueError(f"widths has {len(widths)} entries; small_cnn has 5 convolutions")
        self.normalise = Normalise(_per_channel(mean, channels), _per_channel(std, channels))
        inputs = (channels, *widths[:-1])
        self.conv1, self.conv2, self.conv3, self.conv4, self.conv5 = (
            _convolution(before, after) for before, after in zip(inputs, widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.scale = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        maps = self.pool(self.conv1(self.normalise(images)))
        maps = self.pool(self.conv2(maps))
        maps = self.conv5(self.conv4(self.conv3(maps)))  # (B, D, H/4, W/4)
        return self.head(self.scale(self.average(maps)).flatten(1))


def statistics_of_weights(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel that torchvision's weights of a network expect, and those tuned from
    them.
    """
    return ((0.5,) * 3, (0.5,) * 3) if name in SYMMETRIC else (IMAGENET_MEAN, IMAGENET_STD)


def build_network(
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    layers: Sequence[str] | str | None = None,
    weights: str | None = None,
    widths: Sequence[int] | None = None,
    extra_conv: bool = False,
    mask: dict | None = None,
) -> nn.Module:
    """A classifier with template masks behind its interpretable layers.

    Args:
        name: "small_cnn" or a torchvision classification model.
        num_classes: number of logits K.
        channels: image channels C; torchvision's networks see a grey image three times.
        image_size: (H, W) of the training images.
        mean: per channel.
        std: per channel.
        layers: names of the layers to make interpretable; by default the top one.
        weights: None (from scratch), a torchvision weights name such as "IMAGENET1K_V1" or "DEFAULT" (downloads),
            or the path of a state dict of the torchvision network.
        widths: filters of the small CNN's convolutions.
        extra_conv: see `make_interpretable`.
        mask: arguments of `TemplateMask`.

    Raises:
        ValueError: an unknown network, layer or weights.
    """
    if name == "small_cnn":
        options = {} if widths is None else {"widths": tuple(widths)}
        network: nn.Module = SmallCNN(num_classes, channels=channels, mean=mean, std=std, **options)
        if weights is not None:
            _load_state(network, weights)
        prefix = ""
    else:
        network = TorchvisionClassifier(
            name, num_classes, channels=channels, mean=mean, std=std, weights=weights
        )
        prefix = "body."
    if layers is None:
        if name not in TOP_LAYERS:
            raise ValueError(f"network {name!r} has no default layer; name one with layers=[...]")
        layers = [TOP_LAYERS[name]]
    elif isinstance(layers, str):
        layers = [layers]
    named = [layer if layer.startswith(prefix) else prefix + layer for layer in layers]
    return make_interpretable(
        network, named, image_size=image_size, channels=channels, extra_conv=extra_conv, **(mask or {})
    )


class TorchvisionClassifier(nn.Module):
    """A torchvision network behind the normalisation, with a head of K logits."""

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        channels: int = 3,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        weights: str | None = None,
    ):
        super().__init__()
        if name not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(
                f"network {name!r} is unknown; expected small_cnn or a torchvision classifier such as "
                + ", ".join(known for known in TOP_LAYERS if known != "small_cnn")
            )
        if weights is not None:
            mean, std = statistics_of_weights(name)
        self.grey = channels == 1
        self.normalise = Normalise(_per_channel(mean, 3), _per_channel(std, 3))
        self.body = _torchvision_body(name, num_classes, weights)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        if self.grey:
            images = images.expand(-1, 3, -1, -1)
        return self.body(self.normalise(images))


def _torchvision_body(name: str, num_classes: int, weights: str | None) -> nn.Module:
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    if weights is None:
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    if Path(weights).suffix or Path(weights).exists():
        body = torchvision.models.get_model(name, weights=None, **options)
        _load_state(body, weights)
    else:
        try:
            body = torchvision.models.get_model(name, weights=weights)
        except (KeyError, ValueError) as error:
            choices = ", ".join(torchvision.models.get_model_weights(name).__members__)
            raise ValueError(
                f"weights {weights!r} are unknown for {name}; expected {choices} or a file"
            ) from error
    if isinstance(body, torchvision.models.GoogLeNet | torchvision.models.Inception3):
        body.transform_input = False  # the normalisation in front has it
    _replace_head(body, num_classes)
    return body


def _replace_head(body: nn.Module, num_classes: int) -> None:
    name, head = [(name, module) for name, module in body.named_modules() if isinstance(module, nn.Linear)][
        -1
    ]
    if head.out_features != num_classes:
        parent, _, child = name.rpartition(".")
        setattr(body.get_submodule(parent), child, nn.Linear(head.in_features, num_classes))


def _load_state(network: nn.Module, path: str) -> None:
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist; give the path of a saved state dict")
    try:
        state = read_tensors(file)
        network.load_state_dict(state.get("state_dict", state))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"weights file {path} does not fit {type(network).__name__}: {reason}") from error


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(values)
    if len(values) == 1:
        return values * channels
    if len(values) != channels:
        raise ValueError(f"{len(values)} channel statistics for {channels} channels")
    return values


def _convolution(inputs: int, filters: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()
    )
