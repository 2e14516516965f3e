"""Occlusion maps: windows, fills, plain and incremental engines, sampled and refined variants."""

from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.maps import occlusion_drops, occlusion_map

__all__ = ["OcclusionJob", "occlusion_drops", "occlusion_map"]
