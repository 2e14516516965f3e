"""Exact occlusion from differences: only what a window changes is computed again."""
