"""Occlusion maps: windows, fills, plain and incremental engines, sampled and refined variants."""
