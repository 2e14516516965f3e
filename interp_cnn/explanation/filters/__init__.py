"""What single filters fire for: exemplars, occlusion of a filter, empirical receptive fields."""
