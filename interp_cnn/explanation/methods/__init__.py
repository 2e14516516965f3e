"""Every relevance method under its name, with its options, cost and record."""
