"""The networks that are trained: a small CNN for the laptop, and others by name (`bodies`), whole or cut (`trunk`).

Every network takes pixels in [0, 1]; its first layer normalises them, so that whoever explains or measures it
speaks in pixels. The plain twin and the interpretable network are built by the same lines and differ in nothing
but the switch of their masks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_cnn.model.bodies import Named, body_of, head_of, named
from interp_cnn.model.interpretable_conv import make_interpretable
from interp_cnn.model.outputs import Output, described, hint, picked
from interp_cnn.model.pixels import Pixels, Statistics
from interp_cnn.model.trunk import Extended, cut_at, default_cut, input_channels, width_of
from interp_cnn.model.weights import load_state, state_of

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
        output: which entry of what the body answers are the logits.
    """

    def __init__(
        self, body: nn.Module, mean: Sequence[float], std: Sequence[float], output: Output = None
    ) -> None:
        super().__init__()
        self.normalise, self.body, self.output = Normalise(mean, std), body, output

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to logits (B, K)."""
        return picked(self.body(self.normalise(images)), self.output)


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


def build_network(
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    statistics: Statistics | None = None,
    layers: Sequence[str] | str | None = None,
    weights: str | None = None,
    load: bool = True,
    trunk: str | None = "auto",
    filters: Sequence[int] = (128,),
    widths: Sequence[int] | None = None,
    extra_conv: bool = False,
    mask: dict | None = None,
    output: Output = None,
) -> nn.Module:
    """A classifier with template masks behind its interpretable layers.

    Args:
        name: a network as in `bodies`.
        num_classes: number of logits K.
        channels: image channels C; networks of others see a grey image three times, unless they take one channel.
        image_size: (H, W) of the training images.
        mean: per channel, of pixels in [0, 1], for networks from scratch; weights come with their own.
        std: likewise.
        statistics: mean and std that the network is to see in place of the weights' own.
        layers: names of the layers to make interpretable; by default the new ones behind a trunk, else the top one.
        weights: None (from scratch), a name such as "DEFAULT" (downloads), or the path of a state dict.
        load: False builds the same network without its weights, because a checkpoint will bring them.
        trunk: layer at which the network is cut and new layers are put behind it; None: it stays whole, with a new
            head; "auto": it is cut at stride 16 where it starts from weights and no layers are named.
        filters: of each of the new 3 x 3 convolutions.
        widths: filters of the small CNN's convolutions.
        extra_conv: see `make_interpretable`.
        mask: arguments of `TemplateMask`.
        output: which entry of a tuple or dictionary that a network of one's own answers are the logits (`outputs`).

    Raises:
        ValueError: an unknown network, layer, trunk or weights, or a network that does not answer with logits.
    """
    which = named(name)
    made = {"image_size": image_size, "channels": channels, "extra_conv": extra_conv, **(mask or {})}
    arguments = {
        "name": name,
        "num_classes": num_classes,
        "channels": channels,
        "image_size": list(image_size),
        "mean": list(map(float, mean)),
        "std": list(map(float, std)),
        "trunk": None,
        "filters": list(filters),
        "layers": _listed(layers) or None,
        "widths": None if widths is None else list(widths),
        "extra_conv": extra_conv,
        "mask": mask,
        "output": output,
    }
    if which.kind == "small_cnn":
        options = {} if widths is None else {"widths": tuple(widths)}
        mean, std = statistics or (mean, std)
        network: nn.Module = SmallCNN(num_classes, channels=channels, mean=mean, std=std, **options)
        if weights is not None and load:
            load_state(network, state_of(weights), weights, name)
        return _noted(make_interpretable(network, _listed(layers) or [TOP_LAYERS[name]], **made), arguments)
    body = body_of(which, num_classes, weights, load=load)
    grey = channels == 1 and input_channels(body.module) != 1
    seen = 3 if grey else channels
    if which.kind == "factory":
        _check_logits(body.module, which.spec, num_classes, (seen, *image_size), output)
    known = statistics or body.statistics or (_per_channel(mean, seen), _per_channel(std, seen))
    normalise = Normalise(
        *(_per_channel(values, seen) if len(set(values)) == 1 else values for values in known)
    )
    if trunk == "auto":
        trunk = None if weights is None or layers is not None else default_cut(body.module, image_size).layer
    pixels = None if statistics is not None else body.pixels
    if trunk is not None:
        part = cut_at(body.module, trunk)
        width = width_of(part, trunk, image_size)
        extended = Extended(
            part,
            width,
            num_classes,
            normalise=normalise,
            filters=tuple(filters),
            grey=grey,
            trunk_layer=trunk,
        )
        old = part if weights is not None else None
        network = _interpretable(extended, _listed(layers) or [f"new.{len(filters) - 1}"], old, pixels, made)
        return _noted(network, {**arguments, "trunk": trunk})
    network = Classifier(body.module, normalise=normalise, grey=grey, output=output)
    chosen = _listed(layers) or [_top_layer(which, body.module, image_size)]
    names = dict(network.named_modules())  # a body may have a body of its own
    chosen = [layer if layer in names else f"body.{layer}" for layer in chosen]
    old = body.module if weights is not None else None
    return _noted(_interpretable(network, chosen, old, pixels, made), arguments)


def pretrained_parameters(network: nn.Module) -> frozenset[str]:
    """Names of the parameters whose values a network started from; all others are new."""
    return getattr(network, "_pretrained", frozenset())


def network_arguments(network: nn.Module) -> dict[str, Any] | None:
    """What builds a network again by `build_network`, without the weights that it started from (those that it has now
    follow); None for a network that was built otherwise.

    Example:
        >>> pixels = {"channels": 1, "image_size": (16, 16), "mean": [0.5], "std": [0.25]}
        >>> network_arguments(build_network("small_cnn", num_classes=3, **pixels))["num_classes"]
        3
    """
    return getattr(network, "_arguments", None)


def pixels_expected(network: nn.Module) -> Pixels | None:
    """What pixels the weights that a network started from were trained to see; None where no library says."""
    return getattr(network, "_pixels", None)


def _noted(network: nn.Module, arguments: dict[str, Any]) -> nn.Module:
    network._arguments = arguments  # pyright: ignore[reportArgumentType]
    return network


def _interpretable(
    network: nn.Module, layers: list[str], old: nn.Module | None, pixels: Pixels | None, made: dict
) -> nn.Module:
    """With masks, and with notes: which parameters are those of `old`, but for the head that was put on it, and what
    pixels they expect.
    """
    parameters = [] if old is None else list(old.parameters())
    if isinstance(network, Classifier) and old is not None:
        new = {id(it) for it in head_of(old).parameters()}
        parameters = [it for it in parameters if id(it) not in new]
    kept = {id(it) for it in parameters}
    network = make_interpretable(network, layers, **made)
    network._pixels = pixels if old is not None else None  # pyright: ignore[reportArgumentType]
    network._pretrained = frozenset(name for name, it in network.named_parameters() if id(it) in kept)  # pyright: ignore
    return network


class Classifier(nn.Module):
    """A network of somebody else behind its normalisation.

    Args:
        body: normalised images (B, C, H, W) -> logits (B, K).
        normalise: images in [0, 1] -> what the body expects.
        grey: whether images have one channel, which the body then sees three times.
        output: which entry of what the body answers are the logits.
    """

    def __init__(
        self, body: nn.Module, *, normalise: nn.Module, grey: bool = False, output: Output = None
    ) -> None:
        super().__init__()
        self.grey, self.normalise, self.body, self.output = grey, normalise, body, output

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to logits (B, K)."""
        if self.grey:
            images = images.expand(-1, 3, -1, -1)
        return picked(self.body(self.normalise(images)), self.output)


@torch.no_grad()
def _check_logits(
    body: nn.Module, spec: str, num_classes: int, image: tuple[int, int, int], output: Output
) -> None:
    """Refuse a network of somebody's own that does not answer a batch of two images with K logits each."""
    was_training = body.training
    try:
        answer = body.eval()(torch.zeros(2, *image))
    except Exception as error:  # of somebody else's forward
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"model.name={spec} does not take a batch of images {(2, *image)}: {reason}"
        ) from error
    finally:
        body.train(was_training)
    logits = picked(answer, output)
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        raise ValueError(
            f"model.name={spec} answers two images with {described(logits)}; expected (2, {num_classes}), one logit "
            f"per class{hint(logits, 'model.output')}: a factory is called with num_classes, where it takes it"
        )


def _top_layer(which: Named, body: nn.Module, image_size: tuple[int, int]) -> str:
    return TOP_LAYERS.get(which.name) or default_cut(body, image_size).layer


def _listed(layers: Sequence[str] | str | None) -> list[str]:
    return [] if layers is None else [layers] if isinstance(layers, str) else list(layers)


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
