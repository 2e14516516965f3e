"""Colours: two themes, and colour maps from values to RGB.

A colour map here is monotone in luminance, so a figure printed in grey keeps its order: in the signed maps
the neutral value is a mid grey, support is lighter and opposition darker (a usual red-white-green map sends
+1 and -1 to the same grey). Signed maps: `green-red` (green supports, red speaks against) and `orange-blue`,
which every common form of colour blindness tells apart. `heat` runs from dark to light for values that start
at zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class Theme:
    """Ink and paper of a chart, and the colours of its series (Okabe and Ito 2008, lightened on dark
    paper).
    """

    paper: str
    ink: str
    faint: str
    grid: str
    series: tuple[str, ...]
    markers: tuple[str, ...] = ("o", "D", "s", "^")


LIGHT = Theme("#ffffff", "#1d2430", "#5b6675", "#dfe4ea", ("#0067a8", "#c65200", "#007d5c", "#a3487f"))
DARK = Theme("#171c24", "#e8ecf1", "#9aa6b5", "#323b48", ("#58b3ec", "#f0933f", "#3cc29b", "#dd8fbd"))

_STOPS = {
    "heat": ["#120c2c", "#3c1361", "#7a2073", "#b93266", "#e8594a", "#f98f3c", "#fcc75d", "#fbf7c0"],
    "green-red": ["#7a0014", "#b3202a", "#bb5f56", "#8e8e8e", "#82b579", "#74d266", "#7bfa6a"],
    "orange-blue": ["#04246b", "#224a97", "#5672a3", "#8e8e8e", "#c9a263", "#edb24a", "#ffd052"],
}
COLOUR_MAPS = tuple(_STOPS)
MISSING = (128, 128, 140)
CLASSES: tuple[tuple[int, int, int], ...] = tuple(  # told apart by colour-blind readers (Okabe and Ito 2008)
    (int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16))
    for code in ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#8e8e8e")
)


def colour_table(colours: str, size: int = 256) -> Rgb:
    """The colour map `colours` as a (size, 3) table, from its lowest to its highest value."""
    if colours not in _STOPS:
        raise ValueError(
            f"colours: {colours!r} is not a colour map; expected one of {', '.join(COLOUR_MAPS)}"
        )
    stops = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in _STOPS[colours]], dtype=float)
    places = np.linspace(0, len(stops) - 1, size)
    channels = [np.interp(places, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)


def is_signed(colours: str) -> bool:
    """Whether a colour map has a neutral middle, so that its limits must be symmetric about zero."""
    return colours != "heat"


def common_limits(maps: Sequence[ArrayLike], *, colours: str = "heat") -> tuple[float, float]:
    """Limits that show several maps on one scale: (0 or the minimum, maximum), or symmetric for signed maps.

    Values that are not finite are left out; maps without any range give (0, 1) or (-1, 1).
    """
    finite = [values[np.isfinite(values)] for values in map(as_array, maps)]
    everything = np.concatenate(finite) if finite else np.zeros(0)
    low, high = (float(everything.min()), float(everything.max())) if everything.size else (0.0, 0.0)
    if is_signed(colours):
        largest = max(abs(low), abs(high)) or 1.0
        return -largest, largest
    low = min(low, 0.0)
    return (low, high) if high > low else (low, low + 1.0)


def colour_of(values: ArrayLike, *, limits: tuple[float, float] | None = None, colours: str = "heat") -> Rgb:
    """Values of any shape as colours, shape (..., 3).

    Args:
        values: numbers; those outside the limits take the end colours, those that are not numbers a neutral
            grey.
        limits: the values at the two ends of the colour map; `common_limits` of these values when left out.
        colours: `heat`, `green-red` or `orange-blue`.
    """
    values = as_array(values).astype(float)
    low, high = limits or common_limits([values], colours=colours)
    if not high > low:
        raise ValueError(f"limits: {(low, high)} is empty; expected (low, high) with low < high")
    table = colour_table(colours)
    share = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low)
    rgb = table[np.round(np.clip(share, 0, 1) * (len(table) - 1)).astype(int)]
    rgb[np.isnan(values)] = MISSING
    return rgb


def class_colours(values: ArrayLike, classes: Sequence[int]) -> Rgb:
    """A map whose values are numbers of classes, one colour per class; classes beyond the palette share its last."""
    values = as_array(values)
    rgb = np.full((*values.shape, 3), MISSING, dtype=np.uint8)
    for place, number in enumerate(classes):
        rgb[values == number] = CLASSES[min(place, len(CLASSES) - 1)]
    return rgb


def as_array(values: ArrayLike) -> NDArray:
    """A tensor (of any device) or array-like as a numpy array."""
    detach = getattr(values, "detach", None)
    return np.asarray(values if detach is None else detach().cpu().numpy())
