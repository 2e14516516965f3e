"""Witnesses: networks that had no part in a picture look at it beside the image that it was drawn from.

A decoder learns to draw what the network that it inverts wants to see, so it proves little that this network sees the
concept again. A witness was never asked while the decoder learned. It brings concepts of its own:

    again    of its concepts that fire on the image within a cell of the place, the share that fires in the picture
    control  the same share of those that do not fire there on the image
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.concepts.concepts import Concept, FiringRule
from interp_cnn.explanation.network.feature_maps import feature_maps_and_logits
from interp_cnn.storage.brief import Brief


@dataclass(frozen=True, eq=False, repr=False)
class Witness(Brief):
    """Another network.

    Attributes:
        network: any classifier; keeps its mode.
        layer: dotted module name.
        rule: when one of its concepts is there.
        concepts: of its own.
    """

    network: nn.Module
    layer: str
    rule: FiringRule
    concepts: Sequence[Concept]


def witnessed(
    witnesses: Sequence[Witness], images: Tensor, pictures: Tensor, places: Tensor, *, tolerance: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Again and control (B,) float64 over the concepts of all witnesses, NaN where there are none, and the classes
    (B, n) that the n witnesses see in the pictures.

    Args:
        witnesses: any number.
        images: (B, C, H, W).
        pictures: (B, C, H, W), drawn of them.
        places: (B, 2) row and column, relative to the image.
        tolerance: cells by which a concept may be off.
    """
    before, after = ([torch.zeros(len(images), 0, dtype=torch.float64)] for _ in range(2))
    classes = [torch.zeros(len(images), 0, dtype=torch.int64)]
    for witness in witnesses:
        for seen, fired in ((images, before), (pictures, after)):
            maps, logits = feature_maps_and_logits(witness.network, seen, witness.layer)
            cells = (places * torch.tensor(maps.shape[2:])).long()
            fired.append(fires_near(maps, witness.concepts, cells, witness.rule, tolerance).double())
        classes.append(logits.argmax(dim=1, keepdim=True).cpu())
    then, now = torch.cat(before, dim=1), torch.cat(after, dim=1)  # (B, Q)
    again = (then * now).sum(dim=1) / then.sum(dim=1)
    control = ((1 - then) * now).sum(dim=1) / (1 - then).sum(dim=1)
    return again, control, torch.cat(classes, dim=1)


def fires_near(
    maps: Tensor, concepts: Sequence[Concept], cells: Tensor, rule: FiringRule, tolerance: int
) -> Tensor:
    """(B, Q) 1 where a concept fires within the tolerance of the cell (B, 2) of maps (B, D, h, w), on the CPU."""
    if not concepts:
        return torch.zeros(len(cells), 0)
    fires = rule.fires(maps, concepts).float()
    spread = F.max_pool2d(fires, 2 * tolerance + 1, stride=1, padding=tolerance).cpu()
    return spread[torch.arange(len(cells)), :, cells[:, 0], cells[:, 1]]
