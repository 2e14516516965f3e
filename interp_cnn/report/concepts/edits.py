"""What changes a filter: the smallest edits that silence it, and the real patch that excites it most.

edits.html   (or index.html) each network's figures; filters around the median, with their edits and patches
edits.csv    a row for every edit and every patch of all filters that were asked
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interp_cnn import figures
from interp_cnn.evaluation.statistics import Estimate
from interp_cnn.report.album import Album, within
from interp_cnn.report.concepts.edit_records import EditsReading, EditSummary, FilterEdits, share_in_words
from interp_cnn.report.numbers import is_known, percent, signed
from interp_cnn.report.site import Site, templates, write_assets
from interp_cnn.storage.files import write_text, written_table
from interp_cnn.storage.names import distinct_slugs

TABLE = "edits.csv"
SIDE = 132  # pixels of one picture
COLUMNS = (
    *("network", "layer", "filter", "kind", "image", "class", "found", "size"),
    *("peak_before", "peak_after", "peak_control", "exemplar_peak"),
    *("logit_before", "logit_after", "logit_control"),
    *("decided_before", "decided_after", "decided_control", "own"),
)
ROWS = (  # title, figure, its control, how it is written
    ("Exemplars on which an edit silences the filter", "silenced", None, "share"),
    ("Median size of the edit, share of the image", "size", None, "share"),
    ("The peak falls by", "fallen", "fallen_elsewhere", "share"),
    ("... more than painted over elsewhere", "over_control", None, "share"),
    ("Edits elsewhere that do less", "beaten", None, "share"),
    ("Logit of the decision changes by", "logit", "logit_elsewhere", "logit"),
    ("Decisions that turn", "turned", "turned_elsewhere", "share"),
    ("Peak on silent images, of the exemplars'", "quiet", None, "share"),
    ("Peak with the best patch, of the exemplars'", "excited", "excited_by_chance", "share"),
    ("The best patch is the filter's own", "own", None, "share"),
    ("Logit of the filter's class changes by", "patch_logit", "patch_logit_by_chance", "logit"),
    ("More images taken for that class", "followed", "followed_by_chance", "share"),
)


def write_edits(
    folder: Path, readings: Sequence[EditsReading], *, share: float, fill: str, first: str
) -> Path:
    """Write page and table and return the page.

    Args:
        folder: of the site.
        readings: of the networks.
        share: of its peak below which a filter counts as silent.
        fill: what cells were painted over with, by name.
        first: name of the page.
    """
    album = Album(folder)
    networks = []
    for slug, reading in zip(distinct_slugs([it.network for it in readings]), readings, strict=True):
        cards = [_card(reading.filters[place], album, f"edits/{slug}-{place:04d}") for place in reading.shown]
        networks.append(
            {"name": reading.network, "layer": reading.layer, "cards": cards, "count": len(reading.filters)}
        )
    rows = [
        (title, [_cell(reading.summary, name, control, kind) for reading in readings])
        for title, name, control, kind in ROWS
    ]
    site = Site("What changes a filter", [TABLE])
    write_assets(folder, "edits.css")
    page = templates(site).get_template("edits.html.j2")
    words = {"neighbours": "the smooth surface that their border spans", "blur": "the image blurred"}
    text = page.render(
        root="", here=first, networks=networks, rows=rows, limit=percent(share), fill=words.get(fill, fill)
    )
    write_text(folder / first, text)
    _write_table(folder / TABLE, readings)
    return folder / first


def _cell(summary: EditSummary, name: str, control: str | None, kind: str) -> dict[str, str]:
    """A figure, its interval and its control, in words."""

    def words(estimate: Estimate) -> tuple[str, str]:
        if not is_known(estimate.value):
            return "unknown", ""
        if kind == "share":
            value, _, interval = share_in_words(estimate).partition(" [")
            return value, f"[{interval}" if interval else ""
        known = is_known(estimate.low) and is_known(estimate.high)
        return signed(
            estimate.value, 2
        ), f"[{signed(estimate.low, 2)}, {signed(estimate.high, 2)}]" if known else ""

    value, interval = words(getattr(summary, name))
    beside = "" if control is None else " ".join(words(getattr(summary, control)))
    return {"value": value, "interval": interval, "control": beside}


def _card(one: FilterEdits, album: Album, base: str) -> dict:
    """Pictures and captions of one filter."""
    edits = []
    for number, it in enumerate(one.silenced):
        image = within(figures.to_rgb(it.image), SIDE)
        rows, columns = (
            (np.arange(length) * side // length)
            for length, side in zip(image.shape[:2], it.hidden.shape, strict=True)
        )
        seen = figures.outline(image, it.hidden[np.ix_(rows, columns)], thickness=2)
        both = figures.montage([seen, within(figures.to_rgb(it.edited), SIDE)], columns=2, gap=4)
        words = f"{it.name}: {'outlined, and ' if it.found else ''}painted over"
        elsewhere = percent(it.control / it.before) if is_known(it.control) else "unknown"
        edits.append(
            {
                "it": it,
                "picture": album.picture(f"{base}-{number}", both, words),
                "size": share_in_words(it.size),
                "left": percent(it.after / it.before),
                "elsewhere": elsewhere,
                "logit": signed(it.logits[1] - it.logits[0], 2),
                "turned": not it.kept[0],
            }
        )
    patch = None
    if one.patch is not None:
        it = one.patch
        pictures = [within(figures.to_rgb(it.patch), SIDE // 2), within(figures.to_rgb(it.image), SIDE)]
        pictures.append(within(figures.to_rgb(it.pasted), SIDE))
        sheet = figures.montage(pictures, columns=3, gap=4)
        alt = f"Patch from {it.name}; a silent image; the patch on it"
        patch = {
            "it": it,
            "picture": album.picture(f"{base}-patch", sheet, alt),
            "logit": signed(it.logits[1] - it.logits[0], 2),
        }
        patch |= {key: percent(getattr(it, key) / it.exemplar) for key in ("before", "after", "control")}
    return {"number": one.number, "category": one.category, "edits": edits, "patch": patch}


def _write_table(path: Path, readings: Sequence[EditsReading]) -> None:
    with written_table(path) as writer:
        writer.writerow(COLUMNS)
        for reading in readings:
            for one in reading.filters:
                start = (reading.network, reading.layer, one.number)
                for it in one.silenced:
                    peaks = (it.before, it.after, it.control, "")
                    writer.writerow(
                        (
                            *start,
                            "silence",
                            it.name,
                            it.category_name,
                            int(it.found),
                            it.size,
                            *peaks,
                            *it.logits,
                            1,
                            *it.kept,
                            "",
                        )
                    )
                if (it := one.patch) is not None:
                    peaks = (it.before, it.after, it.control, it.exemplar)
                    writer.writerow(
                        (
                            *start,
                            "paste",
                            it.name,
                            one.category,
                            "",
                            it.size,
                            *peaks,
                            *it.logits,
                            *it.decided,
                            int(it.own),
                        )
                    )
