"""Numbers that rank relevance maps: pixel flipping, completeness, randomisation, localisation, agreement."""
