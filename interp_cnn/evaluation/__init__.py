"""Numbers that rank networks and maps, each with its interval and its baselines."""
