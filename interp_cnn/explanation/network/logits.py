"""What every relevance method asks of a network: evaluation mode, logits, one target class per image.

A relevance map explains one number, the logit of the target class. The checks that make silent nonsense
impossible are gathered here: a network left in training mode is asked in evaluation mode and handed back as
it came; probabilities instead of logits, targets that are no class, images that are not finite are refused. What goes
wrong in evaluation mode all the same is `watching`'s.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network import feature_maps as activations
from interp_cnn.explanation.network import tried
from interp_cnn.explanation.network.image_by_image import check_image_by_image, check_repeats
from interp_cnn.explanation.network.placement import beside
from interp_cnn.explanation.network.precision import chosen_precision, precision_now
from interp_cnn.explanation.network.refusals import refusing
from interp_cnn.explanation.network.watch import Watch, computes_coarsely


@dataclass
class _Visit:
    """A network that is in evaluation mode here, and what was tried of it."""

    watch: Watch
    repeats: bool = False
    image_by_image: bool = False


class _Visits(threading.local):
    """The visits that are open in this thread, by the network's id."""

    def __init__(self) -> None:
        self.open: dict[int, _Visit] = {}
        self.trying = False


_visits = _Visits()


@contextmanager
def checked_evaluation(
    network: nn.Module, images: Tensor | None = None, *, alone: bool = False
) -> Iterator[nn.Module]:
    """The network in evaluation mode, in the chosen precision; afterwards each module is back in its own mode.

    Args:
        network: images (B, C, H, W) -> logits (B, K); it is handed copies, so that it may write into its images.
        images: (B, C, H, W) that it will be asked about: whether it gives the same answer twice, and the same for an
            image alone and beside others, is tried on the first of them, once for blocks inside each other. None: not.
        alone: a single image passes by itself and not as several altered copies.

    Raises:
        Refusal: the network fails, answers at random or mixes images; a ValueError where it drops values out or
            normalises by the batch all the same, or ends in probabilities.
    """
    visit = _visits.open.get(id(network))
    if visit is not None:
        with chosen_precision():
            _try_once(visit, network, images, alone)
            yield network
        return
    visit = _Visit(Watch(network))
    scripted = isinstance(
        network, torch.jit.ScriptModule
    )  # takes no hooks; its functions cannot be watched either
    hook = None if scripted else network.register_forward_hook(visit.watch.refuse_probabilities)
    _visits.open[id(network)] = visit
    try:
        with refusing(network), activations.evaluation_mode(network), visit.watch:
            _try_once(visit, network, images, alone)
            yield network
    finally:
        del _visits.open[id(network)]
        if hook is not None:
            hook.remove()


def _try_once(visit: _Visit, network: nn.Module, images: Tensor | None, alone: bool) -> None:
    if images is None or len(images) == 0:
        return
    together = len(images) > 1 or not alone
    if visit.image_by_image or (visit.repeats and not together):
        return
    image = beside(network, images[:1].detach())
    state = tried.state_of(network, image)
    _visits.trying = True
    try:
        if not tried.is_known(network, state, together=together):
            if not together:
                telling = check_repeats(network, image)
            else:
                coarse = computes_coarsely(network) or precision_now() != "float32"
                telling = check_image_by_image(network, image, lambda: coarse or visit.watch.coarse)
            if telling and state == tried.state_of(network, image):
                tried.remember(network, state, together=together)
        visit.repeats = True
        visit.image_by_image |= together
    finally:
        _visits.trying = False


def being_tried() -> bool:
    """Whether the pass that runs now is one of those that `checked_evaluation` tries a network with."""
    return _visits.trying


def check_images(images: Tensor) -> Tensor:
    """The images as a plain batch (B, C, H, W) without history; one image (C, H, W) is a batch of one.

    They lie contiguously in memory, whatever their layout was: what a network answers can depend on it, where steps
    in place follow `contiguous()` (a copy of some layouts, another name for others).

    Raises:
        ValueError: no floating point tensor of one of these shapes, no image, or values that are not finite.

    Example:
        >>> check_images(torch.rand(3, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """
    if not isinstance(images, Tensor) or images.dim() not in (3, 4) or not images.is_floating_point():
        raise ValueError(
            f"images must be a floating point tensor (B, C, H, W), or one image (C, H, W), got {_described(images)}"
        )
    if images.numel() == 0:
        raise ValueError(f"images must hold at least one image, got {_described(images)}")
    images = _plain(images)
    if not torch.isfinite(images).all():
        raise ValueError("images must be finite, got NaN or infinity")
    return (images[None] if images.dim() == 3 else images).contiguous()


def check_question(images: Tensor, targets: Tensor | int) -> tuple[Tensor, Tensor]:
    """The images as a plain batch without history and a target for each, or a ValueError.

    Public functions stand under `@torch.inference_mode(False)`: a validation loop may ask from inside inference mode.

    Args:
        images: (B, C, H, W), or one image (C, H, W); floating point, finite.
        targets: the class asked about in each image: whole numbers (B,), or one number for all images.

    Returns:
        images (B, C, H, W) detached and targets (B,) int64 on the images' device.

    Example:
        >>> images, targets = check_question(torch.rand(2, 3, 8, 8), 5)
        >>> targets
        tensor([5, 5])
    """
    images = check_images(images)
    if isinstance(targets, Integral) and not isinstance(targets, bool):
        targets = torch.tensor(int(targets))
    if isinstance(targets, Tensor) and targets.dim() == 0:
        targets = targets.expand(len(images))
    if not isinstance(targets, Tensor) or targets.dim() != 1 or len(targets) != len(images):
        raise ValueError(
            f"targets must be a class number, or a tensor ({len(images)},), one class an image, "
            f"got {_described(targets)}"
        )
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be whole numbers (class indices), got {_described(targets)}")
    return images, _plain(targets).to(images.device, torch.int64)


def check_logits(logits: Tensor, count: int) -> Tensor:
    """The network's answer, or a ValueError when it is not (count, K) finite logits."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != count:
        raise ValueError(
            f"network must return logits ({count}, K) for {count} images, got {_described(logits)}"
        )
    if capturing():  # looked at when the recording is replayed
        return logits
    values = logits.detach()
    if not torch.isfinite(values).all():
        raise ValueError("network returned logits that are NaN or infinite")
    if values.shape[1] > 1:
        if values.min() >= 0 and bool(((values.sum(1) - 1).abs() < 1e-4).all()):
            raise ValueError(
                "network must return logits, got values in [0, 1] that sum to 1 in every row: "
                "explain the network without its final softmax"
            )
        if values.max() < 0 and bool((values.logsumexp(1).abs() < 1e-4).all()):
            raise ValueError(
                "network must return logits, got log-probabilities: "
                "explain the network without its final log_softmax"
            )
    return logits


def target_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each image's target class, (B,), after both were checked."""
    check_targets(targets, check_logits(logits, len(targets)).shape[1])
    return logits.gather(1, targets[:, None])[:, 0]


def check_targets(targets: Tensor, classes: int) -> None:
    """Refuse targets (B,) that are no classes of the network."""
    if not capturing() and (targets.min() < 0 or targets.max() >= classes):
        raise ValueError(f"targets must be classes in 0..{classes - 1}, got {targets.min()}..{targets.max()}")


def capturing() -> bool:
    """Whether a GPU's work is only being written down, for a CUDA graph: no value can be read then."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def scores(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The logit of the target class without gradient, (B,); the network must be in evaluation mode."""
    with torch.no_grad():
        return target_logits(logits_of_images(network, images), targets)


def logits_of_images(network: nn.Module, images: Tensor) -> Tensor:
    """The logits (B, K) where the images lie, computed where the network lies."""
    return network(beside(network, images)).to(images.device)


def check_positive(**options: float) -> None:
    """Refuse an option that is not a finite number above zero."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def check_count(**options: int) -> None:
    """Refuse an option that is not a whole number of at least one."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def seeded(generator: torch.Generator | None) -> torch.Generator:
    """The generator, or a fresh one with seed 0: the same map twice unless randomness is asked for."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:80]
