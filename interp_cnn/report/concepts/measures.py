"""Records of what is measured of concepts and of the decoders that draw them: see `report.measures`.

Measures that filters have too are the same records. The tables list them in this order.
"""

from __future__ import annotations

from interp_cnn.report.measures import MEASURES, Measure

CONCEPT_MEASURES = (
    Measure("kept", "Kept", "", "patterns that hold on the judging half", digits=0),
    Measure("proposed", "Proposed", "", "by the other half; filters and atoms: that ever fire", digits=0),
    Measure("left_over", "Left over", "", "share of the maps' energy that the dictionary does not explain"),
    Measure(
        "silent_atoms", "Silent atoms", "lower", "of the dictionary, that no proposing image uses", digits=0
    ),
    Measure("frequent", "Frequent sets", "", "on the proposing half", digits=0),
    Measure("expected", "By chance", "", "frequent sets with swapped channels", digits=0),
    Measure(
        "window_reactivation",
        "Re-activation, window",
        "higher",
        "the pattern fires again in its picture",
        shown=("concept cards",),
    ),
    Measure(
        "window_control",
        "Control, window",
        "lower",
        "unrelated patterns that fire there",
        shown=("concept cards",),
    ),
    Measure("full_reactivation", "Ceiling", "", "re-activation with everything kept"),
    Measure("window_over_ceiling", "Window over ceiling", "", "target: at least 0.8"),
    Measure("window_over_control", "Window over control", "", "target: at least 5"),
    Measure("channels_reactivation", "Re-activation, channels", "", "from the pattern's channels alone"),
    Measure(
        "ablate_reactivation",
        "Re-activation, ablated",
        "",
        "without the pattern's channels: low proves that they drew it",
    ),
    Measure("window_reciprocal_rank", "Closed-loop rank", "", "mean reciprocal rank among all patterns"),
    Measure("window_own_class", "Class seen", "", "in the window's picture, by the network itself"),
    Measure(
        "window_witnessed",
        "Seen by others, window",
        "",
        "other networks' own patterns at the place that fire again",
    ),
    Measure(
        "window_witnessed_control", "Control of others", "", "of their patterns that do not fire on the image"
    ),
    Measure("full_witnessed", "Ceiling of others", "", "with everything kept"),
    Measure(
        "confidence",
        "Confidence",
        "higher",
        "share of firings on images of the class",
        shown=("concept means", "concept cards"),
    ),
    Measure("lift", "Lift", "", "confidence over the class's share of images", shown=("concept means",)),
    Measure(
        "coverage",
        "Coverage",
        "higher",
        "share of the class's images with the pattern",
        shown=("concept means", "concept cards"),
    ),
    Measure(
        "purity",
        "Part purity",
        "higher",
        "firings beside one and the same part",
        shown=("concept means", "concept cards"),
    ),
    Measure(
        "purity_by_chance",
        "Part purity by chance",
        "",
        "with another image's parts",
        shown=("concept means",),
    ),
    MEASURES["location_instability"],
    MEASURES["tracking_gain"],
    MEASURES["concentration"],
    Measure(
        "replication",
        "Replication",
        "higher",
        "overlap with the other half's best pattern; filters: same class",
        shown=("concept means", "concept cards"),
    ),
    Measure(
        "effect",
        "Causal effect",
        "higher",
        "logit lost without the pattern's channels",
        shown=("concept means", "concept cards"),
    ),
    Measure(
        "effect_of_others",
        "Effect of others",
        "",
        "without others of the same energy",
        shown=("concept means",),
    ),
)

DECODER_MEASURES = (
    Measure("nre", "NRE", meaning="at most 0.40"),
    Measure("feature_error", "Feature error", meaning="at most 0.50"),
    Measure("psnr", "PSNR in dB", meaning="at least 18"),
    Measure("ssim", "SSIM"),
    Measure("class_agreement", "Class agreement", meaning="at least 0.8 of the accuracy"),
    Measure("accuracy_on_pictures", "Accuracy on pictures"),
    Measure("accuracy", "Accuracy on images"),
    Measure("grid", "Grid in pictures"),
    Measure("grid_of_images", "Grid in images"),
)


def concept_cards_sorted_by() -> list[Measure]:
    """The measures by which cards of concepts are sorted."""
    return [record for record in CONCEPT_MEASURES if "concept cards" in record.shown]


def averaged_over_concepts() -> list[str]:
    """Names of the measures whose mean over concepts is a figure of its own."""
    return [record.name for record in CONCEPT_MEASURES if "concept means" in record.shown]
