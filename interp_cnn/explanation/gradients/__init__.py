"""Gradients of a logit and their kin: saliency, guided back-propagation, Grad-CAM, integrated gradients."""
