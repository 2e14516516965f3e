"""Pages of mined concepts: cards and galleries."""
