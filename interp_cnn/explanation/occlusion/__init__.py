"""Occlusion maps: windows, fills, plain and incremental engines, sampled and refined variants."""

from interp_cnn.explanation.occlusion.fills import Fill
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.maps import becomes_class, occlusion_drops, occlusion_map
from interp_cnn.explanation.occlusion.masks import rise_masks
from interp_cnn.explanation.occlusion.pairs import pair_interactions
from interp_cnn.explanation.occlusion.refinement import refined_drops
from interp_cnn.explanation.occlusion.windows import WindowGrid, window_grid

__all__ = [
    "Fill",
    "OcclusionJob",
    "WindowGrid",
    "becomes_class",
    "occlusion_drops",
    "occlusion_map",
    "pair_interactions",
    "refined_drops",
    "rise_masks",
    "window_grid",
]
