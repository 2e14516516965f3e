"""What single filters fire for: exemplars, occlusion of a filter, empirical receptive fields, pictures by
optimisation.
"""

from interp_cnn.explanation.filters.empirical_field import EmpiricalField, empirical_field
from interp_cnn.explanation.filters.exemplars import Exemplars, exemplars
from interp_cnn.explanation.filters.feature_visualisation import FilterPictures, visualise_filters
from interp_cnn.explanation.filters.occlusion import FilterScores, filter_occlusion

__all__ = [
    "EmpiricalField",
    "Exemplars",
    "FilterPictures",
    "FilterScores",
    "empirical_field",
    "exemplars",
    "filter_occlusion",
    "visualise_filters",
]
