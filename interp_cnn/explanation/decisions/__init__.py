"""Why this decision: the shares that a layer's filters have in a logit, and what is left of it without them."""

from interp_cnn.explanation.decisions.class_filters import (
    ClassFilters,
    class_filters,
    image_shares,
    right_with_few,
)
from interp_cnn.explanation.decisions.contributions import Contributions, filter_contributions
from interp_cnn.explanation.decisions.filter_relevance import filter_relevance
from interp_cnn.explanation.decisions.removal import Removal, removal

__all__ = [
    "ClassFilters",
    "Contributions",
    "Removal",
    "class_filters",
    "filter_contributions",
    "filter_relevance",
    "image_shares",
    "removal",
    "right_with_few",
]
