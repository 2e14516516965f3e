"""Does a network answer for each image by itself, and for the same image the same?

Maps of several images come from passes of several images, and most methods send altered copies of one image through
the network together. Where the network compares the images of a batch with each other (`x - x.mean()`), or draws
numbers, such maps are wrong without a word. Whether it does is tried before: one image alone twice, and once behind
a companion, whose pixels lie further apart, so that every statistic of the batch is another one. That costs four
images' passes a call, which counts of passes leave out. Before a network is refused, a copy of it in double precision
says whether it compares images, or whether rounding, which differs between batches, chose otherwise among equals.
"""

import copy
import logging

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.refusals import Refusal

log = logging.getLogger(__name__)

ALONE_OR_NOT = 1e-3  # of the largest logit; rounding in batches of other sizes stays far below
COARSE = 5e-2  # the same where the network computes in 16 or 8 bits
REPEATED = {"cpu": 1e-5}  # the same pass twice: the same bits
REPEATED_ELSEWHERE = 1e-3  # sums of many threads round differently each time


def check_repeats(network: nn.Module, image: Tensor) -> Tensor:
    """The network's answer for one image (1, C, H, W), after it gave the same answer twice.

    Raises:
        Refusal: the network answers at random.
    """
    with torch.no_grad(), torch.random.fork_rng([image.device] if image.is_cuda else []):
        first, second = network(image), network(image)
    allowed = REPEATED.get(image.device.type, REPEATED_ELSEWHERE)
    if _apart(first, second) > allowed:
        raise Refusal(
            f"network answers at random in evaluation mode: the same image twice gives logits "
            f"{_apart(first, second):.2g} apart (as a share of the largest), so no map of it can be trusted"
        )
    return first


def check_image_by_image(network: nn.Module, image: Tensor, alone: Tensor, *, coarse: bool) -> None:
    """Refuse a network whose answer for one image depends on the others of the batch.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        image: (1, C, H, W).
        alone: the network's answer for it.
        coarse: whether the network computes in 16 or 8 bits.

    Raises:
        Refusal: it depends.
    """
    if not isinstance(alone, Tensor) or alone.dim() != 2:
        return  # no logits: said by whoever asks for them
    low, high = image.amin(), image.amax()
    companion = 2 * image - (3 * low + high) / 4
    with torch.no_grad():
        together = network(torch.cat([companion, image]))
    if not isinstance(together, Tensor) or together.shape != (2, alone.shape[1]):
        found = tuple(together.shape) if isinstance(together, Tensor) else type(together).__name__
        raise Refusal(f"network must return logits (2, {alone.shape[1]}) for 2 images, got {found}")
    apart = _apart(alone, together[1:])
    if apart <= (COARSE if coarse else ALONE_OR_NOT):
        return
    away = (
        f"beside another image the logits of the first one are {apart:.2g} away (as a share of the largest)"
    )
    if not coarse and _only_by_rounding(network, torch.cat([companion, image])):
        log.warning(
            "%s from those it has alone, in double precision they are not: two values of a maximum, or two places of "
            "a mask, are as good as equal in this image, and rounding, which differs between batches, chooses",
            away,
        )
        return
    raise Refusal(
        f"network mixes the images of a batch: {away} from those it has alone; "
        "methods that send one image at a time through it answer with batch_size=1"
    )


def _only_by_rounding(network: nn.Module, images: Tensor) -> bool:
    """Whether a copy of the network in double precision answers for the last image alone as beside the others."""
    if images.device.type == "mps":  # has no double precision
        return False
    try:
        exact, images = copy.deepcopy(network).double(), images.double()
        with torch.no_grad():
            alone, together = exact(images[-1:]), exact(images)
    except Exception:  # whatever keeps a network of others from being copied, or from another number type
        return False
    return alone.dtype == torch.float64 and _apart(alone, together[-1:]) <= ALONE_OR_NOT


def _apart(first: Tensor, second: Tensor) -> float:
    """The largest difference of two answers as a share of the largest logit; 0 where they cannot be compared."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or first.shape != second.shape:
        return 0.0
    first, second = first.detach().double(), second.detach().double()
    scale = torch.maximum(first.abs().max(), second.abs().max())
    apart = (first - second).abs().max() / scale.clamp_min(1e-30)
    return float(apart) if torch.isfinite(apart) else 0.0
