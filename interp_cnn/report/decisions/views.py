"""Decision sheets as pages show them: bars that add up to the logit, discs on the image, a curve of what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp_cnn import figures
from interp_cnn.report.album import Album, Picture, within
from interp_cnn.report.decisions.contents import Decision, FilterShare
from interp_cnn.report.decisions.sums import Bar, bar, bars, logits, place_on, reach
from interp_cnn.report.words import class_words

CELL = 92  # pixels of one small picture
IMAGE = 264  # of the image with its discs
DISC = 23


@dataclass(frozen=True)
class ShareRow:
    """One filter on a sheet."""

    place: int
    number: int
    label: str
    picture: Picture
    bar: Bar
    x: float
    y: float
    drop: str


@dataclass(frozen=True)
class CurveView:
    """The removal curves as points of an SVG of 100 x 60 units, with the words at its axes."""

    most: str
    least: str
    random: str
    high: str
    low: str
    zero: float | None
    count: int


@dataclass(frozen=True)
class DecisionView:
    """One network's decision for one class."""

    decision: Decision
    network: str
    target: str
    headline: str
    image: Picture
    rows: list[ShareRow]
    lesser: list[tuple[str, str, Bar]]
    total: Bar
    zero: float
    curve: CurveView
    enough: str
    note: str
    made_of: str


def decision_views(
    decisions: Sequence[Decision], image: ArrayLike, album: Album, *, base: str
) -> list[DecisionView]:
    """The sheets of one image, all on one scale of logits.

    Args:
        decisions: of one or several networks, for one or several classes.
        image: (C, H, W).
        album: that saves the pictures.
        base: where they go, `decisions/0003`.
    """
    if not decisions:
        return []
    ends = [
        reach([*(it.share for it in decision.shown), *(share for *_, share in other_lines(decision))])
        for decision in decisions
    ]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    plain = album.picture(f"{base}-image", within(figures.to_rgb(image), IMAGE), "The image")
    return [
        _view(decision, image, album, f"{base}-{number}", plain, (low, high))
        for number, decision in enumerate(decisions)
    ]


def _view(
    decision: Decision, image: ArrayLike, album: Album, base: str, plain: Picture, scale: tuple[float, float]
) -> DecisionView:
    spots = spread_out([share.place for share in decision.shown], DISC / IMAGE)
    lines = other_lines(decision)
    drawn = bars([*(share.share for share in decision.shown), *(share for *_, share in lines)], scale)
    rows = []
    for place, (share, spot, stretch) in enumerate(zip(decision.shown, spots, drawn, strict=False), 1):
        picture = album.picture(
            f"{base}-{place}",
            share_pictures(share, image),
            f"Where filter {share.number} fires here, and on its strongest images",
            colours=96,
        )
        x, y = (100 * part for part in spot)
        rows.append(ShareRow(place, share.number, share.label, picture, stretch, x, y, logits(share.drop)))
    lesser = [
        (name, words, stretch) for (name, words, _), stretch in zip(lines, drawn[len(rows) :], strict=True)
    ]
    return DecisionView(
        decision=decision,
        network=decision.network,
        target=decision.target,
        headline=headline(decision),
        image=plain,
        rows=rows,
        lesser=lesser,
        total=bar(0.0, decision.score, scale),
        zero=place_on(0.0, scale),
        curve=_curve(decision),
        enough=enough(decision),
        note=how_shared(decision.method, linear=decision.linear),
        made_of=made_of(decision),
    )


def other_lines(decision: Decision) -> list[tuple[str, str, float]]:
    """What no filter of the sheet brings: name, more words, share."""
    lines = sums_of(decision.others, "other" if decision.shown else "filter")
    rest = "biases, and what reaches the logit round the layer" if decision.bypassed else "biases"
    return [*((name, "", share) for name, share in lines), ("rest", rest, decision.rest)]


def made_of(decision: Decision) -> str:
    """What the logit is the sum of: "The 7 strongest filters bring +2.59 of +6.44; 51 others for it +11.12, ..."."""
    count, score = len(decision.shown), logits(decision.score)
    lines = [f"{name} {logits(share)}" for name, _, share in other_lines(decision)]
    if not count:
        return f"The logit {score} is {', '.join(lines)}."
    shown = logits(sum(share.share for share in decision.shown))
    filters = f"{count} strongest filters bring" if count > 1 else "strongest filter brings"
    return f"The {filters} {shown} of {score}; {', '.join(lines)}."


def sums_of(others: tuple[NDArray, NDArray], called: str) -> list[tuple[str, float]]:
    """Name and sum of the shares for a class, and of those against it; none where there are none."""
    return [
        (f"{len(shares)} {called}{'s' if len(shares) != 1 else ''} {way} it", float(shares.sum()))
        for shares, way in zip(others, ("for", "against"), strict=True)
        if len(shares)
    ]


def spread_out(places: Sequence[tuple[float, float]], apart: float) -> list[tuple[float, float]]:
    """Places (x, y) in [0, 1], those that lie closer than `apart` to an earlier one moved to the nearest free spot.

    Example:
        >>> spread_out([(0.5, 0.5), (0.5, 0.5)], 0.1)
        [(0.5, 0.5), (0.6, 0.5)]
    """
    taken: list[tuple[float, float]] = []
    turns = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    for x, y in places:
        rings = [
            (x, y),
            *((x + r * apart * np.cos(t), y + r * apart * np.sin(t)) for r in (1, 2, 3) for t in turns),
        ]
        free = (
            (round(float(a), 4), round(float(b), 4))
            for a, b in rings
            if 0 <= a <= 1 and 0 <= b <= 1 and all(np.hypot(a - c, b - d) >= 0.99 * apart for c, d in taken)
        )
        taken.append(next(free, (x, y)))
    return taken


def headline(decision: Decision) -> str:
    """What the network says and what is asked, in words."""
    target, probability = class_words(decision.target), f"{100 * decision.probability:.0f} %"
    if decision.target == decision.predicted:
        wrong = decision.label and decision.label != decision.predicted
        right = f", wrongly: it is {class_words(decision.label)}" if wrong else ""
        return f"says {target} ({probability}){right}"
    return f"gives {probability} to {target} and says {class_words(decision.predicted)}"


def enough(decision: Decision) -> str:
    """How few filters carry the decision."""
    if not decision.enough:
        return "No filter speaks for it."
    filters = "filter carries" if decision.enough == 1 else "filters carry"
    return f"{decision.enough} of {len(decision.shares)} {filters} 90 % of what speaks for it."


def how_shared(method: str, *, linear: bool) -> str:
    """How far the shares are a matter of choice."""
    if linear:
        return "Nothing but sums lies behind the layer: a filter's share is what the logit loses without it."
    how = {
        "deeplift": "DeepLIFT",
        "lrp": "relevance propagation",
        "integrated_gradients": "integrated gradients",
    }
    named = how.get(method, method)
    return f"More than sums lies behind the layer: shares are handed out by {named}, and add up to the logit."


def share_pictures(share: FilterShare, image: ArrayLike) -> NDArray[np.uint8]:
    """Where a filter fires on this image, and on the images where it fires most, side by side."""
    highest = max(share.highest, float(share.map.max()))
    cells = [
        lit_cell(image, share.map, highest),
        *(lit_cell(it, values, highest) for it, values in share.exemplars),
    ]
    gap = np.full((cells[0].shape[0], 10, 3), 128, dtype=np.uint8)
    pieces = [cells[0]]
    if len(cells) > 1:
        pieces += [gap, figures.montage(cells[1:], columns=len(cells) - 1, gap=2)[: len(gap)]]
    tall = max(len(piece) for piece in pieces)
    return np.hstack(
        [np.pad(piece, ((0, tall - len(piece)), (0, 0), (0, 0)), constant_values=128) for piece in pieces]
    )


def lit_cell(image: ArrayLike, values: NDArray, highest: float) -> NDArray[np.uint8]:
    """One small picture: an image (C, H, W), lit where the filter's map (h, w) is high."""
    return figures.lit(within(figures.to_rgb(image), CELL), values, highest=highest)


def _curve(decision: Decision) -> CurveView:
    curves = decision.curves
    low = float(min(curves.most.min(), curves.least.min(), curves.random.min()))
    high = float(max(curves.most.max(), curves.least.max(), curves.random.max()))
    span = high - low or 1.0

    def points(values: NDArray) -> str:
        across = 100 * curves.counts / max(int(curves.counts[-1]), 1)
        return " ".join(f"{x:.1f},{60 * (high - y) / span:.1f}" for x, y in zip(across, values, strict=True))

    zero = 60 * high / span if low < 0 < high else None
    return CurveView(
        points(curves.most), points(curves.least), points(curves.random), logits(high), logits(low), zero,
        int(curves.counts[-1]),
    )  # fmt: skip
