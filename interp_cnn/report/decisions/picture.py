"""A decision sheet as one picture, for papers and slides: the same as on the pages."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from interp_cnn import figures
from interp_cnn.figures.colours import LIGHT, Rgb, Theme
from interp_cnn.figures.style import DOTS, SCALE, plain, rgb_of
from interp_cnn.report.album import within
from interp_cnn.report.decisions.contents import Decision
from interp_cnn.report.decisions.sums import logits
from interp_cnn.report.decisions.views import (
    DISC,
    IMAGE,
    enough,
    headline,
    other_lines,
    share_pictures,
    spread_out,
)

FOR, AGAINST = "#00694d", "#a4262c"
WIDTH, LEFT = 1000, 290  # display pixels: of the sheet, and of the column with the image
ROW, HEAD, CURVE = 62, 64, 170


def decision_picture(decision: Decision, image: ArrayLike, *, theme: Theme = LIGHT) -> Rgb:
    """Image with discs, a row for each filter with bars that add up to the logit, and what is left without filters.

    Args:
        decision: the sheet.
        image: (C, H, W).
        theme: light or dark.
    """
    seen = within(figures.to_rgb(image), IMAGE)
    rows = len(decision.shown) + len(other_lines(decision)) + 1
    height = HEAD + max(rows * ROW, len(seen) + CURVE + 40) + 20
    figure = Figure(figsize=(WIDTH / DOTS, height / DOTS), dpi=DOTS * SCALE, facecolor=theme.paper)

    def axes(left: float, top: float, wide: float, tall: float) -> Axes:
        return figure.add_axes((left / WIDTH, 1 - (top + tall) / height, wide / WIDTH, tall / height))

    title = plain(f"{decision.network}: {headline(decision)}", 110)
    figure.text(14 / WIDTH, 1 - 34 / height, title, color=theme.ink, fontsize=13, weight="bold")
    _image(axes(14, HEAD, seen.shape[1], len(seen)), decision, seen)
    _curve(axes(40, HEAD + len(seen) + 14, LEFT - 60, CURVE - 60), decision, theme)
    caption = (
        f"{enough(decision)}\nlogit while filters are switched off: those that\n"
        "speak for it first (blue) or last (orange)"
    )
    figure.text(
        14 / WIDTH,
        1 - (HEAD + len(seen) + CURVE + 10) / height,
        caption,
        color=theme.faint,
        fontsize=8,
        va="center",
    )
    _shares(figure, axes, decision, image, theme, height)
    return rgb_of(figure)


def _image(axes: Axes, decision: Decision, seen: Rgb) -> None:
    axes.imshow(seen, aspect="auto")
    axes.axis("off")
    spots = spread_out([share.place for share in decision.shown], DISC / IMAGE)
    for place, (share, (x, y)) in enumerate(zip(decision.shown, spots, strict=True), 1):
        _disc(axes, x * seen.shape[1], y * len(seen), place, share.share)


def _disc(axes: Axes, x: float, y: float, place: int, share: float) -> None:
    face = {"boxstyle": "circle,pad=0.25", "facecolor": FOR if share >= 0 else AGAINST, "edgecolor": "white"}
    axes.text(x, y, str(place), color="white", fontsize=8, weight="bold", ha="center", va="center", bbox=face)


def _curve(axes: Axes, decision: Decision, theme: Theme) -> None:
    curves = decision.curves
    axes.set_facecolor(theme.paper)
    axes.plot(curves.counts, curves.random, color=theme.faint, linewidth=1, linestyle=(0, (3, 2)))
    axes.plot(curves.counts, curves.least, color=theme.series[1], linewidth=1.6)
    axes.plot(curves.counts, curves.most, color=theme.series[0], linewidth=1.6)
    axes.tick_params(colors=theme.faint, labelsize=7, length=2)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)


def _shares(figure: Figure, axes, decision: Decision, image: ArrayLike, theme: Theme, height: int) -> None:
    lines = [
        *((f"filter {share.number}", share.label, share.share) for share in decision.shown),
        *other_lines(decision),
    ]
    strips = [share_pictures(share, image) for share in decision.shown]
    widest = max((strip.shape[1] * 50 / len(strip) for strip in strips), default=0)
    words, bars = LEFT + 34 + widest + 14, LEFT + 34 + widest + 176
    chart = axes(bars, HEAD, WIDTH - bars - 70, ROW * (len(lines) + 1))
    chart.set(ylim=(len(lines) + 1, 0), facecolor=theme.paper)
    chart.axis("off")
    chart.axvline(0, color=theme.faint, linewidth=0.8)
    reached = 0.0
    for number, (name, label, share) in enumerate(lines):
        middle = HEAD + (number + 0.5) * ROW
        colour, strength = FOR if share >= 0 else AGAINST, 1.0 if number < len(strips) else 0.5
        chart.barh(number + 0.5, share, left=reached, height=0.4, color=colour, alpha=strength)
        reached += share
        if number < len(strips):
            strip = strips[number]
            cell = axes(LEFT + 34, middle - 25, strip.shape[1] * 50 / len(strip), 50)
            cell.imshow(strip, aspect="auto")
            cell.axis("off")
            _disc(axes(LEFT + 6, middle - 12, 24, 24), 0.5, 0.5, number + 1, share)
            figure.axes[-1].axis("off")
        _line(figure, height, (words, middle), plain(name), plain(label, 26), theme)
        figure.text(
            (WIDTH - 62) / WIDTH,
            1 - middle / height,
            logits(share),
            color=theme.ink,
            fontsize=10,
            va="center",
        )
    middle = HEAD + (len(lines) + 0.5) * ROW
    chart.barh(len(lines) + 0.5, decision.score, height=0.4, color=theme.ink)
    _line(figure, height, (words, middle), "logit", plain(decision.target, 26), theme, weight="bold")
    words_of_sum = logits(decision.score)
    figure.text(
        (WIDTH - 62) / WIDTH,
        1 - middle / height,
        words_of_sum,
        color=theme.ink,
        fontsize=10,
        va="center",
        weight="bold",
    )


def _line(
    figure: Figure,
    height: int,
    place: tuple[float, float],
    name: str,
    label: str,
    theme: Theme,
    weight: str = "normal",
) -> None:
    x, y = place
    raised = 8 if label else 0
    figure.text(
        x / WIDTH, 1 - (y - raised) / height, name, color=theme.ink, fontsize=10, va="center", weight=weight
    )
    figure.text(x / WIDTH, 1 - (y + 9) / height, label, color=theme.faint, fontsize=8, va="center")
