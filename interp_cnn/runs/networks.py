"""A user's own network by name: of a library, or what a factory of theirs builds.

    torchvision:resnet50             weights: a file, torchvision's name for them (DEFAULT), or none (random)
    timm:resnet18                    likewise (extra `timm`)
    efficientnet_lite0               DEFAULT, which are installed (extra `pretrained`), a file, or none
    package.module:factory           weights: a file, or none (as the factory built it)

All take pixels in [0, 1]: the networks of libraries stand behind the normalisation that their weights expect, in a file
too; a factory's network normalises inside, unless `mean` and `std` are given. A factory is called without
arguments (with `num_classes`, where it is given and the factory takes it); its module is looked for in the current
folder too. Weight files are read as tensors only, nothing in them runs.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches

import torchvision
from torch import nn

from interp_cnn.model.backbones import Classifier, Normalise, Normalised
from interp_cnn.model.bodies import (
    IMAGENET_CLASSES,
    LITE,
    body_of,
    classes_of,
    is_file,
    named,
    torchvision_names,
)
from interp_cnn.model.outputs import Output, Picked
from interp_cnn.model.pixels import torchvision_pixels
from interp_cnn.model.trunk import input_channels
from interp_cnn.runs.normalisation import Statistics, checked_statistics


def load_network(
    spec: str,
    *,
    weights: str | None = None,
    num_classes: int | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    output: Output = None,
) -> nn.Module:
    """A classifier in evaluation mode: images (B, C, H, W) in [0, 1] -> logits (B, K).

    Args:
        spec: `torchvision:NAME`, `timm:NAME`, `efficientnet_lite0` or `package.module:factory`.
        weights: a file (a state dict saved by `torch.save`, or safetensors); for a network of a
            library also a name, such as DEFAULT or IMAGENET1K_V1 (downloaded unless it is there); None: none.
        num_classes: K; by default that of the weights, or ImageNet's 1000, or the factory's own.
        mean: of the pixels in [0, 1] that the network was trained on, one number or one per channel: it is put behind
            (images - mean) / std. None: networks of libraries see what their weights expect, others bare pixels.
        std: likewise.
        output: which entry of a tuple (a number) or dictionary (a key) that a factory's network answers are the logits.

    Raises:
        ValueError: an unknown network, module or factory, or weights, a mean or an output that do not fit.
        FileNotFoundError: no such weights file.

    Example:
        >>> import torch
        >>> network = load_network("torchvision:squeezenet1_1", num_classes=5, mean=0.5, std=0.25)
        >>> network(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 5])
    """
    package, _, name = spec.partition(":")
    if spec != LITE and (not package or not name):
        near = get_close_matches(spec, torchvision_names(), 1, 0.6)
        raise ValueError(
            f"network={spec!r} is neither torchvision:NAME, timm:NAME, {LITE} nor package.module:factory"
            + (f"; did you mean torchvision:{near[0]}?" if near else "")
        )
    which = named(spec)
    if which.kind == "factory":
        network = body_of(which, num_classes, weights).module
        statistics = checked_statistics(mean, std, image_channels(network))
        if statistics is not None:
            network = Normalised(network, *statistics, output)
        elif output is not None:
            network = Picked(network, output)
    elif output is not None:
        raise ValueError(f"output={output}, but {spec} answers with logits alone; expected null")
    else:
        if weights is not None and not is_file(weights) and num_classes not in (None, IMAGENET_CLASSES):
            raise ValueError(
                f"num_classes={num_classes}, but weights={weights} of {spec} know {IMAGENET_CLASSES} classes"
            )
        body = body_of(which, num_classes if weights is None else None, weights)
        known_classes = classes_of(body.module)
        if num_classes not in (None, known_classes):
            raise ValueError(
                f"num_classes={num_classes}, but weights={weights} of {spec} know {known_classes} classes"
            )
        known = body.statistics or torchvision_pixels(which.name).statistics
        network = Classifier(body.module, normalise=Normalise(*(checked_statistics(mean, std, 3) or known)))
    with suppress(NotImplementedError):  # what torch.export made is in evaluation mode for good
        network.eval()
    return network


def image_channels(network: nn.Module) -> int:
    """C of a network's images: as many as its first convolution takes, 3 without one."""
    return input_channels(network) or 3


def class_names(spec: str, count: int, *, weights: str | None = None) -> tuple[str, ...]:
    """Names of a network's K classes, all different: ImageNet's for torchvision's networks with 1000 trained ones, else
    numbers.
    """
    return told_apart(known_class_names(spec, count, weights=weights)) or tuple(
        f"class {number}" for number in range(count)
    )


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes; those that several share with the number of the class, as in "crane (134)"."""
    several = {name for name, count in Counter(names).items() if count > 1}
    return tuple(f"{name} ({number})" if name in several else name for number, name in enumerate(names))


def known_class_names(spec: str, count: int, *, weights: str | None = None) -> tuple[str, ...]:
    """Names of a network's K classes as its weights have them, empty where nobody knows."""
    package, _, name = spec.partition(":")
    if package == "torchvision" and weights is not None and count == IMAGENET_CLASSES:
        for known in torchvision.models.get_model_weights(name):
            if len(known.meta.get("categories", ())) == count:
                return tuple(known.meta["categories"])
    return ()
