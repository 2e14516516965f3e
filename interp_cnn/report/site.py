"""What all pages share: templates with a frame around them, style and script beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from interp_cnn.figures.colours import colour_table
from interp_cnn.storage.files import write_text


@dataclass(frozen=True)
class Site:
    """What the frame of every page says.

    Attributes:
        title: of the site.
        tables: files with its numbers.
        made: when, as text.
        networks: those with pages of filters.
        samples: number of images with a page.
        classes: name -> page of every class.
        beside: further pages, title -> address.
    """

    title: str
    tables: Sequence[str] = ()
    made: str = ""
    networks: Sequence[Any] = ()
    samples: int = 0
    classes: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)


def templates(site: Site, **values: Any) -> jinja2.Environment:
    """The templates, which escape every text and know the site and these values."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("interp_cnn.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(site=site, gradient=_gradient, **values)
    environment.filters["url"] = lambda text: quote(text, safe="/")
    return environment


def write_assets(folder: Path, *more: str) -> None:
    """Copy style and script, and more files of the templates by name, into the folder's `assets/`."""
    for name in ("style.css", "script.js", *more):
        text = (files("interp_cnn.report") / "templates" / name).read_text("utf-8")
        write_text(folder / "assets" / name, text)


def css_colour(rgb: Iterable[int]) -> str:
    """Red, green and blue from 0 to 255 as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _gradient(colours: str) -> str:
    """A colour map as the stops of a CSS gradient."""
    return ",".join(map(css_colour, colour_table(colours, 9)))
