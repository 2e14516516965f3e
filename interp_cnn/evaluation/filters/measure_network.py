"""All measures of one network, in one pass over the images.

Every figure carries a BCa interval from a bootstrap over images, drawn within each category; accuracy Wilson's, for a
bootstrap sees no doubt where no image is missed. A filter's
position is the receptive-field centre of its peak; each filter is judged on the images of its own category
(see `judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import pandas
import torch
from torch import Tensor, nn

from interp_cnn.data.parts import PartBatch
from interp_cnn.evaluation.filters.decisions import decision_figures
from interp_cnn.evaluation.filters.judge import Judge, best_part
from interp_cnn.evaluation.filters.location_instability import strongest_category
from interp_cnn.evaluation.filters.observations import Observations, Readout
from interp_cnn.evaluation.filters.part_interpretability import FilterRegions
from interp_cnn.evaluation.filters.part_windows import sides_merged
from interp_cnn.evaluation.filters.passes import PassResult, Reader, first_pass, mask_pass
from interp_cnn.evaluation.filters.regions import RegionRule
from interp_cnn.evaluation.filters.replicates import (
    FilterFigure,
    concentration_figure,
    mask_figures,
    network_figures,
    probe_figures,
    regression_figures,
    score_figures,
    strongest_figures,
    tracking_figures,
    tracks_a_part,
)
from interp_cnn.evaluation.filters.selectivity import part_coverage
from interp_cnn.evaluation.statistics import (
    Estimate,
    Resampling,
    Sampled,
    resampling,
    share_of_hits,
    weighted_mean,
)
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.storage.brief import Brief

# Measures of filters that need nothing but what one pass over the images left; how they are read and where they are
# shown stands in their records (`report.measures`).
OBSERVED: dict[str, Callable[[PassResult, Resampling], FilterFigure]] = {
    "concentration": concentration_figure
}


@dataclass(frozen=True, repr=False)
class NetworkMeasures(Brief):
    """Everything measured about one network.

    Attributes:
        name: as shown in tables.
        kind: e.g. "interpretable", "plain", "mask only", "untrained".
        layer: dotted module name.
        accuracy: on all images of a class that the network has.
        filters: one row per filter.
        summary: measure to estimate, means over the filters that have it.
        coverage: part name to number of filters that track it, at a false-discovery rate of 5 % over filters.
        categories: (D,) int64, the category of each filter, -1 for none.
        observations: the network's answers.
        judge: images and yardstick.
        draws: resampling of the images.
        samples: the figures behind `summary` with their replicates.
        mean_image: (C, H, W) in [0, 1].
        region_settings: part interpretability over radii and tails, where it was asked for (`RegionRule.settings`).
        regions: what part interpretability was found by; None where parts have no masks.
    """

    name: str
    kind: str
    layer: str
    accuracy: Estimate
    filters: pandas.DataFrame
    summary: dict[str, Estimate]
    coverage: dict[str, int]
    categories: Tensor = field(repr=False)
    observations: Observations = field(repr=False)
    judge: Judge = field(repr=False)
    draws: Resampling = field(repr=False)
    samples: dict[str, Sampled] = field(repr=False)
    mean_image: Tensor = field(repr=False)
    region_settings: pandas.DataFrame | None = field(repr=False, default=None)
    regions: FilterRegions | None = field(repr=False, default=None)

    def _repr_html_(self) -> str:
        """Every measure with its interval, as a notebook shows it."""
        from interp_cnn.figures.notebook import table_html

        rows = [(name.replace("_", " "), str(it), str(it.n)) for name, it in self.summary.items()]
        return table_html(rows, (f"{self.name}, {self.layer}", "value [95 % interval]", "n"))


@chosen_precision()
def measure_network(
    network: nn.Module,
    loader: Iterable[PartBatch],
    *,
    layer: str,
    name: str,
    kind: str,
    classes: Sequence[str],
    parts: Sequence[str],
    image_size: tuple[int, int],
    background: int | None = None,
    filter_categories: Tensor | None = None,
    answers: Tensor | None = None,
    probes: bool = True,
    readout: Readout | None = None,
    regions: RegionRule | None = None,
    top_images: int = 100,
    resamples: int = 500,
    seed: int = 0,
    stage: Callable[[str], AbstractContextManager] = nullcontext,
) -> NetworkMeasures:
    """Measure the filters of `layer`, in two passes over `loader`; in three where parts have masks.

    Args:
        network: any classifier; runs where its parameters lie and comes back in the mode it had. Maps are counted
            and compared with masks there; what is left, a few numbers per image and filter, on the CPU.
        loader: batches of images with landmarks, to be read twice; once will do where parts have no masks and
            decisions are not asked about. Networks to be compared need the same images in the same order.
        layer: dotted module name.
        name: as shown in tables.
        kind: "interpretable", "plain", "mask only", ...
        classes: K names.
        parts: P names.
        image_size: (H, W).
        background: index of the class without objects, which gets no filters.
        filter_categories: (D,) int64, -1 for none. Without it each filter gets the category on whose images
            its mean score is highest.
        answers: (K',) int64, of a network with classes of its own: the label that each stands for, -1 for none; the
            accuracy is that on images of labels among them. None: the labels themselves.
        probes: also measure on a random view and a noisy copy of every image (three times the work).
        readout: maps (B, D, h, w) to the row-major cells (B, D) where they say that their part is; None: their
            maxima.
        regions: where parts have masks: valid cells and their pixels; None: `RegionRule`'s defaults.
        top_images: strongest images on which a filter is judged.
        resamples: of the images, for the intervals.
        seed: of the resampling; networks with the same seed and images are compared in pairs.
        stage: what each piece of the work is done in, by its name, such as `storage.progress.stage`.
    """
    reader = Reader(network, loader, layer, image_size, readout)
    rule = regions or RegionRule()
    copies = ", of a view and a noisy copy of each" if probes else ""
    with stage(f"{name}: feature maps of the images{copies}"):
        seen = first_pass(reader, probes=probes, seed=seed, rule=rule)
    observed = seen.images if answers is None else seen.images.with_classes_of(answers)
    categories, highest = _categories(observed, classes, parts, background, filter_categories)
    cells = observed.field.cell_centres()
    kinds = sides_merged(parts)
    judge = Judge(observed.landmarks, observed.labels, cells, image_size, top_images, kinds)
    draws = resampling(len(observed.labels), resamples=resamples, seed=seed, strata=observed.labels)
    with stage(f"{name}: judging {observed.filters} filters on {len(observed.labels)} images"):
        judgement = judge.measure_network(observed, categories, draws.rows)

    landmarked = observed.landmarks.isfinite().all(dim=2).any(dim=1)
    n = int((landmarked & torch.isin(observed.labels, categories)).sum())
    figures = tracking_figures(judgement, draws, n)
    tracks = tracks_a_part(figures["offset_gain"], len(parts))
    part = best_part(judgement.offset_gain)[1]
    correct = observed.correct
    judged = int(correct.isfinite().sum())
    samples = {"accuracy": Sampled.from_rows(weighted_mean(correct, draws.rows), draws, judged)}
    samples |= _other_rules(observed, judge, highest, draws, n)
    with stage(f"{name}: shares of the filters in decisions"):
        samples |= decision_figures(reader, draws)
    samples["tracking_filters"] = figures["tracking_gain"].share_above_zero()
    region_settings, of_filters = None, None
    if probes:
        with stage(f"{name}: judging views and noisy copies"):
            figures |= probe_figures(seen, judge, categories, draws, n=n, seed=seed)
    if seen.thresholds is not None and parts:
        with stage(f"{name}: regions of the filters against masks of {len(parts)} parts"):
            against = mask_pass(reader, seen, categories, rule=rule, seed=seed)
        against_masks, extra = mask_figures(against, resamples=resamples, seed=seed)
        of_filters = against.interpretability.regions()
        if against.settings is not None:
            region_settings = against.settings.table(resamples=resamples, seed=seed)
        figures, samples = figures | against_masks, samples | extra
    figures |= score_figures(seen, len(classes), draws, seed)
    figures |= strongest_figures(seen, categories, kinds, len(classes), draws, seed)
    samples |= regression_figures(observed, judge, draws)
    figures |= {measure: rule(seen, draws) for measure, rule in OBSERVED.items()}
    redundancy, of_all_filters = network_figures(seen, draws)
    figures |= redundancy
    samples |= of_all_filters

    samples = {measure: figure.mean() for measure, figure in figures.items()} | samples
    summary = {measure: sample.estimate() for measure, sample in samples.items()}
    summary["accuracy"] = share_of_hits(observed.correct)
    coverage = part_coverage(part, tracks, parts)
    table = _filter_table(observed, figures, categories, classes)
    table.insert(
        4, "part", pandas.Series([parts[k] if k >= 0 else None for k in part.tolist()], dtype=object)
    )
    table.insert(5, "tracks", tracks.tolist())
    if of_filters is not None:
        matched = [parts[k] if k >= 0 else None for k in of_filters.part.tolist()]
        table.insert(6, "region_part", pandas.Series(matched, dtype=object))
    basis = (categories, observed, judge, draws, samples, seen.mean_image, region_settings, of_filters)
    return NetworkMeasures(name, kind, layer, summary["accuracy"], table, summary, coverage, *basis)


def _categories(
    observed: Observations,
    classes: Sequence[str],
    parts: Sequence[str],
    background: int | None,
    given: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(D,) the category on which each filter is judged, and the one with its highest mean score; -1 for
    none.
    """
    if observed.landmarks.shape[1] != len(parts):
        count = observed.landmarks.shape[1]
        raise ValueError(f"parts names {len(parts)} parts; the images have {count} landmarks")
    (highest,) = observed.by_filter(
        lambda block: [strongest_category(block.scores, observed.labels, len(classes), background=background)]
    )
    categories = highest if given is None else given.cpu().long()
    if categories.shape != highest.shape:
        raise ValueError(
            f"filter_categories has shape {tuple(categories.shape)}; expected ({observed.filters},)"
        )
    fires = observed.answers.heights > 0  # a filter that never fires has no place
    return categories.where(fires, -1), highest


def _other_rules(
    observed: Observations, judge: Judge, highest: Tensor, draws: Resampling, n: int
) -> dict[str, Sampled]:
    """Location instability by the paper's and the released code's choice of category."""
    (steadiest,) = observed.by_filter(lambda block: [judge.steadiest_category(block.positions, block.scores)])
    by_highest, by_steadiest = (
        observed.by_filter(
            lambda block, chosen=chosen: [
                judge.instability(block.positions, block.scores, chosen[block.filters], draws.rows)
            ],
            chosen,
        )[0]
        for chosen in (highest, steadiest.where(highest >= 0, -1))
    )
    return {
        "instability_highest": Sampled.from_rows(by_highest.nanmean(dim=1), draws, n),
        "instability_minimum": Sampled.from_rows(by_steadiest.nanmean(dim=1), draws, n),
    }


def _filter_table(
    observed: Observations, figures: dict[str, FilterFigure], categories: Tensor, classes: Sequence[str]
) -> pandas.DataFrame:
    """One row per filter; n counts the images of its category that have a landmark."""
    landmarked = observed.landmarks.isfinite().all(dim=2).any(dim=1)
    counts = torch.bincount(observed.labels[landmarked], minlength=len(classes))
    owners = categories.tolist()
    columns: dict[str, object] = {
        "filter": range(len(owners)),
        "category": pandas.Series([classes[owner] if owner >= 0 else None for owner in owners], dtype=object),
        "n": [int(counts[owner]) if owner >= 0 else 0 for owner in owners],
        "score": observed.answers.heights.tolist(),
    }
    for measure, figure in figures.items():
        low, high = figure.interval()
        columns[measure] = figure.value.tolist()
        columns |= {f"{measure}_low": low.tolist(), f"{measure}_high": high.tolist()}
    return pandas.DataFrame(columns)
