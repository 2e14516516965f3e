"""Receptive fields of a layer, from the graph of a network."""

from interp_cnn.explanation.receptive_field.field import (
    ReceptiveField,
    measured_receptive_field,
    receptive_field,
)

__all__ = [
    "ReceptiveField",
    "measured_receptive_field",
    "receptive_field",
]
