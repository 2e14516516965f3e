"""The paper of every chart: a matplotlib figure on the Agg canvas, in a theme, and back as RGB.

Sizes are display pixels; charts are drawn at twice that, so that they stay sharp when the report shows them
at their display width. Words are 9-10 points at 100 dots per inch: the size of the report's own small print.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from interp_cnn.figures.colours import Rgb, Theme
from interp_cnn.figures.lettering import drawable

DOTS = 100  # display pixels per inch
SCALE = 2  # drawn pixels per display pixel


def new_figure(width: int, height: int, theme: Theme) -> Figure:
    """An empty figure of display size `width` x `height` on the theme's paper."""
    figure = Figure(figsize=(width / DOTS, height / DOTS), dpi=DOTS * SCALE, facecolor=theme.paper)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
    return figure


def style(axes: Axes, theme: Theme) -> Axes:
    """Quiet axes: paper, faint ticks, no box."""
    axes.set_facecolor(theme.paper)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.faint, labelsize=9, length=3)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(theme.grid)
    return axes


def rgb_of(figure: Figure) -> Rgb:
    """Draw a figure and return its pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def plain(text: str, letters: int = 48) -> str:
    """Words as they are, cut after `letters`: matplotlib would set what stands between dollars as
    mathematics.
    """
    text = drawable(str(text))
    text = text if len(text) <= letters else text[: letters - 1] + "…"
    return text.replace("$", r"\$")


def series(theme: Theme, number: int) -> tuple[str, str]:
    """Colour and marker of the series `number`."""
    return theme.series[number % len(theme.series)], theme.markers[number % len(theme.markers)]
