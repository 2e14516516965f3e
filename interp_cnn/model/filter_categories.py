"""Which category a filter belongs to.

The publication gives a filter to the category whose images excite it most: c = argmax_c mean_{I in I_c} sum_ij x_ij.
A sum over the map, before the mask, rather follows the classes with much in the picture: on digits 41 % of the filters
then carried another class than most of their ten strongest images, 11 % one that none of the ten shows (one seed, code
of bb8a0f8). The released code's mean of each map's maximum with a decay of 0.9 is what people see a filter by, and the
default: 12 % and none, for the same network. Both statistics are buffers, so they
travel in the state dict; they change in training mode only, from training labels only; and nobody needs a label to
use the network afterwards.

Source: Zhang, Wu, Zhu, Interpretable Convolutional Neural Networks, CVPR 2018, section 3.2, and the released code.
"""

import torch
from torch import Tensor, nn

from interp_cnn.model.distributed import sum_over_ranks
from interp_cnn.model.paper_variants import ASSIGNMENTS, response_of


class FilterCategories(nn.Module):
    """Running mean response of every filter to every category.

    Args:
        filters: number of filters D.
        num_classes: number of categories K.
        background: index of a class that gets no filters (the negatives of a single-category task), or None.
        rule: "maximum", the released code's peak, or "sum", the paper's sum over the map.
        decay: how much of the old value a batch keeps.
    """

    def __init__(
        self,
        filters: int,
        num_classes: int,
        *,
        background: int | None = None,
        rule: str = "maximum",
        decay: float = 0.9,
    ):
        super().__init__()
        if rule not in ASSIGNMENTS:
            raise ValueError(f"rule is {rule!r}; expected one of {', '.join(ASSIGNMENTS)}")
        if background is not None and not 0 <= background < num_classes:
            raise ValueError(
                f"background is {background}; expected a class index below {num_classes} or None"
            )
        self.num_classes = num_classes
        self.background = background
        self.rule = rule
        self.decay = decay
        self.response: Tensor
        self.seen: Tensor
        self.register_buffer("response", torch.zeros(filters, num_classes))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, feature_maps: Tensor, labels: Tensor) -> None:
        """Adds one training batch: feature_maps (B, D, h, w), labels (B,)."""
        strength = response_of(feature_maps.float(), self.rule)  # (B, D)
        classes = torch.arange(self.num_classes, device=labels.device)
        members = (labels[:, None] == classes).to(strength.dtype)  # (B, K)
        total = sum_over_ranks(strength.T @ members)  # (D, K)
        count = sum_over_ranks(members.sum(0))  # (K,)
        present = count > 0
        mean = total / count.clamp(min=1)
        decay = torch.where(self.seen, self.decay, 0.0)
        self.response.copy_(torch.where(present, self.response * decay + mean * (1 - decay), self.response))
        self.seen.logical_or_(present)

    @property
    def assigned(self) -> Tensor:
        """(D,) category of every filter."""
        response = self.response
        if self.background is not None:
            response = response.clone()
            response[:, self.background] = -torch.inf
        return response.argmax(1)

    def own_images(self, labels: Tensor) -> Tensor:
        """(B, D) bool: whether the image belongs to the filter's category."""
        return labels[:, None] == self.assigned[None, :]
