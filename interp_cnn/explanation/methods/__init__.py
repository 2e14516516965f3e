"""Every relevance method under its name, with its options, cost and record."""

from interp_cnn.explanation.methods.image import explain_image
from interp_cnn.explanation.methods.method import Method
from interp_cnn.explanation.methods.options import OcclusionOptions, Options
from interp_cnn.explanation.methods.registry import METHODS, method_named
from interp_cnn.explanation.methods.run import Maps, explain_images, fitting_batch

__all__ = [
    "METHODS",
    "Maps",
    "Method",
    "OcclusionOptions",
    "Options",
    "explain_image",
    "explain_images",
    "fitting_batch",
    "method_named",
]
