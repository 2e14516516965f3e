"""Interpretable convolutional networks."""
