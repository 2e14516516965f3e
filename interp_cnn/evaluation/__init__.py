"""Numbers that rank networks and maps, each with its interval and its baselines.

`filters/`     what a network's filters are: instability, tracking, part interpretability, selectivity
`maps/`        what relevance maps are worth: pixel flipping, completeness, randomisation, localisation, agreement
`network`      all measures of the filters of one network, from the network and a data set
`concepts`, `reconstructions`   mined patterns and drawings of them
`statistics`   intervals, tests and comparisons that all of them share
"""
