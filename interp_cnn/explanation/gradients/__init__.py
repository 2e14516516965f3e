"""Gradients of a logit and their kin: saliency, guided back-propagation, Grad-CAM, integrated gradients."""

from interp_cnn.explanation.gradients.finite_differences import sensitivity_check
from interp_cnn.explanation.gradients.grad_cam import grad_cam
from interp_cnn.explanation.gradients.gradients import (
    deconvnet,
    gradient_x_input,
    guided_backprop,
    integrated_gradients,
    saliency,
    sensitivity_analysis,
    smooth_grad,
)
from interp_cnn.explanation.gradients.integrated import path_integral

__all__ = [
    "deconvnet",
    "grad_cam",
    "gradient_x_input",
    "guided_backprop",
    "integrated_gradients",
    "path_integral",
    "saliency",
    "sensitivity_analysis",
    "sensitivity_check",
    "smooth_grad",
]
