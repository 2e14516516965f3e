"""What all studies ask in the same way: a network's class and certainty, a method's map, a replacement by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import METHODS
from interp_cnn.explanation.methods.run import Maps, explain_images
from interp_cnn.explanation.network.logits import checked_evaluation, logits_of_images
from interp_cnn.explanation.network.placement import beside
from interp_cnn.explanation.occlusion import fills
from interp_cnn.explanation.occlusion.fills import Fill

FILLS = ("paper", "mean", "blur", "noise", "shuffled", "neighbours", "inverted")


def paper() -> Fill:
    """Each image's median colour: the empty ground beside a drawing."""

    def replace(images: Tensor, hidden: Tensor | None, sample: int) -> Tensor:
        return images.flatten(2).median(2).values[..., None, None].expand_as(images)

    return Fill("paper", replace)


def fill_named(name: str, seed: int) -> Fill:
    """A replacement by its word on the command line.

    Raises:
        ValueError: an unknown word.
    """
    generator = torch.Generator().manual_seed(seed)
    match name:
        case "paper":
            return paper()
        case "mean":
            return fills.image_mean()
        case "blur":
            return fills.blur()
        case "noise":
            return fills.noise(samples=3, generator=generator)
        case "shuffled":
            return fills.shuffled(samples=3, generator=generator)
        case "neighbours":
            return fills.neighbours()
        case "inverted":
            return fills.inverted()
    raise ValueError(f"study.fills: no replacement {name!r}; expected {', '.join(FILLS)}")


def check_fills(names: tuple[str, ...]) -> None:
    """Refuse a replacement that does not exist, and none at all."""
    if not names:
        raise ValueError(f"study.fills: expected at least one of {', '.join(FILLS)}")
    for name in names:
        fill_named(name, 0)


def check_methods(names: tuple[str, ...]) -> None:
    """Refuse a method that does not exist, and no method at all."""
    if not names:
        raise ValueError(f"study.methods: expected at least one of {', '.join(METHODS)}")
    for name in names:
        if name not in METHODS:
            raise ValueError(f"study.methods: no method {name!r}; expected {', '.join(METHODS)}")


def check_whole_numbers(least: int = 1, **settings: int | tuple[int, ...]) -> None:
    """Refuse a setting (a number or several) that is not a whole number of at least `least`."""
    for name, given in settings.items():
        numbers = given if isinstance(given, tuple) else (given,)
        if not numbers or not all(isinstance(one, int) and one >= least for one in numbers):
            shown = f"[{','.join(map(str, given))}]" if isinstance(given, tuple) else given
            raise ValueError(f"study.{name}={shown}: expected whole numbers of {least} or more")


def check_share(**settings: float) -> None:
    """Refuse a setting that is not a share, above 0 and at most 1."""
    for name, given in settings.items():
        if given is None or not 0 < given <= 1:
            raise ValueError(f"study.{name}={given}: expected a share, above 0 and at most 1")


@torch.no_grad()
def answers(network: nn.Module, images: Tensor) -> Tensor:
    """(B, K) logits in evaluation mode, where the images lie."""
    with checked_evaluation(network, images, alone=True):
        return logits_of_images(network, images)


def log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """Log p/(1 - p) of the target class, (B,): certainty that does not saturate."""
    own = logits.gather(1, targets[:, None])
    return (own - logits.scatter(1, targets[:, None], float("-inf")).logsumexp(1, keepdim=True))[:, 0]


def map_of(name: str, network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> Maps:
    """One method's maps (B, H, W) on the processor, with their cost; a part of a study is explained at once."""
    images = beside(network, images)
    return explain_images(name, network, images, targets.to(images.device), options)
