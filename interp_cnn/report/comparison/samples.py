"""What the pages show of sample images: their maps (`report.maps`), and the filters that have to do with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from interp_cnn.figures.colours import as_array
from interp_cnn.report.album import Album, Picture
from interp_cnn.report.comparison.contents import Contents, SampleImage
from interp_cnn.report.comparison.filters import FilterView, NetworkView
from interp_cnn.report.decisions.views import DecisionView, decision_views
from interp_cnn.report.maps.records import ClassScore, Look, draw, write_maps
from interp_cnn.report.maps.views import ImageView, image_view

MOST_FILTERS = 12  # named on an image's page, of each network
Firing = list[tuple[float, FilterView]]


@dataclass(frozen=True)
class SampleView:
    """One sample image.

    Attributes:
        page: its own.
        picture: of the image alone; its place is given from the first page.
        image: its maps.
        firing: filters whose peak on this image is highest, as a share of their highest peak on all images.
        among: filters whose strongest images it is among, with its rank there.
        decisions: why each network says what it says.
    """

    page: str
    picture: Picture
    image: ImageView
    firing: list[tuple[NetworkView, Firing]]
    among: list[tuple[NetworkView, Firing]]
    decisions: list[DecisionView]

    @property
    def says(self) -> list[tuple[str, list[ClassScore]]]:
        """Each network's first two answers."""
        return [
            (it.network, sorted(it.scores, key=lambda score: -score.logit)[:2])
            for it in self.image.record.answers
        ]

    @property
    def contested(self) -> bool:
        """Whether a network is wrong, or the networks disagree."""
        answers = {scores[0].name for _, scores in self.says if scores}
        return len(answers | ({self.label} if self.label else set())) > 1

    @property
    def name(self) -> str:
        """Of the image."""
        return self.image.record.file

    @property
    def label(self) -> str:
        """Its class."""
        return self.image.record.label


def sample_pages(samples: Sequence[SampleImage]) -> dict[str, str]:
    """Name of a sample image -> its page; of images with one name the first."""
    pages: dict[str, str] = {}
    for index, sample in enumerate(samples):
        pages.setdefault(sample.record.file, f"{_place(index)}/index.html")
    return pages


def sample_views(
    album: Album, contents: Contents, networks: list[NetworkView], look: Look
) -> list[SampleView]:
    """Write the records and draw the maps of all sample images, each in a folder below `images/`."""
    among, folder = _among_strongest(networks), album.folder
    views = []
    for index, sample in enumerate(contents.samples):
        place = _place(index)
        map_bytes, checksum = write_maps(folder / place, sample.maps)
        record = replace(sample.record, map_bytes=map_bytes, map_sha256=checksum, pictures="")
        draw(folder / place, record, look, image=lambda it=sample: as_array(it.image))
        firing = [(it, filters) for it in networks if (filters := _firing_most(sample, it))]
        listed = [(it, among[it.slug][record.file]) for it in networks if record.file in among[it.slug]]
        image = image_view(folder, place, record, contents.meanings, look)
        assert image.picture is not None  # it was drawn just now
        picture = replace(image.picture, source=f"{place}/{image.picture.source}")
        decisions = decision_views(sample.decisions, sample.image, album, base=f"decisions/{index:04d}")
        views.append(SampleView(f"{place}/index.html", picture, image, firing, listed, decisions))
    return views


def _place(index: int) -> str:
    return f"images/{index:04d}"


def _firing_most(sample: SampleImage, network: NetworkView) -> Firing:
    """The filters with the highest peaks on this image, each over its filter's highest peak on all images."""
    peaks = as_array(sample.peaks.get(network.name, [])).tolist()
    shares = [
        (peak / it.highest, it)
        for peak, it in zip(peaks, network.filters, strict=bool(peaks))
        if peak > 0 and it.highest > 0
    ]
    return sorted(shares, key=lambda pair: (-pair[0], pair[1].number))[:MOST_FILTERS]


def _among_strongest(networks: Sequence[NetworkView]) -> Mapping[str, Mapping[str, Firing]]:
    """For each network, name of an image -> the filters that have it among their strongest, strongest first."""
    filters_of: dict[str, dict[str, Firing]] = {network.slug: {} for network in networks}
    for network in networks:
        for it in network.filters:
            for rank, strong in enumerate(it.strongest, 1):
                filters_of[network.slug].setdefault(strong.name, []).append((rank, it))
        for filters in filters_of[network.slug].values():
            filters.sort(key=lambda pair: (pair[0], pair[1].number))
            del filters[MOST_FILTERS:]
    return filters_of
