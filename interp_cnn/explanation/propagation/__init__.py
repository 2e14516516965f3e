"""Layer-wise relevance propagation and DeepLIFT on a tape of the network's operations."""

from interp_cnn.explanation.propagation.composites import RuleChoice
from interp_cnn.explanation.propagation.deeplift import deeplift
from interp_cnn.explanation.propagation.lrp import lrp
from interp_cnn.explanation.propagation.tape import Tape, record

__all__ = [
    "RuleChoice",
    "Tape",
    "deeplift",
    "lrp",
    "record",
]
