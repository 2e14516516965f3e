"""What happens when one pixel is changed a little: the plainest question, and a check of the gradient methods.

    single_pixel            f(x + step at one entry) - f(x)                     one forward pass an entry
    sensitivity_check       ((f(x + h) - f(x - h)) / 2h)^2 at some entries      two forward passes an entry

The latter is what `gradients.sensitivity_analysis` must be as h becomes small.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.gradients.gradients import sensitivity_analysis
from interp_cnn.explanation.network.logits import (
    check_count,
    check_logits,
    check_positive,
    check_question,
    checked_evaluation,
    seeded,
    target_logits,
)
from interp_cnn.explanation.network.precision import precision


@dataclass(frozen=True)
class SensitivityCheck:
    """Squared slopes of the target logit at some entries, by back-propagation and by finite differences.

    Attributes:
        entries: (N,) flat positions in (C, H, W), the same for every image.
        sensitivity: (B, N) squared gradients.
        finite: (B, N) squared finite differences.
    """

    entries: Tensor
    sensitivity: Tensor
    finite: Tensor

    @property
    def error(self) -> float:
        """Largest difference, relative to the largest squared gradient of the image."""
        scale = self.sensitivity.amax(1, keepdim=True).clamp_min(torch.finfo(self.sensitivity.dtype).tiny)
        return float(((self.sensitivity - self.finite).abs() / scale).max())


@torch.inference_mode(False)
@precision("float32")
def single_pixel(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    step: float = 0.1,
    colours: str = "each",
    batch_size: int = 64,
) -> Tensor:
    """How much the target logit changes when one pixel becomes brighter by `step`; pixels are not clipped.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        targets: (B,) classes; None: every class, in the same passes.
        step: added to one pixel at a time; may be negative.
        colours: `each` colour of a pixel by itself, or all `together`.
        batch_size: images in one pass.

    Returns:
        (B, C, H, W), or (B, 1, H, W) with all colours together; without targets (B, K, C, H, W) or (B, K, 1, H, W).
    """
    check_positive(step=abs(step))
    if colours not in ("each", "together"):
        raise ValueError(f"colours must be 'each' or 'together', got {colours!r}")
    classes = torch.zeros(len(images), dtype=torch.int64) if targets is None else targets
    images, classes = check_question(images, classes)
    B, C, H, W = images.shape
    parts = C if colours == "each" else 1
    entries = torch.arange(parts * H * W, device=images.device)
    with checked_evaluation(network, images), torch.no_grad():
        logits = check_logits(network(images), B)
        if targets is None:
            moved = _moved_scores(network, images, None, entries, step, parts, batch_size)  # (B, N, K)
            return (moved - logits[:, None]).transpose(1, 2).unflatten(2, (parts, H, W))
        score = target_logits(logits, classes)
        moved = _moved_scores(network, images, classes, entries, step, parts, batch_size)
    return (moved - score[:, None]).reshape(B, parts, H, W)


@torch.inference_mode(False)
@precision("float32")
def sensitivity_check(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    entries: int = 64,
    step: float = 1e-3,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> SensitivityCheck:
    """Sensitivity analysis against finite differences at entries drawn at random.

    A long step crosses kinks of the network, a short one drowns in rounding: in single precision 1e-4 to 1e-3 is
    best, in double precision 1e-6 agrees to many digits.
    """
    check_count(entries=entries)
    check_positive(step=step)
    images, targets = check_question(images, targets)
    sensitivity = sensitivity_analysis(network, images, targets).flatten(1)
    generator = seeded(generator)
    drawn = torch.randperm(sensitivity.shape[1], generator=generator, device=generator.device)[:entries]
    drawn = drawn.sort().values.to(images.device)
    finite = _slopes(network, images, targets, drawn, step, batch_size).square()
    return SensitivityCheck(drawn, sensitivity[:, drawn], finite)


def _slopes(
    network: nn.Module, images: Tensor, targets: Tensor, entries: Tensor, step: float, batch_size: int
) -> Tensor:
    parts = images.shape[1]
    with checked_evaluation(network, images), torch.no_grad():
        target_logits(network(images[:1]), targets[:1])
        up, down = (
            _moved_scores(network, images, targets, entries, signed, parts, batch_size)
            for signed in (step, -step)
        )
    return (up - down) / (2 * step)


def _moved_scores(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    entries: Tensor,
    step: float,
    parts: int,
    batch_size: int,
) -> Tensor:
    """The target logit after a step at each entry, (B, N), without targets all logits (B, N, K); entries are positions
    in (parts, H, W).
    """
    B, C = images.shape[:2]
    pairs = torch.cartesian_prod(
        torch.arange(B, device=images.device), torch.arange(len(entries), device=images.device)
    )
    scores = []
    for part in pairs.split(batch_size):
        moved = images[part[:, 0]].unflatten(1, (parts, C // parts)).transpose(1, 2).flatten(2).clone()
        moved[torch.arange(len(part), device=images.device), :, entries[part[:, 1]]] += step
        moved = moved.unflatten(2, (parts, *images.shape[2:])).transpose(1, 2).flatten(1, 2)
        logits = network(moved)
        scores.append(
            check_logits(logits, len(part)) if targets is None else target_logits(logits, targets[part[:, 0]])
        )
    return torch.cat(scores).unflatten(0, (B, len(entries)))
