"""Convolutional networks whose filters mean something, shown and measured.

    from interp_cnn import lrp, make_interpretable, occlusion_map

What stands in `__all__` is the public face; each name is loaded when it is first used, so that importing the package
costs nothing. The rooms below (`data`, `model`, `training`, `explanation`, `evaluation`, ...) hold the rest;
docs/house.md tells what stands where.

One shape everywhere: images are (B, C, H, W), or one image (C, H, W), which counts as a batch of one; targets are
a class number for all images or a tensor (B,); maps that keep the colour channels are (B, C, H, W), maps that have none
(occlusion, Grad-CAM) are (B, H, W). A layer is its dotted name or the module itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp_cnn.evaluation.filters.location_instability import (
        location_instability as location_instability,
    )
    from interp_cnn.evaluation.network import evaluate_network as evaluate_network
    from interp_cnn.explanation.decisions.contributions import filter_contributions as filter_contributions
    from interp_cnn.explanation.decisions.filter_relevance import filter_relevance as filter_relevance
    from interp_cnn.explanation.filters.exemplars import exemplars as exemplars
    from interp_cnn.explanation.gradients.gradients import grad_cam as grad_cam
    from interp_cnn.explanation.gradients.gradients import integrated_gradients as integrated_gradients
    from interp_cnn.explanation.methods.image import explain_image as explain_image
    from interp_cnn.explanation.occlusion.maps import occlusion_drops as occlusion_drops
    from interp_cnn.explanation.occlusion.maps import occlusion_map as occlusion_map
    from interp_cnn.explanation.propagation.deeplift import deeplift as deeplift
    from interp_cnn.explanation.propagation.lrp import lrp as lrp
    from interp_cnn.explanation.receptive_field.field import receptive_field as receptive_field
    from interp_cnn.explanation.shapley import shapley_values as shapley_values
    from interp_cnn.exports.pretrained import save_pretrained as save_pretrained
    from interp_cnn.model.filter_loss import FilterLoss as FilterLoss
    from interp_cnn.model.interpretable_conv import make_interpretable as make_interpretable
    from interp_cnn.runs.folder import load_run as load_run
    from interp_cnn.runs.networks import load_network as load_network
    from interp_cnn.runs.pretrained import from_pretrained as from_pretrained

    __version__: str

_PLACES = {
    "FilterLoss": "model.filter_loss",
    "deeplift": "explanation.propagation.deeplift",
    "evaluate_network": "evaluation.network",
    "exemplars": "explanation.filters.exemplars",
    "explain_image": "explanation.methods.image",
    "filter_contributions": "explanation.decisions.contributions",
    "filter_relevance": "explanation.decisions.filter_relevance",
    "from_pretrained": "runs.pretrained",
    "grad_cam": "explanation.gradients.gradients",
    "integrated_gradients": "explanation.gradients.gradients",
    "load_network": "runs.networks",
    "load_run": "runs.folder",
    "location_instability": "evaluation.filters.location_instability",
    "lrp": "explanation.propagation.lrp",
    "make_interpretable": "model.interpretable_conv",
    "occlusion_drops": "explanation.occlusion.maps",
    "occlusion_map": "explanation.occlusion.maps",
    "receptive_field": "explanation.receptive_field.field",
    "save_pretrained": "exports.pretrained",
    "shapley_values": "explanation.shapley",
}
__all__ = [
    "FilterLoss",
    "__version__",
    "deeplift",
    "evaluate_network",
    "exemplars",
    "explain_image",
    "filter_contributions",
    "filter_relevance",
    "from_pretrained",
    "grad_cam",
    "integrated_gradients",
    "load_network",
    "load_run",
    "location_instability",
    "lrp",
    "make_interpretable",
    "occlusion_drops",
    "occlusion_map",
    "receptive_field",
    "save_pretrained",
    "shapley_values",
]


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first used."""
    if name == "__version__":
        value = import_module("interp_cnn.storage.versions").version_of()
    elif name in _PLACES:
        value = getattr(import_module(f"interp_cnn.{_PLACES[name]}"), name)
    else:
        raise AttributeError(f"module 'interp_cnn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
