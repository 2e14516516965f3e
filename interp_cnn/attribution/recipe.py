"""The recipe of explained images: maps made, drawn on the scales asked for, shown on pages.

An interrupted call goes on where it stopped; see `Explanations`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from interp_cnn.attribution.folder import Explanations
from interp_cnn.attribution.request import SCALES, MapRequest
from interp_cnn.explanation.methods.options import windows_in_words
from interp_cnn.explanation.methods.registry import method_named
from interp_cnn.report.maps.pages import About, write_pages
from interp_cnn.runs.folder import write_json
from interp_cnn.runs.provenance import provenance


@dataclass(frozen=True)
class ExplainedImages:
    """What a call left in its folder.

    Attributes:
        page: the first page; None where only a share of the images was explained.
        names: folders of the explained images, in order.
        bad: images that were left out: name and reason.
        refusals: which methods that were asked for by name have no map of some images; empty for none.
    """

    page: Path | None
    names: list[str]
    bad: list[tuple[str, str]]
    refusals: str


def explain_maps(request: MapRequest, folder: Path) -> ExplainedImages:
    """Explains images into a folder: maps, pictures, tables, pages.

    Args:
        request: which maps of which images by which networks.
        folder: of all of it; what is there already is not made again.

    Raises:
        ValueError: an image that cannot be read (unless bad ones are skipped), or maps that a method refuses.
    """
    explanations = explanations_in(folder, request)
    at_once = request.draw and not request.one_scale_over_images
    explanations.add(request.images, batch_size=request.batch_size, look=request.look if at_once else None)
    names, bad = explanations.names, explanations.bad
    if request.share is not None:
        return ExplainedImages(None, names, bad, explanations.refusals())

    look = request.look
    if request.one_scale_over_images:
        look = replace(look, limits=explanations.common_scales())
    if request.draw:
        explanations.draw(look)

    made = provenance()
    write_json(folder / "explain.json", {**made, "question": request.configuration})
    files = ["explain.json", "manifest.csv", *(["quarantine.csv"] if bad else [])]
    about = about_maps(request, explained=len(names), left_out=len(bad), command=made["command"])
    page = write_pages(folder, names, about, look, files, beside=request.beside)
    return ExplainedImages(page, names, bad, explanations.refusals())


def estimate_maps(request: MapRequest, folder: Path) -> list[str]:
    """What the maps of a request will cost, in lines; nothing is made yet."""
    return explanations_in(folder, request).estimate(request.images)


def explanations_in(folder: Path, request: MapRequest) -> Explanations:
    """The folder's explanations by this request, to add to."""
    return Explanations(
        folder,
        request.networks,
        request.settings,
        device=request.device,
        skip_bad=request.skip_bad,
        share=request.share or (0, 1),
    )


def about_maps(request: MapRequest, *, explained: int, left_out: int, command: str) -> About:
    """What the pages say of a request before its maps.

    Args:
        request: see `MapRequest`.
        explained: number of images.
        left_out: number of images that could not be read.
        command: that makes the same again.
    """
    settings, options = request.settings, request.settings.options
    names = " and ".join(subject.name for subject in request.networks)
    target = {"predicted": "the class that the network predicts", "true": "the image's own class"}
    explained_class = target.get(settings.target, f"the class {settings.target}")
    against = ", minus that of the best other class" if settings.against_runner_up else ""
    windows = windows_in_words(options, request.networks[0].image_size or request.image_size)
    colour = "black" if request.networks[0].channels == 1 else "the image's mean colour"
    facts = {
        "network": f"{names}, {request.weights}" if request.weights else names,
        "images": f"{explained}, from {request.source}"
        + (f"; {left_out} left out, see quarantine.csv" if left_out else ""),
        "explained": f"the logit of {explained_class}{against}",
        "occlusion": f"{windows}, hidden pixels become {options.fill if options.fill is not None else colour}",
        "baseline": f"{options.baseline} (integrated gradients, DeepLIFT, Shapley values)",
        "scale": SCALES[request.shared_scale],
    }
    if not any(name == "rise" or name.startswith("occlusion") for name in settings.methods):
        del facts["occlusion"]
    images = "1 image" if explained == 1 else f"{explained} images"
    title = f"Which pixels speak for the class: {images}, {names}"
    meanings = {name: method_named(name, options).meaning for name in settings.methods}
    return About(title, facts, meanings, command)
