"""The recipe of what changes a filter: the smallest edit that silences it, the real patch that excites it most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from numpy.typing import NDArray
from torch import Tensor

from interp_cnn.decisions.recipe import asked_of
from interp_cnn.decisions.sheet import Asked
from interp_cnn.discovery.edit_settings import EditSettings
from interp_cnn.discovery.edit_summaries import summary_of
from interp_cnn.discovery.images import loader_of, spread_images
from interp_cnn.explanation.filters.cells import CellGrid, cell_grid, moved_cells, painted_over
from interp_cnn.explanation.filters.exemplars import Exemplars
from interp_cnn.explanation.filters.naming import peak_patch
from interp_cnn.explanation.filters.pasting import (
    best_paste,
    paste_corners,
    pasted,
    peaks_of_images,
    quietest,
    random_patches,
)
from interp_cnn.explanation.filters.silencing import Silencing, occlusion_order, smallest_edit
from interp_cnn.explanation.network.feature_maps import feature_maps_and_logits
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.explanation.occlusion.fills import Fill, blur, neighbours
from interp_cnn.report.concepts.edit_records import EditsReading, FilterEdits, PastedPatch, SilencedImage
from interp_cnn.report.concepts.edits import write_edits
from interp_cnn.runs.inputs import Subject
from interp_cnn.storage.progress import progress_bar, stages

TOLERANCE = 1e-4  # of the surface that neighbours span: below what eight bits tell apart
BLUR = 0.1  # standard deviation, of the image's shorter side
QUIET_AMONG = 400  # validation images among which silent ones are looked for


@dataclass(frozen=True)
class EditRequest:
    """Filters to change.

    Attributes:
        networks: whose filters; with data.
        device: where they compute.
        layer: dotted name of the layer, of each network; None: its top masked layer, else its last feature maps.
        settings: how.
        seed: of all that is drawn.
        first: name of the page.
    """

    networks: Sequence[Subject]
    device: torch.device
    layer: str | None
    settings: EditSettings
    seed: int
    first: str


def explain_edits(request: EditRequest, folder: Path) -> tuple[Path, list[str]]:
    """Write the page and return it, with a sentence about each network.

    Raises:
        Refusal: no filter of any network fires.
    """
    readings = []
    for subject in stages(request.networks, "changing filters", lambda it: it.name):
        asked = asked_of(subject, request.device, request.layer)
        assert (
            asked.strongest is not None and subject.data is not None
        )  # networks without data are refused before
        fires = (~asked.strongest.silent).nonzero().flatten()
        if not len(fires):
            continue
        if request.settings.filters is not None and request.settings.filters < len(fires):
            fires = fires[torch.linspace(0, len(fires) - 1, request.settings.filters).round().long()]
        quiet_ones = spread_images(subject.data, QUIET_AMONG)
        peaks = peaks_of_images(asked.network, loader_of(quiet_ones), asked.strongest.layer)
        changing = _Changing(
            asked, request, cell_grid(asked.strongest.field.image_size, request.settings.cells)
        )
        filters = []
        bar = progress_bar(transient=True)
        task = bar.add_task(subject.name, total=float(len(fires)), seen="")
        with bar:
            for done, number in enumerate(fires.tolist(), 1):
                silenced = changing.silenced(number)
                generator = torch.Generator().manual_seed(request.seed * 100_003 + number)
                chosen = quietest(peaks[:, number], request.settings.images, generator)
                patch = None
                if len(chosen) > 1:
                    images = torch.stack([quiet_ones[place].image for place in chosen.tolist()])
                    patch = changing.excited(number, silenced, images, generator)
                filters.append(
                    FilterEdits(number, subject.classes[changing.category(silenced)], silenced, patch)
                )
                bar.update(task, completed=float(done), seen=f"{done}/{len(fires)} filters")
        readings.append(
            EditsReading(
                subject.name,
                asked.strongest.layer,
                filters,
                summary_of(filters),
                around_median(filters, request.settings.shown),
            )
        )
    if not readings:
        raise Refusal("what=[edits]: no filter of these networks fires on any image")
    page = write_edits(
        folder, readings, share=request.settings.share, fill=request.settings.fill, first=request.first
    )
    return page, [f"{reading.network}: {reading.summary.sentence}" for reading in readings]


def around_median(filters: Sequence[FilterEdits], count: int) -> list[int]:
    """Places of the filters whose edits are of middle size, by number; those with no edit come last in the ranking."""
    order = sorted(range(len(filters)), key=lambda place: (filters[place].size, filters[place].number))
    start = max(0, (len(order) - count) // 2)
    return sorted(order[start : start + count])


def fill_of(name: str, size: tuple[int, int]) -> Fill:
    """What cells are painted over with on images of a size (H, W)."""
    if name == "neighbours":
        return neighbours(tolerance=TOLERANCE)
    sigma = BLUR * min(size)
    return blur(2 * max(1, round(2 * sigma)) + 1, sigma)


class _Changing:
    """One network whose filters are changed one after the other."""

    def __init__(self, asked: Asked, request: EditRequest, grid: CellGrid) -> None:
        assert asked.strongest is not None
        self.network, self.classes, self.grid = asked.network, asked.classes, grid
        self.strongest: Exemplars = asked.strongest
        self.settings, self.seed, self.device = request.settings, request.seed, request.device
        self.fill = fill_of(request.settings.fill, grid.size)
        numbers = self.strongest.image_numbers
        self.peaks_of_all = [(int(f), int(r)) for f, r in (numbers >= 0).nonzero()]
        self.stored = [self.strongest.images[number] for number in sorted(self.strongest.images)]

    def category(self, silenced: Sequence[SilencedImage]) -> int:
        """The class that most of a filter's exemplars are taken for."""
        return int(torch.tensor([it.category for it in silenced]).mode().values)

    def silenced(self, number: int) -> list[SilencedImage]:
        """The smallest edits on some exemplars of a filter, each beside edits of the same shape elsewhere."""
        strongest, settings = self.strongest, self.settings
        ranks = (strongest.image_numbers[number] >= 0).nonzero().flatten()
        ranks = ranks[torch.linspace(0, len(ranks) - 1, min(settings.exemplars, len(ranks))).round().long()]
        asked = {"layer": strongest.layer, "grid": self.grid, "fill": self.fill}
        found = []
        for rank in ranks.tolist():
            place = int(strongest.image_numbers[number, rank])
            image = (strongest.images[place].float() / 255).to(self.device)
            order = occlusion_order(self.network, image, filters=torch.tensor([number]), **asked)[0]
            edit = smallest_edit(self.network, image, number, order=order, share=settings.share, **asked)
            generator = torch.Generator().manual_seed(self.seed * 100_003 + 1009 * number + rank)
            moved = moved_cells(edit.cells, settings.controls, generator)
            edited = painted_over(image, edit.cells[None], self.grid, self.fill)[0]
            found.append(self._row(strongest.names[place], number, image, edit, edited, moved))
        return found

    def _row(
        self, name: str, number: int, image: Tensor, edit: Silencing, edited: Tensor, moved: Tensor
    ) -> SilencedImage:
        category = int(edit.logits[0].argmax())
        controls = control_logits = torch.full((1,), torch.nan)
        kept = torch.full((1,), torch.nan)
        if edit.found and len(moved):
            others = painted_over(image, moved, self.grid, self.fill)
            maps, logits = feature_maps_and_logits(self.network, others, self.strongest.layer)
            controls, control_logits = maps[:, number].amax((1, 2)).cpu(), logits[:, category].cpu()
            kept = (logits.argmax(1) == category).double().cpu()
        return SilencedImage(
            name=name,
            category=category,
            category_name=self.classes[category],
            found=edit.found,
            size=self.grid.share(edit.cells),
            side=_longer_side(edit.cells, self.grid),
            before=edit.before,
            after=edit.after,
            controls=tuple(controls.tolist()),
            logits=(*edit.logits[:, category].tolist(), float(control_logits.mean())),
            kept=(float(edit.logits[1].argmax() == category), float(kept.mean())),
            image=_bytes(image),
            hidden=self.grid.pixels(edit.cells).numpy(),
            edited=_bytes(edited),
        )

    def excited(
        self, number: int, silenced: Sequence[SilencedImage], images: Tensor, generator: torch.Generator
    ) -> PastedPatch:
        """The real patch that excites a filter most on silent images (S, C, H, W).

        As wide as the filter's edits are, their median, and at most as its receptive field and the setting allow.
        """
        strongest, settings, category = self.strongest, self.settings, self.category(silenced)
        shorter = min(self.grid.size)
        sides = torch.tensor([it.side for it in silenced if it.found])
        side = int(sides.median()) if len(sides) else shorter
        most = min(settings.patch * shorter, *strongest.field.size)
        side = max(1, min(side, int(most)))
        own = [(number, rank) for rank in range(strongest.image_numbers.shape[1])]
        own = [pair for pair in own if strongest.image_numbers[pair] >= 0][: max(1, settings.pool // 4)]
        others = [pair for pair in self.peaks_of_all if pair[0] != number]
        drawn = torch.randperm(len(others), generator=generator)[: settings.pool - len(own)].tolist()
        pool = [*own, *(others[place] for place in drawn)]
        patches = torch.stack([peak_patch(strongest, *pair, side=side) for pair in pool])
        controls = random_patches(self.stored, side, settings.controls, generator)
        found = best_paste(
            self.network,
            images.to(self.device),
            patches.float() / 255,
            controls.float() / 255,
            number,
            layer=strongest.layer,
        )
        best = patches[found.best]
        middle = paste_corners(self.grid.size, side)[2]
        shown = pasted(images[1:2], best.float() / 255, [middle])[0, 0]
        source = pool[found.best]
        scores = strongest.scores[number][strongest.image_numbers[number] >= 0]
        return PastedPatch(
            name=strongest.names[int(strongest.image_numbers[source])],
            own=source[0] == number,
            side=side,
            size=side * side / (self.grid.size[0] * self.grid.size[1]),
            exemplar=float(scores.mean()),
            before=found.before,
            after=found.after,
            control=found.control,
            logits=tuple(found.logits[:, category].tolist()),
            decided=tuple(found.decided[:, category].tolist()),
            patch=best.numpy(),
            image=_bytes(images[1]),
            pasted=_bytes(shown),
        )


def _longer_side(cells: Tensor, grid: CellGrid) -> int:
    """Longer side, in pixels, of the box around a set of cells; 0 for none."""
    members = cells.nonzero()
    return int((members.amax(0) - members.amin(0) + 1).max()) * grid.side if len(members) else 0


def _bytes(image: Tensor) -> NDArray:
    return (image.cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
