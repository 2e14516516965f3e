"""The page of a study: the question, the answer in one sentence, figures, a table, the command; tables as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pandas as pd

from interp_cnn.report.album import Album
from interp_cnn.report.folder import replaced_folder
from interp_cnn.report.site import Site, templates, write_assets
from interp_cnn.storage.files import write_text


class Findings(Protocol):
    """What a page needs of a study, see `studies.findings`."""

    title: str
    question: str
    answer: str
    facts: Mapping[str, str]
    figures: list
    tables: Mapping[str, pd.DataFrame]
    shown: Mapping[str, pd.DataFrame]
    notes: list[str]


def write_study(folder: Path, findings: Findings, *, command: str, made: str) -> Path:
    """Write a study's page into a folder and return it; an earlier one is replaced when this one is complete."""
    with replaced_folder(folder) as draft:
        album = Album(draft)
        charts = [
            (album.chart(figure.name, figure.draw, figure.alt, scale=figure.scale), figure.caption)
            for figure in findings.figures
        ]
        tables = []
        for name, table in findings.tables.items():
            tables.append(f"data/{name}.csv")
            write_text(draft / tables[-1], table.to_csv(index=False, lineterminator="\n"))
        page = (
            templates(Site(findings.title, tables, made))
            .get_template("study.html.j2")
            .render(root="", here="index", findings=findings, charts=charts, command=command)
        )
        write_text(draft / "index.html", page)
        write_assets(draft)
    return folder / "index.html"
