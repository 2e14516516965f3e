"""Measures and baselines: one record of each, which all tables, charts, cards and pages read.

A record says what a measure is called, what it means, which way is better, how it is written and where it is shown;
the lists of names are `shown_in(PLACE)`, in the order of the records. A measure without a record is shown too, under
"more measures". How to add one: docs/contributing/measure.md; those of concepts alone: `report.concepts.measures`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from interp_cnn.report.measure_record import Measure, Place
from interp_cnn.report.numbers import is_known

__all__ = ["MEASURES", "NULL", "Measure", "in_order", "known_in", "measure", "ranking_measures", "shown_in"]
NULL = "_null"

_RECORDS = (
    Measure(
        "accuracy",
        "Accuracy",
        "higher",
        "validation images classified correctly",
        percent=True,
        shown=("front", "table", "terminal", "model card"),
    ),
    Measure(
        "location_instability",
        "Location instability",
        "lower",
        "spread of the distance between a filter's peak and the parts of the object, in image diagonals",
        short="instability",
        shown=("front", "table", "terminal", "spread", "card", "board", "model card", "concept means"),
        ranks=3,
    ),
    Measure(
        "tracking_gain",
        "Tracking gain",
        "higher",
        "1 − instability ÷ that of the best fixed spot: 0 is no better than a fixed spot, 1 is perfect",
        short="gain",
        signed=True,
        shown=(
            "front",
            "table",
            "terminal",
            "spread",
            "card",
            "board",
            "model card",
            "concept means",
            "concept cards",
        ),
        ranks=1,
    ),
    Measure(
        "offset_gain",
        "Offset gain",
        "higher",
        "1 − spread of the part's offset from the peak ÷ spread of the part itself, for the part that a filter "
        "follows best: 0 for any fixed spot, 1 at a fixed offset",
        short="offset",
        signed=True,
        shown=("front", "table", "spread", "card", "model card"),
        ranks=2,
    ),
    Measure(
        "translation_gain",
        "Translation gain",
        "higher",
        "1 when the position moves exactly with shifted content, 0 for any fixed spot; needs no annotation",
        short="shift gain",
        signed=True,
        shown=("front", "table", "terminal", "spread"),
    ),
    Measure(
        "part_interpretability",
        "Part interpretability",
        "higher",
        "images in which the filter's region covers one and the same part",
        short="part",
        percent=True,
        shown=("front", "table", "spread"),
        ranks=4,
    ),
    Measure(
        "class_purity",
        "Class purity",
        "higher",
        "among a filter's ten strongest images, those of the class that is most frequent there; needs no annotation",
        short="class",
        percent=True,
        shown=("front", "table", "terminal"),
    ),
    Measure(
        "label_agreement",
        "Label agrees",
        "higher",
        "filters whose class is the one that most of their ten strongest images show",
        percent=True,
        shown=("front", "table"),
    ),
    Measure(
        "consistency",
        "Consistent filters",
        "higher",
        "filters with one and the same part within a third of the image around the peak in 80 % or more of the images "
        "that show it",
        percent=True,
        shown=("table",),
    ),
    Measure(
        "part_presence",
        "Same part in sight",
        "higher",
        "images that show the part which a filter has most often within a third of the image around its peak, with it "
        "there",
        percent=True,
        shown=("table",),
    ),
    Measure(
        "part_purity",
        "Part purity",
        "higher",
        "among a filter's ten strongest images, those with its most frequent part in a small patch around the peak",
        percent=True,
        shown=("table",),
    ),
    Measure(
        "landmark_error",
        "Landmark error",
        "lower",
        "how far parts are from where the positions of all filters together place them, learnt on other images, in "
        "image diagonals",
        shown=("table",),
    ),
    Measure(
        "landmark_error_few",
        "Landmark error, few filters",
        "lower",
        "the same from at most 16 filters",
    ),
    Measure(
        "tracking_filters",
        "Filters with a gain",
        "higher",
        "filters whose tracking gain is above 0",
        percent=True,
        shown=("table",),
    ),
    Measure(
        "following",
        "Moves with the content",
        "higher",
        "share of shifted content's way that the position goes along",
        signed=True,
        shown=("table",),
    ),
    Measure(
        "shifted_instability",
        "Instability, shifted images",
        "lower",
        "location instability on randomly cropped and shifted images",
    ),
    Measure(
        "shifted_gain",
        "Gain, shifted images",
        "higher",
        "tracking gain on randomly cropped and shifted images",
        signed=True,
        shown=("table",),
    ),
    Measure(
        "shifted_offset_gain",
        "Offset gain, shifted images",
        "higher",
        "offset gain on randomly cropped and shifted images",
        signed=True,
    ),
    Measure(
        "noise_stability",
        "Stable under noise",
        "higher",
        "images whose peak stays within one cell under a little noise",
        percent=True,
    ),
    Measure(
        "part_stability",
        "Same parts under noise",
        "higher",
        "images with the same parts around the peak under a little noise: any fixed spot has 100 %",
        percent=True,
    ),
    Measure(
        "dissection_iou",
        "Dissection IoU",
        "higher",
        "overlap of the filter's strongest pixels with its best part, over all images",
    ),
    Measure(
        "unique_detectors",
        "Detected parts",
        "higher",
        "different parts with a filter whose dissection IoU is above 0.04",
        digits=1,
    ),
    Measure(
        "category_selectivity",
        "Category selectivity",
        "higher",
        "1 for a filter that fires for one class only, 0 for equal means",
    ),
    Measure(
        "label_information",
        "Label information",
        "higher",
        "nats that the peak tells about 'is it the class it knows best'",
    ),
    Measure(
        "decision_filters",
        "Filters per decision",
        "lower",
        "filters that carry 90 % of what speaks for the class that the network says, median over images",
        digits=0,
        shown=("table",),
    ),
    Measure(
        "removal_gap",
        "Removal gap",
        "higher",
        "how much faster the logit falls when filters go in the order of their shares than in the opposite one, as a "
        "part of its span: 0 for shares that tell nothing",
        shown=("table",),
    ),
    Measure(
        "share_fidelity",
        "Fidelity of shares",
        "higher",
        "rank correlation of a filter's share in the logit with what the logit loses without it; 1 by construction "
        "where nothing but sums lies behind the layer",
    ),
    Measure(
        "object_evidence",
        "Evidence on the object",
        "higher",
        "part of what speaks for the class that lies on the object's pixels",
        percent=True,
        shown=("table",),
    ),
    Measure(
        "concentration",
        "Concentration",
        "higher",
        "share of the map's mass within a template's width of its peak",
        percent=True,
        shown=("table", "concept means"),
    ),
    Measure(
        "redundancy", "Redundancy", "lower", "highest correlation of a filter's peaks with another filter's"
    ),
    Measure(
        "dead_filters",
        "Silent filters",
        "lower",
        "filters that fire on no image",
        percent=True,
        shown=("model card",),
    ),
    Measure(
        "effective_filters",
        "Effective filters",
        "higher",
        "how many independent filters would vary as much",
        digits=1,
    ),
    Measure(
        "best_constant",
        "Best fixed spot",
        "",
        "location instability of the fixed cell that is best on each filter's own images",
    ),
    Measure(
        "instability_highest",
        "Instability, strongest class",
        "lower",
        "on the images of the class with the highest mean peak",
    ),
    Measure(
        "instability_minimum",
        "Instability, best class",
        "lower",
        "smallest over classes, as published; low for every network",
    ),
    Measure(
        "score",
        "Peak activation",
        "",
        "the filter's value on its strongest image",
        short="peak",
        shown=("card",),
        ranks=5,
    ),
)
MEASURES = {record.name: record for record in _RECORDS}


def shown_in(place: Place) -> list[str]:
    """Names of the measures that a place shows, in the order of the records."""
    return [record.name for record in MEASURES.values() if place in record.shown]


def known_in(place: Place, summaries: Iterable[Mapping[str, Any]], most: int) -> list[str]:
    """The first `most` measures of a place that some of `summaries` (measure -> estimate) knows: those that need
    annotations come first, and where there are none those that need none take their place.
    """
    rows = list(summaries)
    known = [
        name
        for name in shown_in(place)
        if any(is_known(getattr(row.get(name), "value", None)) for row in rows)
    ]
    return known[:most]


def ranking_measures() -> list[str]:
    """Names of the measures that rank filters, the one that is asked first at the beginning."""
    return sorted(
        (record.name for record in MEASURES.values() if record.ranks), key=lambda n: MEASURES[n].ranks
    )


def measure(name: str) -> Measure:
    """How to read the measure `name`; unknown names speak for themselves, `..._null` is what chance gives."""
    if name in MEASURES:
        return MEASURES[name]
    if name.endswith(NULL) and (base := measure(name.removesuffix(NULL))):
        meaning = "the same without the connection that it measures"
        title = f"{base.title}, by chance"
        return replace(base, name=name, title=title, better="", meaning=meaning, short="", shown=(), ranks=0)
    return Measure(name, name.replace("_", " ").capitalize())


def in_order(names: list[str]) -> list[str]:
    """Familiar measures first, as above, each followed by what chance gives; then the others as given."""
    familiar = [name for known in MEASURES for name in (known, known + NULL) if name in names]
    return familiar + [name for name in names if name not in familiar]
