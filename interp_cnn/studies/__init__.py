"""Pieces of research that can be redone: networks and images in, findings with tables and figures out."""
