"""What the machine has, and how it is used.

`memory`        how much memory and how many cores this process may use
`cuda_graphs`   work on a GPU, recorded once and replayed
"""
