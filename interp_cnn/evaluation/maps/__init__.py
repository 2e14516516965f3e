"""Numbers that rank relevance maps, a file each.

`pixel_flipping`   the score while the most relevant pixels go       `completeness`   do the shares sum to the logit
`randomisation`    does a map depend on what the network learned     `localisation`   does it lie on the object
`agreement`        do two maps say the same                      `grid_pointing`  does it lie in the tile of its class
`single_deletion`  is a patch worth what the map says
"""
