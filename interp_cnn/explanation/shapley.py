"""Shapley values: each window's average gain in the logit when it is uncovered, over all orders of uncovering.

    phi_i = mean over orders pi of  F(image where i and all before i in pi are uncovered) - F(the same without i)

The rest shows the baseline. The only shares that are complete, symmetric, linear and give nothing to a window without
influence (Shapley 1953; Lundberg & Lee 2017, arXiv 1705.07874) and the most expensive ones, so they are sampled:
every order drawn is also walked backwards, which cancels much of the noise (antithetic pairs; Mitchell et al. 2022,
arXiv 2104.12199), and the standard error over pairs says when to stop. With few windows all subsets are evaluated
and the values are exact. The network answers for all classes, so all classes have their values.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_cnn.explanation.baselines import Baseline, reference_images
from interp_cnn.explanation.network.logits import (
    check_count,
    check_logits,
    check_positive,
    check_question,
    checked_evaluation,
    target_logits,
)
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.explanation.network.randomness import drawn_seed

Features = int | tuple[int, int] | Tensor | None


@dataclass(frozen=True)
class ShapleyEstimate:
    """Shapley values of P windows for every class.

    Attributes:
        values: (B, K, P), logits; over the windows they sum to F(image) - F(baseline).
        standard_error: (B, K, P); zero where the values are exact.
        features: (C, H, W) int64, the window 0..P-1 of each entry of the image.
        orders: (B,) int64, orders walked for each image and baseline; zero where the values are exact.
    """

    values: Tensor
    standard_error: Tensor
    features: Tensor
    orders: Tensor

    def maps(self, classes: Tensor) -> Tensor:
        """The values of one class an image (B,), spread evenly over the entries of each window: (B, C, H, W)."""
        values = self.values[torch.arange(len(classes), device=classes.device), classes]  # (B, P)
        size = torch.bincount(self.features.flatten(), minlength=values.shape[1])
        return (values / size)[:, self.features]


@torch.inference_mode(False)
@chosen_precision()
def shapley_values(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    *,
    baseline: Baseline = "zero",
    features: Features = None,
    orders: int = 50,
    tolerance: float = 0.05,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Shapley values of windows, spread over their pixels; the map sums to F(image) - F(baseline).

    Arguments as in `shapley_estimate`, which also gives the standard errors and all classes.

    Returns:
        (B, C, H, W), in units of the logit.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> shapley_values(network, torch.rand(3, 8, 8), 2, features=4).shape
        torch.Size([1, 3, 8, 8])
    """
    images, targets = check_question(images, targets)
    estimate = shapley_estimate(
        network, images, targets, baseline=baseline, features=features, orders=orders, tolerance=tolerance,
        generator=generator, batch_size=batch_size,
    )  # fmt: skip
    return estimate.maps(targets)


@torch.inference_mode(False)
@chosen_precision()
def shapley_estimate(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | int,
    *,
    baseline: Baseline = "zero",
    features: Features = None,
    orders: int = 50,
    tolerance: float = 0.05,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> ShapleyEstimate:
    """Shapley values with their standard errors.

    Args:
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W), or one image (C, H, W).
        targets: (B,) classes, or one for all images, that decide when an image's values are good enough.
        baseline: what a covered window shows, see `reference_images`; several are averaged.
        features: side of the square windows or (height, width), all colours together; or a map of whole numbers
            (H, W) or (C, H, W) that names each entry's window 0..P-1; by default about 14 x 14 squares.
        orders: most orders for an image, each pair counted as two.
        tolerance: an image is done when its largest standard error is below this share of its largest value.
        generator: draws a seed for the orders, which are the same for all images; without one it is always the same.
        batch_size: images in one pass.
    """
    check_count(orders=orders, batch_size=batch_size)
    check_positive(tolerance=tolerance)
    images, targets = check_question(images, targets)
    features = _features(features, images)
    seed = drawn_seed(generator)
    count = int(features.max()) + 1
    estimates = []
    with checked_evaluation(network, images), torch.no_grad():
        logits = check_logits(network(images[:1]), 1)
        target_logits(logits.expand(len(images), -1), targets)  # refuses what is no class before the long run
        for number, reference in enumerate(reference_images(images, baseline)):
            game = _Game(network, images, reference.expand_as(images), features, batch_size)
            if 2**count <= orders * count:
                estimates.append(_exact(game, count))
            else:
                orders_of = torch.Generator().manual_seed((seed + number) % 2**63)
                estimates.append(_sampled(game, targets, count, math.ceil(orders / 2), tolerance, orders_of))
    values, variances, walked = (torch.stack(parts) for parts in zip(*estimates, strict=True))
    error = variances.sum(0).sqrt() / len(variances)  # of a mean of independent estimates
    return ShapleyEstimate(values.mean(0), error, features, walked.sum(0))


@dataclass
class _Game:
    """The logits of images of which only some windows are uncovered."""

    network: nn.Module
    images: Tensor
    covered: Tensor
    features: Tensor
    batch_size: int

    def logits(self, which: Tensor, count: int, uncovered: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits (images, count, K); `uncovered` says for coalitions k which windows are seen, (len(k), P) bool."""
        pairs = torch.cartesian_prod(which, torch.arange(count, device=which.device))
        logits = []
        for part in pairs.split(self.batch_size):
            seen = uncovered(part[:, 1])[:, self.features]  # (part, C, H, W)
            shown = torch.where(seen, self.images[part[:, 0]], self.covered[part[:, 0]])
            logits.append(check_logits(self.network(shown), len(part)))
        return torch.cat(logits).unflatten(0, (len(which), count))


def _exact(game: _Game, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """All 2^P subsets, each weighted by the share of orders it is met in."""
    B, device = len(game.images), game.images.device
    subsets = torch.arange(2**count, device=device)
    members = (subsets[:, None] >> torch.arange(count, device=device)) & 1 == 1  # (2^P, P)
    logits = game.logits(torch.arange(B, device=device), 2**count, lambda k: members[k])  # (B, 2^P, K)
    size = members.sum(1)
    weights = [
        math.factorial(s) * math.factorial(count - s - 1) / math.factorial(count) for s in range(count)
    ]
    weights = torch.tensor(weights, dtype=logits.dtype, device=device)
    values = []
    for i in range(count):
        without = subsets[~members[:, i]]
        gains = logits[:, without | (1 << i)] - logits[:, without]
        values.append((gains * weights[size[without]][:, None]).sum(1))
    values = torch.stack(values, dim=2)  # (B, K, P)
    return values, torch.zeros_like(values), torch.zeros(B, dtype=torch.int64, device=device)


def _sampled(
    game: _Game, targets: Tensor, count: int, pairs: int, tolerance: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Orders in antithetic pairs until the standard error is small; mean, squared standard error, orders walked."""
    B, device = len(game.images), game.images.device
    pending = torch.arange(B, device=device)
    ends = [game.logits(pending, 1, lambda k, shown=shown: torch.full((len(k), count), shown, device=device))
            for shown in (False, True)]  # fmt: skip
    mean, squares = ends[0].new_zeros(
        2, B, ends[0].shape[2], count
    )  # running mean, sum of squared deviations
    walked = torch.zeros(B, dtype=torch.int64, device=device)
    for n in range(1, pairs + 1):
        order = torch.randperm(count, generator=generator, device=generator.device).to(device)
        gains = (_walked(game, pending, order, ends) + _walked(game, pending, order.flip(0), ends)) / 2
        deviation = gains - mean[pending]
        mean[pending] += deviation / n
        squares[pending] += deviation * (gains - mean[pending])
        walked[pending] += 2
        if n >= 4:
            rows = targets[pending][:, None, None].expand(-1, 1, count)
            error = (squares[pending].gather(1, rows) / (n * (n - 1))).sqrt().amax((1, 2))
            pending = pending[error > tolerance * mean[pending].gather(1, rows).abs().amax((1, 2))]
        if len(pending) == 0:
            break
    done = (walked // 2)[:, None, None]
    variance = squares / (done * (done - 1)) if pairs > 1 else torch.full_like(squares, float("inf"))
    return mean, variance, walked


def _walked(game: _Game, which: Tensor, order: Tensor, ends: list[Tensor]) -> Tensor:
    """The gain of every window when it is uncovered in this order, (images, K, P)."""
    count = len(order)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(count, device=order.device)
    between = game.logits(which, count - 1, lambda k: rank <= k[:, None])  # k + 1 windows uncovered
    steps = torch.cat([ends[0][which], between, ends[1][which]], dim=1).diff(dim=1)  # (images, P, K)
    return steps[:, rank].transpose(1, 2)


def default_windows(size: tuple[int, int]) -> int:
    """How many windows an image of size (H, W) has where none are given."""
    side = _default_side(size)
    return math.ceil(size[0] / side) * math.ceil(size[1] / side)


def _default_side(size: tuple[int, int]) -> int:
    return max(1, math.ceil(min(size) / 14))


def _features(features: Features, images: Tensor) -> Tensor:
    """The window 0..P-1 of each entry, (C, H, W)."""
    C, H, W = images.shape[1:]
    if isinstance(features, Tensor):
        whole = not (features.is_floating_point() or features.is_complex() or features.dtype == torch.bool)
        if not whole or features.shape not in ((H, W), (C, H, W)):
            raise ValueError(f"features must be whole numbers ({H}, {W}) or ({C}, {H}, {W}), got {features.dtype} "
                             f"{tuple(features.shape)}")  # fmt: skip
        features = features.to(images.device, torch.int64).expand(C, H, W)
        if not torch.equal(features.unique().cpu(), torch.arange(int(features.max()) + 1)):
            raise ValueError("features must name windows 0..P-1, each at least once")
        return features
    if features is None:
        features = _default_side((H, W))
    height, width = (features, features) if isinstance(features, int) else features
    check_count(features=height)
    check_count(features=width)
    rows = torch.arange(H, device=images.device) // height
    columns = torch.arange(W, device=images.device) // width
    return (rows[:, None] * (int(columns[-1]) + 1) + columns).expand(C, H, W)
