"""The filter loss of one interpretable layer: scale-free, with everything that it remembers in its state dict.

The literal loss has no gradient on activations of ordinary size: with tau = 0.5 / n^2 and a peak of 1 the mutual
information is 1e-4 nats. So the maps are divided by a running scale of each filter first and multiplied by a
temperature, which then has a meaning: a map that is one cell of typical peak height scores `temperature` nats at its
own template.

Source: Zhang, Wu, Zhu, Interpretable Convolutional Neural Networks, CVPR 2018, sections 3.1-3.2. What the publication
and its code do otherwise can be chosen (`paper_variants`).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp_cnn.hardware.cuda_graphs import replays_on
from interp_cnn.model import recorded_steps
from interp_cnn.model.distributed import mean_over_ranks, world_size
from interp_cnn.model.filter_categories import FilterCategories
from interp_cnn.model.layer_information import (
    LayerInformation,
    information_and_gradient,
    layer_information,
)
from interp_cnn.model.paper_variants import GRADIENTS, LABEL_BASED
from interp_cnn.model.templates import (
    BANK_CELLS,
    distance_kernel,
    peak_positions,
    template_distances,
)

RECORDED_BYTES = 64 << 20  # of scores; the kernels of larger ones take longer than launching them


class FilterLossTerms(NamedTuple):
    """What one batch says about a layer; all but `loss` are for looking at."""

    loss: Tensor  # () nats, mean over filters
    information: Tensor  # (D,) mutual information in nats
    category_entropy: Tensor  # (D,) nats
    spatial_entropy: Tensor  # (D,) nats


class FilterLoss(nn.Module):
    """-MI of every filter of a layer, averaged over filters.

    Args:
        filters: number of filters D.
        grid: rows and columns of the feature map at the size of image that the network is trained on.
        num_classes: number of categories K.
        background: class without filters, or None.
        norm: distance of the templates, "l2" or "l1".
        temperature: nats, see above.
        gradient: "autograd", or "frozen_partition", "target_template" or "released_code" of `paper_variants`.
        position: where a map's part is, for the two label-based gradients, see `peak_positions`.
        assignment: rule of `FilterCategories`, "maximum" or "sum".

    Example:
        >>> loss = FilterLoss(4, (6, 6), num_classes=3)
        >>> maps, labels = torch.rand(5, 4, 6, 6), torch.tensor([0, 1, 2, 0, 1])
        >>> terms = loss(maps, labels, torch.tensor(4.0))
        >>> terms.loss.shape, terms.information.shape
        (torch.Size([]), torch.Size([4]))
    """

    def __init__(
        self,
        filters: int,
        grid: tuple[int, int],
        *,
        num_classes: int,
        background: int | None = None,
        norm: str = "l2",
        temperature: float = 3.0,
        gradient: str = "autograd",
        position: str = "argmax",
        assignment: str = "maximum",
    ):
        super().__init__()
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient is {gradient!r}; expected one of {', '.join(GRADIENTS)}")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a positive number of nats")
        height, width = grid
        self.grid = (height, width)
        self.norm = norm
        self.temperature = temperature
        self.gradient = gradient
        self.position = position
        self.steps = recorded_steps.RecordedSteps()
        self.categories = FilterCategories(filters, num_classes, background=background, rule=assignment)
        self.scale: Tensor
        self.batches: Tensor
        self.register_buffer("scale", torch.ones(filters))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, feature_maps: Tensor, labels: Tensor | None, beta: Tensor) -> FilterLossTerms:
        """Loss of a batch; in training mode it also updates what is remembered.

        Args:
            feature_maps: (B, D, h, w) before the mask, not negative.
            labels: (B,) category of every image; needed in training mode and for the label-based gradients.
            beta: () or (D,) steepness of the templates.
        """
        if tuple(feature_maps.shape[2:]) != self.grid:
            raise ValueError(
                f"feature maps are {tuple(feature_maps.shape[2:])}; this loss was made for a grid of {self.grid}"
            )
        if self.training:
            if labels is None:
                raise ValueError("labels are missing; training needs the category of every image")
            if self._replays(feature_maps):
                return self._replayed(feature_maps, labels, beta)
            self.observe(feature_maps, labels)
        with _full_precision(feature_maps):
            with torch.no_grad():
                settings = self._settings(feature_maps, labels, beta)
            values = layer_information(feature_maps, beta, settings)
            loss = -values.value.mean()
        return FilterLossTerms(loss, values.value.detach(), values.category_entropy, values.spatial_entropy)

    def _replays(self, feature_maps: Tensor) -> bool:
        """Whether launching the step's kernels may take longer than running them."""
        return (
            replays_on(feature_maps.device)
            and feature_maps.requires_grad
            and feature_maps.dtype != torch.float64
            and 4 * feature_maps.numel() <= RECORDED_BYTES
            and world_size() == 1
            and not torch.compiler.is_compiling()
        )

    def _replayed(self, feature_maps: Tensor, labels: Tensor, beta: Tensor) -> FilterLossTerms:
        height, width = self.grid
        options = {"norm": self.norm, "device": feature_maps.device}
        self.steps.kept = (  # recordings read them where they lie
            distance_kernel(height, width, **options),
            template_distances(height, width, **options) if height * width <= BANK_CELLS else None,
        )
        settings = (self.temperature, self.gradient, self.position, self.norm)
        categories = self.categories
        figures, of_maps = self.steps.run(
            self._step,
            feature_maps.detach(),
            labels,
            beta,
            memory=list(self.buffers()),
            options=(*settings, categories.rule, categories.decay, categories.background),
        )
        loss = recorded_steps.WithGradient.apply(feature_maps, figures[-1], of_maps)
        return FilterLossTerms(loss, *figures[:-1].view(3, -1))

    def _step(self, maps: Tensor, labels: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """(3D + 1,) information, both entropies and the loss; the gradient of the loss for the maps."""
        self.observe(maps, labels)
        with _full_precision(maps):
            settings = self._settings(maps, labels, beta)
            values, of_maps = information_and_gradient(maps, beta, settings)
            loss = -values.value.mean()
        figures = torch.cat([values.value, values.category_entropy, values.spatial_entropy, loss[None]])
        return figures, of_maps

    @torch.no_grad()
    def observe(self, feature_maps: Tensor, labels: Tensor) -> None:
        """Updates categories and scale alone: feature_maps (B, D, h, w) before the mask, labels (B,)."""
        with _full_precision(feature_maps):
            self.categories.update(feature_maps, labels)
            self._update_scale(feature_maps)

    def _settings(self, feature_maps: Tensor, labels: Tensor | None, beta: Tensor) -> LayerInformation:
        positions = members = None
        label_based = self.gradient in LABEL_BASED
        if labels is not None and label_based:
            positions = peak_positions(feature_maps, position=self.position, beta=beta, norm=self.norm)
            members = self.categories.own_images(labels)
        return LayerInformation(
            gain=self.temperature / self.scale,
            gradient="autograd" if labels is None and label_based else self.gradient,
            norm=self.norm,
            positions=positions,
            members=members,
            across_ranks=True,
        )

    def _update_scale(self, feature_maps: Tensor) -> None:
        observed = mean_over_ranks(feature_maps.float().amax((2, 3)).mean(0)).clamp(min=1e-6)
        followed = (self.scale * 0.98).add_(observed, alpha=1 - 0.98)
        self.scale.copy_(torch.where(self.batches == 0, observed, followed))  # the host does not look
        self.batches += 1


def _full_precision(values: Tensor) -> torch.autocast:
    """Autocast switched off: sums over cells overflow half precision."""
    return torch.autocast(values.device.type, enabled=False)
