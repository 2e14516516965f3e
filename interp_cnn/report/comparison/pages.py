"""Pages: contents in, a folder with `index.html`, a page per network, filter and image, pictures and tables
out.

The whole report is built beside its place and swapped in when it is complete. Pages link to each other and
to their files with relative paths only, so a report can be moved, zipped, or opened from disk. Templates
escape every text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp_cnn.figures.colours import COLOUR_MAPS
from interp_cnn.report.album import Album
from interp_cnn.report.comparison.classes import ClassView, class_pages, class_views, confusions
from interp_cnn.report.comparison.contents import Contents
from interp_cnn.report.comparison.filters import NetworkView, choices, network_view, ranking
from interp_cnn.report.comparison.first_screen import ahead, few_filters, headline, tiles
from interp_cnn.report.comparison.overview import (
    curve_chart,
    facts,
    measure_table,
    more_measures,
    parts_tracked,
    reproduction_rows,
    spread_charts,
    training_table,
    without_parts,
)
from interp_cnn.report.comparison.pair import pair_view
from interp_cnn.report.comparison.samples import SampleView, sample_pages, sample_views
from interp_cnn.report.comparison.tables import write_tables
from interp_cnn.report.comparison.verdict import verdict
from interp_cnn.report.decisions.class_views import FewView, few_view
from interp_cnn.report.folder import replaced_folder
from interp_cnn.report.maps.records import Look
from interp_cnn.report.measures import measure
from interp_cnn.report.site import Site, templates, write_assets
from interp_cnn.report.words import reading
from interp_cnn.storage.files import write_text
from interp_cnn.storage.names import distinct_slugs

SAMPLES_ON_OVERVIEW = 8


def write_report(folder: Path | str, contents: Contents, *, map_colours: str = "green-red") -> Path:
    """Write a report and return its first page.

    Args:
        folder: of the report; an earlier report there is replaced when the new one is complete.
        contents: what it says.
        map_colours: of maps with supporting and opposing pixels, `green-red` or `orange-blue`.

    Raises:
        ValueError: `folder` holds other files, or an unknown colour map.
    """
    if map_colours not in COLOUR_MAPS or map_colours == "heat":
        raise ValueError(f"map_colours: {map_colours!r}; expected green-red or orange-blue")
    folder, look = Path(folder), Look(map_colours)
    slugs = distinct_slugs([network.name for network in contents.networks])
    with replaced_folder(folder) as draft:
        album, images = Album(draft), sample_pages(contents.samples)
        tables = write_tables(draft, contents, slugs)
        networks = [
            network_view(
                network, place=place, slug=slug, classes=contents.classes, album=album, images=images
            )
            for place, (network, slug) in enumerate(zip(contents.networks, slugs, strict=True))
        ]
        samples = sample_views(album, contents, networks, look)
        site = Site(
            title=contents.title[:1].upper() + contents.title[1:],
            made=str(contents.reproduction.get("date", "")),
            networks=networks,
            samples=len(samples),
            tables=tables,
            classes=class_pages(contents),
            beside=dict(contents.beside),
        )
        pages = _Pages(draft, site)
        _write_overview(pages, contents, networks, samples, album, reading(map_colours))
        _write_classes(
            pages,
            contents,
            class_views(contents, networks, samples, album),
            few_view(contents.readings, album),
            album,
            images,
        )
        for network in networks:
            _write_network(pages, network, contents)
        _write_samples(pages, samples, reading(map_colours))
        write_assets(draft, "explained.css", "decision.css")
    return folder / "index.html"


class _Pages:
    """Renders templates into files; every page knows the way back to the report's folder."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.folder, self.site = folder, site
        self.environment = templates(site)

    def write(self, place: str, template: str, **values: Any) -> None:
        root = "../" * place.count("/")
        html = self.environment.get_template(f"{template}.html.j2").render(root=root, **values)
        write_text(self.folder / place, html)


def _write_overview(
    pages: _Pages,
    contents: Contents,
    networks: list[NetworkView],
    samples: list[SampleView],
    album: Album,
    words: str,
) -> None:
    chosen = {network.slug: choices(network) for network in networks}
    ranked_by = next((name for name, groups in chosen.values() if groups), "")
    drawn = [sample for sample in samples if sample.image.methods]
    contested = [sample for sample in drawn if sample.contested][: SAMPLES_ON_OVERVIEW // 2]
    shown = [*contested, *(sample for sample in drawn if not sample.contested)][:SAMPLES_ON_OVERVIEW]
    pages.write(
        "index.html",
        "index",
        here="index",
        headline=headline(contents),
        pair=pair_view(contents.pair, contents.networks, album) if contents.pair else None,
        tiles=tiles(contents),
        ahead=ahead(contents),
        few_filters=few_filters(contents),
        further=contents.further,
        verdict=verdict(contents),
        facts=facts(contents),
        table=measure_table(contents),
        more=more_measures(contents),
        tracked=parts_tracked(contents),
        without_parts=without_parts(contents),
        spreads=spread_charts(contents, album),
        choices={slug: groups for slug, (_, groups) in chosen.items() if groups},
        ranking=measure(ranked_by),
        samples=shown,
        reading=words,
        curves=curve_chart(contents, album),
        training=training_table(contents),
        configurations=[(it.name, it.configuration) for it in contents.networks if it.configuration],
        command=_command(contents.reproduction.get("command")),
        reproduction=reproduction_rows(contents.reproduction),
    )


def _write_network(pages: _Pages, network: NetworkView, contents: Contents) -> None:
    pages.write(
        network.page,
        "network",
        here=network.slug,
        network=network,
        cards=network.filters,
        sortable=network.sortable,
        ranking=measure(ranking(network)),
        categories=network.categories,
        parts=network.parts,
    )
    exemplars = next(it.exemplars for it in contents.networks if it.name == network.name)
    for it, before, after in _with_neighbours(network.filters):
        pages.write(
            it.page,
            "filter",
            here=network.slug,
            network=network,
            it=it,
            before=before,
            after=after,
            images_seen=f"{exemplars.images_seen:,}" if exemplars is not None else "",
        )


def _write_classes(
    pages: _Pages,
    contents: Contents,
    classes: list[ClassView],
    few: FewView | None,
    album: Album,
    images: Mapping[str, str],
) -> None:
    if not classes:
        return
    confused = confusions(contents, pages.site.networks, album, images)
    values = {"classes": classes, "confusions": confused, "few": few, "handful": few_filters(contents)}
    pages.write("classes.html", "classes", here="classes", **values)
    for it, before, after in _with_neighbours(classes):
        pages.write(
            it.page,
            "class",
            here="classes",
            it=it,
            before=before,
            after=after,
            filter_pages=_filter_pages(pages.site),
        )


def _write_samples(pages: _Pages, samples: list[SampleView], words: str) -> None:
    if samples:
        contested = [sample for sample in samples if sample.contested]
        others = [sample for sample in samples if not sample.contested]
        pages.write("images.html", "images", here="images", contested=contested, others=others)
    for sample, *neighbours in _with_neighbours(samples):
        before, after = ((f"../../{it.page}", it.name) if it else None for it in neighbours)
        pages.write(
            sample.page,
            "explained_image",
            here="images",
            image=sample.image,
            back="images.html",
            before=before,
            after=after,
            reading=words,
            firing=sample.firing,
            among=sample.among,
            decisions=sample.decisions,
            filter_pages=_filter_pages(pages.site),
        )


def _filter_pages(site: Site) -> dict[str, dict[int, str]]:
    """Network -> number of a filter -> its page."""
    return {network.name: {it.number: it.page for it in network.filters} for network in site.networks}


def _with_neighbours(items: Sequence[Any]) -> list[tuple[Any, Any, Any]]:
    padded = [None, *items, None]
    return list(zip(items, padded, padded[2:], strict=False))


def _command(command: Any) -> str:
    if command is None:
        return ""
    return command if isinstance(command, str) else " ".join(map(str, command))
