"""The page of a study: the question, the answer in one sentence, figures, a table, the command; tables as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import jinja2
import pandas as pd

from interp_cnn.report.explained_pages import Site
from interp_cnn.report.pictures import Album
from interp_cnn.report.writing import replaced_folder, write_text


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
            (
                album.chart(figure.name, figure.draw, figure.alt or figure.caption, scale=figure.scale),
                figure.caption,
            )
            for figure in findings.figures
        ]
        tables = []
        for name, table in findings.tables.items():
            tables.append(f"data/{name}.csv")
            write_text(draft / tables[-1], table.to_csv(index=False, lineterminator="\n"))
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("interp_cnn.report"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(site=Site(findings.title, tables, made=made))
        page = environment.get_template("study.html.j2").render(
            root="", here="index", findings=findings, charts=charts, command=command
        )
        write_text(draft / "index.html", page)
        for name in ("style.css", "script.js"):
            text = (files("interp_cnn.report") / "templates" / name).read_text("utf-8")
            write_text(draft / "assets" / name, text)
    return folder / "index.html"
