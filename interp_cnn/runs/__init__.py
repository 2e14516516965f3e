"""A run folder on disk: its configuration, weights, data and twins."""
