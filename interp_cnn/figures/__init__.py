"""Figures: tensors or arrays in, RGB out.

Every function takes plain values and returns a picture as an (H, W, 3) uint8 array; nothing is shown,
nothing is written, and no global state of matplotlib is touched (`Figure` and `FigureCanvasAgg` objects
only, never `pyplot`). The same pictures serve the report, TensorBoard and the exports.

`colours`   the two themes (light, dark), colour maps that stay readable in grey, values -> colours
`pictures`  pixels: images, overlays, receptive-field outlines, montages, positions over a mean image
`panels`    maps with a colour bar, alone or side by side on one scale; contact sheets with captions
`charts`    distributions over filters with baselines, bars, training curves
`confusion` who is mistaken for whom
`matrices`  how alike things are, pair by pair
`style`     the paper that charts and panels are drawn on
"""

from interp_cnn.figures.charts import bars, distributions, training_curves
from interp_cnn.figures.colours import COLOUR_MAPS, DARK, LIGHT, Theme, colour_of, common_limits
from interp_cnn.figures.confusion import confusion_matrix
from interp_cnn.figures.panels import contact_sheet, side_by_side
from interp_cnn.figures.pictures import (
    crop_around,
    draw_boxes,
    draw_positions,
    enlarge,
    lit,
    montage,
    outline,
    overlay,
    region_and_part,
    resize,
    resize_map,
    spotlight,
    to_rgb,
)

__all__ = [
    "COLOUR_MAPS",
    "DARK",
    "LIGHT",
    "Theme",
    "bars",
    "colour_of",
    "common_limits",
    "confusion_matrix",
    "contact_sheet",
    "crop_around",
    "distributions",
    "draw_boxes",
    "draw_positions",
    "enlarge",
    "lit",
    "montage",
    "outline",
    "overlay",
    "region_and_part",
    "resize",
    "resize_map",
    "side_by_side",
    "spotlight",
    "to_rgb",
    "training_curves",
]
