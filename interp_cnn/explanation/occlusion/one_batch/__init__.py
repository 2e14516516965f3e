"""Occlusion of all windows of an image in one batch: the organisation for graphics processors."""
