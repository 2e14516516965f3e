"""Does a network answer for each image by itself, and for the same image the same?

Maps of several images come from passes of several images, and most methods send altered copies of one image through
the network together. Where the network compares the images of a batch with each other (`x - x.mean()`), or draws
numbers, such maps are wrong without a word. Whether it does is tried before: one image alone, and once behind a
companion, whose pixels lie further apart, so that every statistic of the batch is another one; alone a second time only
where the two answers differ. That costs three images' passes for a network in one state (`tried`), which counts of
passes leave out.
"""

import copy
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.refusals import Refusal

log = logging.getLogger(__name__)

ALONE_OR_NOT = 1e-3  # of the largest logit; rounding in batches of other sizes stays far below
COARSE = 5e-2  # the same where the network computes in 16 or 8 bits
REPEATED = {"cpu": 1e-5}  # the same pass twice: the same bits
REPEATED_ELSEWHERE = 1e-3  # sums of many threads round differently each time


def check_repeats(network: nn.Module, image: Tensor) -> bool:
    """Refuse a network that answers at random.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        image: (1, C, H, W), asked about twice.

    Returns:
        True: every answer to come from this network will do as well.

    Raises:
        Refusal: two answers for the same image.
    """
    with torch.no_grad(), _own_draws(image):
        _check_alike(network(image), network(image), image)
    return True


def check_image_by_image(network: nn.Module, image: Tensor, coarse: Callable[[], bool]) -> bool:
    """Refuse a network that answers at random, or whose answer for one image depends on the others of the batch.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        image: (1, C, H, W).
        coarse: whether the network computes in 16 or 8 bits, asked after it ran.

    Returns:
        Whether the answer tells something of other images: no, where all pixels are one or the network does not tell
        the two images apart.

    Raises:
        Refusal: it does.
    """
    low, high = image.amin(), image.amax()
    companion = 2 * image - (3 * low + high) / 4
    with torch.no_grad(), _own_draws(image):
        alone = network(image)
        if not isinstance(alone, Tensor) or alone.dim() != 2:
            _check_alike(alone, network(image), image)
            return False  # no logits: said by whoever asks for them
        alone = alone.clone()  # it may hand out memory that it writes into again
        together = network(torch.cat([companion, image]))
        if not isinstance(together, Tensor) or together.shape != (2, alone.shape[1]):
            shape = tuple(together.shape) if isinstance(together, Tensor) else type(together).__name__
            _check_alike(alone, network(image), image)
            raise Refusal(f"network must return logits (2, {alone.shape[1]}) for 2 images, got {shape}")
        apart = _apart(alone, together[1:])
        if not apart <= REPEATED["cpu"]:
            _check_alike(alone, network(image), image)
    is_coarse = coarse()
    if apart > (COARSE if is_coarse else ALONE_OR_NOT):
        away = f"beside another image the logits of the first one are {apart:.2g} away (as a share of the largest)"
        if not is_coarse and _only_by_rounding(network, torch.cat([companion, image])):
            log.warning(
                "%s from those it has alone, in double precision they are not: two values of a maximum, or two "
                "places of a mask, are as good as equal in this image, and rounding, which differs between batches, "
                "chooses",
                away,
            )
            return False
        raise Refusal(
            f"network mixes the images of a batch: {away} from those it has alone; "
            "methods that send one image at a time through it answer with batch_size=1"
        )
    return bool(low < high) and _apart(*together.split(1)) > ALONE_OR_NOT


def _check_alike(first: object, second: object, image: Tensor) -> None:
    apart = _apart(first, second)
    if apart > REPEATED.get(image.device.type, REPEATED_ELSEWHERE):
        raise Refusal(
            f"network answers at random in evaluation mode: the same image twice gives logits "
            f"{apart:.2g} apart (as a share of the largest), so no map of it can be trusted"
        )


def _own_draws(image: Tensor) -> AbstractContextManager:
    return torch.random.fork_rng([image.device] if image.is_cuda else [])


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


def _apart(first: object, second: object) -> float:
    """The largest difference of two answers as a share of the largest logit; 0 where they cannot be compared."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or first.shape != second.shape:
        return 0.0
    first, second = first.detach().double(), second.detach().double()
    scale = torch.maximum(first.abs().max(), second.abs().max())
    apart = (first - second).abs().max() / scale.clamp_min(1e-30)
    return float(apart) if torch.isfinite(apart) else 0.0
