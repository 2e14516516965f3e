"""A run folder on disk: its configuration, weights, data and twins.

`folder`     a trained network and all that it was trained with; `places` finds runs, `twins` those that belong together
`networks`   a network by name instead; `normalisation`, `choices` what is taken for granted with it
`inputs`     the networks and images that a command is about
`measuring`  a run's measures; `decoders` its decoder, trained where there is none
`images`, `moved_images`   which images a network has seen, and where they are now
`going_on`, `epochs`, `provenance`   what a training is resumed from, how long it was, what it came from
"""
