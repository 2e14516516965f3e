"""Pages of relevance maps: records, panels, costs."""
