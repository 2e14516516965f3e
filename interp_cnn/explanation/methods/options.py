"""What relevance methods can be asked differently, in words that a command line can carry."""

from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from interp_cnn.explanation.baselines import Baseline, reference_images
from interp_cnn.explanation.network.logits import check_count, check_positive
from interp_cnn.explanation.occlusion import fills
from interp_cnn.explanation.occlusion.fills import Fill
from interp_cnn.explanation.occlusion.windows import OVERHANGS, STRIDE, WINDOW, pair, window_in_pixels

_DRAWN_FILLS = {
    "inverted": lambda generator: fills.inverted(),
    "neighbours": lambda generator: fills.neighbours(),
    "noise": lambda generator: fills.noise(generator=generator),
    "shuffled": lambda generator: fills.shuffled(generator=generator),
}


UNITS = (None, "mean_drop", "contribution", "additive")


@dataclass(frozen=True)
class OcclusionOptions:
    """What can be asked of the methods that hide pixels, beside windows and fill.

    Attributes:
        overhang: `none`, `end` or `both`: where windows may reach over the border, see `windows`.
        unit: of `occlusion`: `mean_drop`, `contribution` or `additive`, see `windows`; None: `mean_drop` for one size
            of window, `contribution` for several.
        precision: `float32`, or `bfloat16` (faster; ranks are kept, digits are not).
        occluders: windows in one mask of `occlusion_random`.
        samples: most masks of `occlusion_random` and `rise`.
        tolerance: stop earlier when the median standard error is at most this share of the map's range; None: never.
        cells: side of the grid of `rise`.
        shown: share of the image that its masks show.
        levels: of `occlusion_refined`: the largest windows span 2^levels steps.
        matters: split a large window if its drop is at least this share of the largest.
        audit: estimated windows that are computed after all, for the bound on the error.

    Raises:
        ValueError: an option out of range.
    """

    overhang: str = "end"
    unit: str | None = None
    precision: str = "float32"
    occluders: int = 3
    samples: int = 2048
    tolerance: float | None = 0.02
    cells: int = 7
    shown: float = 0.5
    levels: int = 2
    matters: float = 0.2
    audit: int = 59

    def __post_init__(self) -> None:
        words = {"overhang": OVERHANGS, "unit": UNITS, "precision": ("float32", "bfloat16")}
        for name, known in words.items():
            if getattr(self, name) not in known:
                expected = ", ".join("null" if choice is None else choice for choice in known)
                raise ValueError(f"occlusion.{name} must be one of {expected}, got {getattr(self, name)!r}")
        counts = ("occluders", "samples", "cells", "levels", "audit")
        check_count(**{f"occlusion.{name}": getattr(self, name) for name in counts})
        shares = {f"occlusion.{name}": getattr(self, name) for name in ("shown", "matters")}
        check_positive(**shares, **{"occlusion.tolerance": 1 if self.tolerance is None else self.tolerance})
        if self.shown >= 1:
            raise ValueError(f"occlusion.shown must be below 1, got {self.shown!r}")


@dataclass(frozen=True)
class Options:
    """What the methods can be asked differently.

    Attributes:
        window: side of the occluding square: pixels (a whole number) or a share of the image's shorter side; several
            for maps of several sizes (methods that take one size take the first).
        stride: its step, likewise; one for all sizes, or one for each.
        fill: what hides: a baseline, see `reference_images`, or `inverted`, `neighbours`, `noise` or `shuffled`, see
            `fills`; None: black for grey images, the image's mean colour for others.
        baseline: what integrated gradients, DeepLIFT and Shapley values compare the image with.
        gradients: of integrated gradients, most for one image; what is missing then is said with the map.
        layer: of Grad-CAM; None: the last feature maps.
        batch_size: images in one pass.
        seed: of the methods that draw.
        occlusion: further options of the methods that hide pixels.
    """

    window: int | float | tuple[int | float, ...] = WINDOW
    stride: int | float | tuple[int | float, ...] = STRIDE
    fill: Baseline | None = None
    baseline: Baseline = "zero"
    gradients: int = 729
    layer: str | None = None
    batch_size: int = 32
    seed: int = 0
    occlusion: OcclusionOptions = field(default_factory=OcclusionOptions)


def each_window(options: Options) -> list[Options]:
    """The options for each size of window, one after the other."""
    windows = options.window if isinstance(options.window, tuple) else (options.window,)
    strides = options.stride if isinstance(options.stride, tuple) else (options.stride,) * len(windows)
    if not windows or len(windows) != len(strides):
        raise ValueError(
            f"stride must be one number, or one for each of the {len(windows)} windows, got {strides}"
        )
    return [replace(options, window=w, stride=s) for w, s in zip(windows, strides, strict=True)]


def window_of(options: Options, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and stride in pixels, (rows, columns) each, for images of size (H, W); options of one window.

    Shares are of the shorter side; a window given as a share is stretched a little, so that the last window ends
    where the image ends.
    """
    side, step = cast("int | float", options.window), cast("int | float", options.stride)
    window, strides = window_in_pixels(side, step, size)
    assert not isinstance(window, Tensor)  # options know no shapes
    return pair(window, "window"), strides


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


def occlusion_options(section: dict) -> tuple[tuple, tuple, OcclusionOptions]:
    """Several windows and their steps (empty for one), and the other options, from a configuration's section.

    Raises:
        ValueError: an option out of range.
    """
    section, several = dict(section), []
    for name in ("windows", "strides"):
        values = section.pop(name, None)
        if values is not None and (not isinstance(values, list) or not values):
            raise ValueError(f"occlusion.{name}={values}: expected a list such as [0.1,0.2,0.4], or null")
        several.append(tuple(values or ()))
    return several[0], several[1], OcclusionOptions(**section)


def windows_in_words(options: Options, size: tuple[int, int] | None) -> str:
    """The windows and their steps, in pixels where the size (H, W) of the images is known."""
    words = []
    for window_options in each_window(options):
        if size is None:
            window, stride = window_options.window, window_options.stride
            sides = f"window {window:g}, stride {stride:g} (pixels, or shares of the shorter side)"
        else:
            (height, width), (step, _) = window_of(window_options, size)
            sides = f"windows of {height} x {width} pixels, every {step} pixels"
        words.append(sides)
    return " and ".join(words)
