"""A run's filters, maps, tables and network as files that other programs read.

`manifest`   the folder: stable names, whole files, checksums, nothing made twice      `sheets`   PNG and SVG
`filters`, `maps`, `tables`, `network`   the parts, each a stream of names and contents
`card`       what the network is, in Markdown
"""
