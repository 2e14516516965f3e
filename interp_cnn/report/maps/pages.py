"""Pages and a table over a folder of explained images (`explained`), read one at a time, however many there
are.

index.html, page-2.html, ...    the images, a few dozen on a page, with all their maps
images/<name>/index.html        one image: its maps large, with what they sum to and what they cost
maps.csv                        a row per image, network and method
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from interp_cnn.report.maps.costs import method_rows
from interp_cnn.report.maps.records import MAPS, Look, read_records
from interp_cnn.report.maps.views import image_view
from interp_cnn.report.site import Site, templates, write_assets
from interp_cnn.report.words import reading
from interp_cnn.storage.files import write_text, written_table

IMAGES_ON_A_PAGE = 40
TABLE = "maps.csv"
COLUMNS = (
    *(
        "file",
        "label",
        "network",
        "target",
        "against",
        "score",
        "method",
        "sum",
        "expected",
        "relative_error",
    ),
    *("seconds", "forward_passes", "low", "high", "unit", "maps", "refused"),
)


@dataclass(frozen=True)
class About:
    """What the pages say that no image says.

    Attributes:
        title: of the pages.
        facts: what was asked of what, name -> text.
        meanings: method -> what its values say.
        command: that makes the same again.
    """

    title: str
    facts: dict[str, str]
    meanings: dict[str, str]
    command: str


def write_pages(
    folder: Path,
    names: Sequence[str],
    about: About,
    look: Look,
    others: Sequence[str] = (),
    *,
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write pages and the table of all images and return the first page.

    Args:
        folder: in which `images/` lies.
        names: the images' folders in order; those without a record are left out.
        about: what the pages say beside the images.
        look: how the maps were drawn.
        others: further files to link to.
        beside: further pages of the site, title -> address.
    """
    _write_table(folder, names)
    site = Site(about.title, [TABLE, *others], beside=beside or {})
    environment = templates(site, about=about)
    write_assets(folder, "explained.css")
    views = [names[start : start + IMAGES_ON_A_PAGE] for start in range(0, len(names), IMAGES_ON_A_PAGE)]
    pages = ["index.html", *(f"page-{number}.html" for number in range(2, len(views) + 1))]
    rows = method_rows(folder, names, about.meanings)
    words, index_of = reading(look.colours), {name: index for index, name in enumerate(names)}
    for number, (page, chosen) in enumerate(zip(pages, views or [[]], strict=False)):
        images = [
            image_view(folder, f"images/{name}", record, about.meanings, look)
            for name, record in read_records(folder, chosen)
        ]
        values = {"images": images, "pages": pages, "number": number, "rows": rows, "reading": words}
        values["several"] = any(len(row.networks) > 1 for row in rows)
        text = environment.get_template("explained.html.j2").render(root="", here="index", **values)
        write_text(folder / page, text)
        for view in images:
            index = index_of[view.place.rpartition("/")[2]]
            before = (f"../{names[index - 1]}/index.html", "previous image") if index else None
            after = (f"../{names[index + 1]}/index.html", "next image") if index + 1 < len(names) else None
            text = environment.get_template("explained_image.html.j2").render(
                root="../../",
                here="",
                image=view,
                back=page,
                before=before,
                after=after,
                reading=words,
                firing=(),
                among=(),
                decisions=(),
                filter_pages={},
            )
            write_text(folder / view.place / "index.html", text)
    return folder / "index.html"


def _write_table(folder: Path, names: Sequence[str]) -> None:
    with written_table(folder / TABLE) as writer:
        writer.writerow(COLUMNS)
        for name, record in read_records(folder, names):
            for answer in record.answers:
                start = (
                    record.file,
                    record.label,
                    answer.network,
                    answer.target,
                    answer.against,
                    answer.score,
                )
                for map_record in answer.maps:
                    error = "" if math.isnan(map_record.relative_error) else map_record.relative_error
                    cost = (map_record.seconds, map_record.forward_passes)
                    sums = (map_record.sum, map_record.expected, error)
                    numbers = (*sums, *cost, map_record.low, map_record.high)
                    end = (map_record.unit, f"images/{name}/{MAPS}", map_record.refused)
                    writer.writerow([*start, map_record.method, *numbers, *end])
