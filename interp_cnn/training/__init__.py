"""How a network is fitted: the optimiser and its schedule, checkpoints, the TensorBoard dashboard."""
