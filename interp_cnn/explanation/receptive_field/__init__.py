"""Receptive fields of a layer, from the graph of a network."""
