"""Numbers that rank filters: location instability, tracking, part interpretability, and their baselines."""
