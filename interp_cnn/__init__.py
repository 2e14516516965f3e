"""Convolutional networks whose filters mean something, shown and measured.

The stages in order; imports run only down this list's floors, and the stages meet in the commands alone.

data         images with labels, part landmarks and masks; loaders in an order that a seed decides
model        template masks, mutual information, the networks
training     the Lightning module, one training, what TensorBoard shows
explanation  a network and images in, something to look at out: receptive fields, exemplars, occlusion, relevance
evaluation   a number that ranks networks: location instability, part tracking, baselines, intervals
figures      tensors in, RGB out
report       numbers and pictures in, linked pages out
exports      filters, maps, tables and the network as files that other programs read
runs         a run folder on disk and the network in it
compare, train, explain, evaluate, export, board        the commands; cli finds them
"""
