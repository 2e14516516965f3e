"""How a network is fitted: the optimiser and its schedule, checkpoints, the TensorBoard dashboard.

`classification`   the Lightning module: a network, its task's loss, and the pull of its filter losses (`loss_weight`)
`equivariance`     losses of the places of filters in two views of an image; `presence` of the classes they are dealt
`finetuning`       learning rates and freezing of pretrained weights; `trunk_maps` keeps what never changes
`inversion`        the Lightning module of a decoder
`fit`              one training from start to end; `checkpoints` what it leaves behind
`mask_board`, `confusion_board`, `boards`   what TensorBoard shows
"""
