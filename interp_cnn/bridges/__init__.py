"""Methods of this package in the words of others: Captum's objects, and the function that Quantus calls.

    from interp_cnn.bridges import LRP, explain_func

Neither library is needed for it. docs/bridges.md shows what a user of Captum changes.
"""

from interp_cnn.bridges.captum import (
    LRP,
    Attribution,
    DeepLift,
    GradCam,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    Saliency,
)
from interp_cnn.bridges.quantus import explain_func

__all__ = [
    "LRP",
    "Attribution",
    "DeepLift",
    "GradCam",
    "GuidedBackprop",
    "InputXGradient",
    "IntegratedGradients",
    "Occlusion",
    "Saliency",
    "explain_func",
]
