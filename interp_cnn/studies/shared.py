"""What all studies ask in the same way: a network's class and certainty, a method's map, a replacement by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interp_cnn.explanation.decisions.class_filters import by_first_that_works, pieces
from interp_cnn.explanation.decisions.evidence import filter_evidence, filter_maps
from interp_cnn.explanation.methods.occlusion import occlusion_job, unit_of
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import METHODS
from interp_cnn.explanation.methods.run import Maps, explain_images
from interp_cnn.explanation.network.logits import checked_evaluation, logits_of_images
from interp_cnn.explanation.network.placement import beside, device_of
from interp_cnn.explanation.occlusion import fills
from interp_cnn.explanation.occlusion.fills import Fill
from interp_cnn.explanation.occlusion.windows import map_of_drops

FILTER_MAPS = ("filter_evidence", "filter_maps")  # of the filters' shares in the logit
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


def check_methods(names: tuple[str, ...], more: tuple[str, ...] = ()) -> None:
    """Refuse a method that does not exist, and no method at all; `more` are names beside those of `METHODS`."""
    known = (*more, *(name for name, method in METHODS.items() if not more or not method.classes))
    if not names:
        raise ValueError(f"study.methods: expected at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise ValueError(f"study.methods: no method {name!r}; expected {', '.join(known)}")


def check_whole_numbers(least: int = 1, **settings: int | tuple[int, ...]) -> None:
    """Refuse a setting (a number or several) that is not a whole number of at least `least`."""
    for name, given in settings.items():
        numbers = given if isinstance(given, tuple) else (given,)
        if not numbers or not all(isinstance(value, int) and value >= least for value in numbers):
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
    target = logits.gather(1, targets[:, None])
    return (target - logits.scatter(1, targets[:, None], float("-inf")).logsumexp(1, keepdim=True))[:, 0]


def map_of(name: str, network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> Maps:
    """One method's maps (B, H, W) on the processor, with their cost; a part of a study is explained at once."""
    images = beside(network, images)
    return explain_images(name, network, images, targets.to(images.device), options)


def maps_of_classes(name: str, network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Maps of several classes of each image on the processor, (B, T, H, W); a few at a time, as grids are large.

    Args:
        name: a method, or one of `FILTER_MAPS`.
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        classes: (B, T).
    """
    count, asked = classes.shape
    if name == "occlusion":  # every window answers for all classes at once
        options = Options()
        job = occlusion_job(network, beside(network, images), options)
        for _ in job.run():
            pass
        drops = job.drops.cpu()
        chosen = drops[torch.arange(count)[:, None], classes]  # (B, T, rows, columns)
        return map_of_drops(job.grid, chosen.flatten(0, 1), unit_of(options)).unflatten(0, (count, asked))
    repeated, targets = images.repeat_interleave(asked, 0), classes.flatten()
    parts = [_maps(name, network, repeated[part], targets[part]) for part in pieces(repeated)]
    return torch.cat(parts).unflatten(0, (count, asked))


def _maps(name: str, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    if name not in FILTER_MAPS:
        return map_of(name, network, images, targets, Options()).maps
    contributions = by_first_that_works(
        network, beside(network, images), targets.to(device_of(network)), layer=None
    )
    drawn = filter_evidence if name == "filter_evidence" else filter_maps
    return drawn(contributions, (images.shape[2], images.shape[3])).cpu()
