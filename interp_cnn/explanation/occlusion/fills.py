"""What replaces hidden pixels.

The replacement decides what "absent" means, and the maps depend on it: T. Eriksson (Lund 2020) compares constants
with altered pixels, Y. Rong et al., "A consistent and efficient evaluation strategy for attribution methods"
(ICML 2022) show that a constant patch betrays its own shape and fill in from the neighbours instead.

A `Fill` gives replacement values for images and a mask of hidden pixels. Most fills do not look at the mask: one
replacement image then serves every window. A fill with several samples is drawn several times and its drops are
averaged; the draws depend on the seed of the generator only, never on how windows are batched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.baselines import blurred
from interp_cnn.explanation.network.precision import chosen_precision

Replace = Callable[[Tensor, Tensor | None, int], Tensor]


@dataclass(frozen=True)
class Fill:
    """A replacement for hidden pixels.

    Attributes:
        name: for tables and files.
        replace: (images (B, C, H, W), hidden (B, 1, H, W) or None, number of the sample) -> (B, C, H, W); only the
            values at hidden pixels are used.
        samples: how often to draw and average.
        reach: None if the values do not depend on which pixels are hidden; else how far from a hidden pixel
            `replace` looks at the image.
    """

    name: str
    replace: Replace
    samples: int = 1
    reach: int | None = None

    @chosen_precision()
    def __call__(self, images: Tensor, hidden: Tensor, sample: int = 0) -> Tensor:
        """Images with the hidden pixels replaced; hidden is (B, 1, H, W) or broadcasts to it."""
        hidden = hidden.expand(len(images), 1, *images.shape[2:])
        return torch.where(hidden, self.replace(images, hidden, sample), images)


def constant(value: float = 0.0) -> Fill:
    """One number for all pixels and channels."""
    return Fill(f"constant {value:g}", lambda images, hidden, sample: torch.full_like(images, value))


def per_channel(values: Sequence[float], name: str = "per channel") -> Fill:
    """One number per channel; the mean of a data set, for instance."""
    values = tuple(float(value) for value in values)

    def replace(images: Tensor, hidden: Tensor | None, sample: int) -> Tensor:
        if images.shape[1] != len(values):
            raise ValueError(
                f"values of the fill must be one per channel ({images.shape[1]}), got {len(values)}"
            )
        return images.new_tensor(values)[None, :, None, None].expand_as(images)

    return Fill(name, replace)


def image_mean() -> Fill:
    """Each image's own mean per channel."""
    return Fill(
        "image mean", lambda images, hidden, sample: images.mean((2, 3), keepdim=True).expand_as(images)
    )


def dataset_mean(mean: Sequence[float]) -> Fill:
    """The data set's mean per channel (the `mean` attribute of our data sets)."""
    return per_channel(mean, "data-set mean")


def blur(kernel: int = 11, sigma: float = 5.0) -> Fill:
    """The image blurred by a Gaussian; the defaults are those of RISE (Petsiuk et al., BMVC 2018)."""
    if kernel < 1 or kernel % 2 == 0 or sigma <= 0:
        raise ValueError(f"blur needs an odd kernel and a positive sigma, got kernel={kernel}, sigma={sigma}")

    def replace(images: Tensor, hidden: Tensor | None, sample: int) -> Tensor:
        return blurred(images, sigma, radius=kernel // 2)

    return Fill(f"blur {kernel}/{sigma:g}", replace)


def noise(
    low: float = 0.0, high: float = 1.0, *, samples: int = 4, generator: torch.Generator | None = None
) -> Fill:
    """Uniform noise, the same for every image, averaged over the samples."""
    seeds = _seeds(samples, generator)

    def replace(images: Tensor, hidden: Tensor | None, sample: int) -> Tensor:
        drawn = torch.rand(images.shape[1:], generator=_generator(seeds[sample]), dtype=torch.float64)
        return (low + (high - low) * drawn).to(images).expand_as(images)

    return Fill("noise", replace, samples)


def other_images(pool: Tensor, *, samples: int = 4, generator: torch.Generator | None = None) -> Fill:
    """The same place of other images: (N, C, H, W), of which `samples` are drawn."""
    if pool.ndim != 4 or len(pool) < samples:
        raise ValueError(f"pool must be (N, C, H, W) with at least {samples} images, got {tuple(pool.shape)}")
    chosen = torch.randperm(len(pool), generator=_generator(_seeds(1, generator)[0]))[:samples]

    def replace(images: Tensor, hidden: Tensor | None, sample: int) -> Tensor:
        if pool.shape[1:] != images.shape[1:]:
            raise ValueError(f"pool must hold images like the occluded ones, got {tuple(pool.shape[1:])}")
        return pool[chosen[sample]].to(images).expand_as(images)

    return Fill("other images", replace, samples)


def inverted(maximum: float = 1.0) -> Fill:
    """Maximum - x: the pixel altered as far as it goes ("alternated" in Eriksson's thesis)."""
    return Fill("inverted", lambda images, hidden, sample: maximum - images)


def shuffled(*, samples: int = 4, generator: torch.Generator | None = None) -> Fill:
    """The hidden pixels change places among themselves: the colours stay, the structure goes."""
    seeds = _seeds(samples, generator)

    def replace(images: Tensor, hidden: Tensor | None, sample: int) -> Tensor:
        number, channels, height, width = images.shape
        keys = torch.rand(height * width, generator=_generator(seeds[sample]), dtype=torch.float64).to(
            images.device
        )
        assert hidden is not None  # its values depend on what is hidden
        chosen = hidden.expand(number, 1, height, width).flatten(1)
        last = torch.full_like(keys, 2.0)
        by_key = torch.where(chosen, keys, last).argsort(dim=1, stable=True)
        by_place = torch.where(chosen, torch.linspace(0, 1, len(keys)).to(keys), last).argsort(
            dim=1, stable=True
        )
        source = torch.empty_like(by_key).scatter_(1, by_place, by_key)
        return images.flatten(2).gather(2, source[:, None].expand(-1, channels, -1)).view_as(images)

    return Fill("shuffled", replace, samples, reach=0)


def neighbours(*, tolerance: float = 1e-6) -> Fill:
    """Each hidden pixel is the weighted mean of its eight neighbours (1/6 beside, 1/12 across the corner).

    The linear imputation of ROAD (Rong et al., ICML 2022) without its noise: the hidden region becomes the smooth
    surface that its border spans. Solved by conjugate gradients for all images at once. An image that is hidden
    everywhere gets its own mean.
    """

    def replace(images: Tensor, hidden: Tensor | None, sample: int) -> Tensor:
        number, channels, height, width = images.shape
        assert hidden is not None  # its values depend on what is hidden
        chosen = hidden.expand(number, 1, height, width).to(images)
        weights = images.new_tensor([[1, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
        kernel = weights.expand(channels, 1, 3, 3).contiguous()
        total = F.conv2d(torch.ones_like(images[:1]), kernel, padding=1, groups=channels)

        def operator(values: Tensor) -> Tensor:  # the graph Laplacian among hidden pixels
            return chosen * (total * values - F.conv2d(values, kernel, padding=1, groups=channels))

        start = images.mean((2, 3), keepdim=True)
        known = torch.where(chosen > 0, start, images)
        bordered = (chosen == 0).any(3, keepdim=True).any(2, keepdim=True)  # else nothing spans the surface
        solution, residual = torch.zeros_like(images), -operator(known) * bordered
        direction, norm = residual, residual.square().sum((1, 2, 3), keepdim=True)
        enough = tolerance**2 * norm + 1e-30
        for _ in range(4 * (height + width) + 50):
            if bool((norm <= enough).all()):
                break
            image = operator(direction)
            curvature = (direction * image).sum((1, 2, 3), keepdim=True)
            step = torch.where(norm > enough, norm / curvature.clamp(min=1e-30), 0.0)
            solution, residual = solution + step * direction, residual - step * image
            following = residual.square().sum((1, 2, 3), keepdim=True)
            direction, norm = residual + following / norm.clamp(min=1e-30) * direction, following
        return known + solution

    return Fill("neighbours", replace, reach=1)


def custom(function: Callable[[Tensor, Tensor], Tensor], name: str = "custom") -> Fill:
    """Your own function of (images (B, C, H, W), hidden (B, 1, H, W) bool) -> replacement values (B, C, H, W).

    It is given whole images, once per batch of windows.
    """

    def replace(images: Tensor, hidden: Tensor | None, sample: int) -> Tensor:
        assert hidden is not None  # its values may depend on what is hidden
        return function(images, hidden)

    return Fill(name, replace, reach=1_000_000)


def as_fill(fill: float | Tensor | Fill | Callable[[Tensor, Tensor], Tensor]) -> Fill:
    """A fill from a number, a tensor that broadcasts to the images, a function, or a fill.

    Raises:
        ValueError: anything else.
    """
    if isinstance(fill, Fill):
        return fill
    if isinstance(fill, Tensor):
        return Fill("tensor", lambda images, hidden, sample: _broadcast(fill, images))
    if isinstance(fill, (int, float)) and not isinstance(fill, bool):
        return constant(float(fill))
    if callable(fill):
        return custom(fill)
    raise ValueError(f"fill must be a number, a tensor, a Fill or a function, got {fill!r}")


def _broadcast(values: Tensor, images: Tensor) -> Tensor:
    try:
        return values.to(images).expand_as(images)
    except RuntimeError:
        raise ValueError(
            f"fill must broadcast to images {tuple(images.shape)}, got {tuple(values.shape)}"
        ) from None


def _seeds(samples: int, generator: torch.Generator | None) -> list[int]:
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    generator = generator or torch.Generator().manual_seed(0)
    return torch.randint(2**62, (samples,), generator=generator).tolist()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
