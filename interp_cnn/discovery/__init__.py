"""What a network's layers stand for, from mined patterns to verified pictures: stages that are kept in a run folder.

sources   which layer of which network: an interpretable network's map with and without its mask
mining    patterns, and filters judged alike, with their strongest occurrences
stages    one result, one file; made again only when something that it depends on has changed
verifying measures, causal effects, decoder, pictures and whether the network sees the pattern in them
tables    a row per unit, and the networks side by side with intervals
"""
