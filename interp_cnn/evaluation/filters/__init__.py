"""Numbers that rank filters: location instability, tracking, part interpretability, and their baselines.

`measure_network`   all of them, in two passes over the images (`passes`, `observations`); `comparison` of two networks
`location_instability`, `tracking`, `part_interpretability`, `dissection`, `selectivity`, `translation`, `noise`
`regions`, `threshold`   which pixels a filter points at
`baselines`         what a filter scores that does not look
`decisions`, `scoring_sheet`   filters as reasons of decisions
"""
