"""The pages of decision sheets, image by image, and of class sheets, with the tables of all shares.

decisions.html   (or index.html) a sheet for every image, network and class asked about
decisions.csv    a row for every filter that a sheet shows
decisions.json   everything but the pictures
classes.html     (or index.html) a sheet for every class and network, and how few filters do; tables: `class_tables`
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import ArrayLike

from interp_cnn.report.album import Album
from interp_cnn.report.decisions.class_contents import ClassReading, ClassSheet
from interp_cnn.report.decisions.class_tables import class_tables
from interp_cnn.report.decisions.class_views import class_sheet_views, few_view
from interp_cnn.report.decisions.contents import Decision
from interp_cnn.report.decisions.views import decision_views
from interp_cnn.report.site import Site, templates, write_assets
from interp_cnn.storage.files import write_text, written_table

TABLE, RECORD = "decisions.csv", "decisions.json"
COLUMNS = (
    *("file", "label", "network", "layer", "method", "target", "predicted", "logit", "probability", "rest"),
    *("filters_for_90_percent", "filter", "filter_label", "share", "drop_when_off", "x", "y"),
)


@dataclass(frozen=True, eq=False)
class DecidedImage:
    """An image (C, H, W) with its name and class, and the decisions about it."""

    name: str
    label: str
    image: ArrayLike
    decisions: Sequence[Decision]


def write_decisions(
    folder: Path,
    images: Sequence[DecidedImage],
    *,
    title: str,
    facts: Mapping[str, str],
    first: str,
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write page, table and record and return the page.

    Args:
        folder: of the site.
        images: with their decisions.
        title: of the page.
        facts: name -> text.
        first: name of the page.
        beside: further pages, title -> address.
    """
    album = Album(folder)
    site = Site(title, [TABLE, RECORD], beside=beside or {})
    views = [
        (image, decision_views(image.decisions, image.image, album, base=f"decisions/{number:04d}"))
        for number, image in enumerate(images)
    ]
    write_assets(folder, "decision.css")
    page = templates(site).get_template("decisions.html.j2")
    write_text(folder / first, page.render(root="", here="", images=views, facts=facts))
    with written_table(folder / TABLE) as writer:
        writer.writerow(COLUMNS)
        for image in images:
            for decision in image.decisions:
                start = (
                    image.name,
                    image.label,
                    decision.network,
                    decision.layer,
                    decision.method,
                    decision.target,
                    decision.predicted,
                )
                numbers = (decision.score, decision.probability, decision.rest, decision.enough)
                for share in decision.shown:
                    row = (share.number, share.label, share.share, share.drop, *share.place)
                    writer.writerow([*start, *numbers, *row])
    record = [
        {
            "file": image.name,
            "label": image.label,
            "decisions": [decision.as_json() for decision in image.decisions],
        }
        for image in images
    ]
    write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
    return folder / first


def write_classes(
    folder: Path, readings: Sequence[ClassReading], *, title: str, facts: Mapping[str, str], first: str
) -> Path:
    """Write page and tables about the classes of some networks and return the page.

    Args:
        folder: of the site.
        readings: of the networks.
        title: of the page.
        facts: name -> text.
        first: name of the page.
    """
    album = Album(folder)
    tables = dict(class_tables(readings))
    by_class: dict[str, list[ClassSheet]] = defaultdict(list)
    for sheet in (sheet for reading in readings for sheet in reading.sheets):
        by_class[sheet.target].append(sheet)
    classes = [
        (name, class_sheet_views(sheets, album, base=f"classes/{number:04d}"))
        for number, (name, sheets) in enumerate(by_class.items())
    ]
    site = Site(title, list(tables))
    write_assets(folder, "decision.css")
    page = templates(site).get_template("class_sheets.html.j2")
    few = few_view(readings, album)
    write_text(folder / first, page.render(root="", here="", classes=classes, few=few, facts=facts))
    for name, table in tables.items():
        write_text(folder / name, table.to_csv(index=False, lineterminator="\n"))
    return folder / first
