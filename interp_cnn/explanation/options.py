"""What relevance methods can be asked differently, in words that a command line can carry."""

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_cnn.explanation import fills
from interp_cnn.explanation.fills import Fill
from interp_cnn.explanation.reference_images import Baseline, reference_images

_DRAWN_FILLS = {
    "inverted": lambda generator: fills.inverted(),
    "neighbours": lambda generator: fills.neighbours(),
    "noise": lambda generator: fills.noise(generator=generator),
    "shuffled": lambda generator: fills.shuffled(generator=generator),
}


@dataclass(frozen=True)
class Options:
    """What the methods can be asked differently.

    Attributes:
        window: side of the occluding square: pixels (a whole number) or a share of the image's shorter side.
        stride: its step, likewise.
        fill: what hides: a baseline, see `reference_images`, or `inverted`, `neighbours`, `noise` or `shuffled`, see
            `fills`; None: black for grey images, the image's mean colour for others.
        baseline: what integrated gradients, DeepLIFT and Shapley values compare the image with.
        layer: of Grad-CAM; None: the last feature maps.
        batch_size: images in one pass.
        seed: of the methods that draw.
    """

    window: int | float = 0.17
    stride: int | float = 0.04
    fill: Baseline | None = None
    baseline: Baseline = "zero"
    layer: str | None = None
    batch_size: int = 32
    seed: int = 0


def window_of(options: Options, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and stride in pixels, (rows, columns) each, for images of size (H, W).

    Shares are of the shorter side; a window given as a share is stretched a little, so that the last window ends
    where the image ends.
    """
    stride = _pixels(options.stride, min(size), "stride")
    window = _pixels(options.window, min(size), "window")
    if isinstance(options.window, int):
        return (window, window), (stride, stride)
    heights = [side - stride * round((side - window) / stride) for side in size]
    rows, columns = (max(1, side if side >= 1 else side + stride) for side in heights)
    return (rows, columns), (stride, stride)


def _pixels(value: int | float, side: int, name: str) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (whole and value >= 1) or (isinstance(value, float) and 0 < value < 1):
        return value if whole else max(1, round(value * side))
    raise ValueError(
        f"{name} must be pixels (1 or more) or a share of the image (between 0 and 1), got {value!r}"
    )


def occluder_of(images: Tensor, options: Options) -> Fill:
    """What occlusion puts in place of the hidden pixels of these images (B, C, H, W)."""
    if isinstance(options.fill, str) and options.fill in _DRAWN_FILLS:
        return _DRAWN_FILLS[options.fill](torch.Generator().manual_seed(options.seed))
    fill = options.fill
    if fill is None:
        fill = "zero" if images.shape[1] == 1 else "mean"
    try:
        reference_images(images[:1], fill)
    except ValueError as error:
        names = ", ".join(("zero", "mean", "blur", *_DRAWN_FILLS))
        raise ValueError(f"fill must be one of {names}, or a number, got {fill!r}") from error
    return Fill(str(fill), lambda some, hidden, sample: reference_images(some, fill)[0].expand_as(some))
