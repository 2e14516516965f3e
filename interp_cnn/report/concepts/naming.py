"""The naming test: a page of questions that anybody can answer, offline, and whose answers can be saved.

naming.html   (or index.html) one question at a time; at the end, how often each network's filters were told apart
naming.csv    a row for every filter that the simulated answerer was asked about
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from numpy.typing import ArrayLike

from interp_cnn import figures
from interp_cnn.evaluation.statistics import Estimate
from interp_cnn.report.album import Album, within
from interp_cnn.report.numbers import percent
from interp_cnn.report.site import Site, templates, write_assets
from interp_cnn.storage.files import write_text, written_table

TABLE = "naming.csv"
SHOWN_SIDE, CANDIDATE_SIDE = 110, 150  # pixels


@dataclass(frozen=True, eq=False)
class NamingQuestion:
    """Patches (C, h, w) that are shown, candidates, and which of them is the filter's own."""

    filter: int
    shown: Sequence[ArrayLike]
    candidates: Sequence[ArrayLike]
    answer: int


@dataclass(frozen=True, eq=False)
class NamingReading:
    """One network's questions.

    Attributes:
        network: its name.
        layer: whose filters.
        questions: that the page asks.
        simulated: (filter, whether the simulated answerer was right) of all that it was asked about.
        right: its share, with an interval.
    """

    network: str
    layer: str
    questions: Sequence[NamingQuestion]
    simulated: Sequence[tuple[int, bool]]
    right: Estimate


def write_naming(
    folder: Path,
    readings: Sequence[NamingReading],
    *,
    judge: str,
    seed: int,
    first: str,
) -> Path:
    """Write page and table and return the page.

    Args:
        folder: of the site.
        readings: of the networks.
        judge: who the simulated answerer is, in words.
        seed: of the order in which questions come, networks mixed.
        first: name of the page.
    """
    album = Album(folder)
    asked = [(reading, question) for reading in readings for question in reading.questions]
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(seed)).tolist()
    questions, key = [], []
    for number, place in enumerate(order):
        reading, question = asked[place]
        shown = [within(figures.to_rgb(patch), SHOWN_SIDE) for patch in question.shown]
        base = f"naming/{number:03d}"
        questions.append(
            {
                "shown": album.picture(f"{base}-shown", figures.montage(shown, columns=3, gap=4), "").source,
                "candidates": [
                    album.picture(
                        f"{base}-{letter}", within(figures.to_rgb(patch), CANDIDATE_SIDE), ""
                    ).source
                    for letter, patch in zip("abc", question.candidates, strict=True)
                ],
            }
        )
        key.append({"network": reading.network, "filter": question.filter, "answer": question.answer})
    networks = [
        {"name": it.network, "layer": it.layer, "simulated": percent(it.right), "images": it.right.n}
        for it in readings
    ]
    data = json.dumps({"questions": questions, "networks": networks, "judge": judge})
    hidden = base64.b64encode(json.dumps(key).encode()).decode()  # from the eye, not from the curious
    site = Site("Which patch belongs", [TABLE])
    write_assets(folder, "naming.css", "naming.js")
    page = templates(site).get_template("naming.html.j2")
    values = {
        "data": data.replace("<", "\\u003c"),
        "hidden": hidden,
        "count": len(questions),
        "names": networks,
    }
    write_text(folder / first, page.render(root="", here=first, judge=judge, **values))
    with written_table(folder / TABLE) as writer:
        writer.writerow(("network", "layer", "filter", "judge", "right"))
        for reading in readings:
            for number, right in reading.simulated:
                writer.writerow((reading.network, reading.layer, number, judge, int(right)))
    return folder / first
