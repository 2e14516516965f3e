"""A network as the methods see it.

`logits`         the score of a question, and what is checked before one is asked
`feature_maps`   the maps of a layer       `layers`      a layer by its name or itself
`part_mask`      what a mask answers       `contrast`    differences of logits as a network of their own
`placement`      where a network lies      `precision`   true float32, and what was chosen instead
`refusals`       what a method cannot answer, as a type
`watch`, `image_by_image`, `tried`   is a network what it seems: deterministic, one image at a time, as it was
`randomness`     noise that belongs to an image
"""
