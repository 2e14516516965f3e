"""The interpretable convolutional layer: a layer, the mask of the part that each of its filters found.

In the forward pass every feature map is multiplied by the template of its own peak, cut off at zero, so that only
what lies around the part goes on to the next layer:

    mu = argmax_ij x_ij        y = x o max(T_mu, 0)

The peak of the mask is 1. The mask is a constant for back-propagation; the negative template is never used here;
a map that is zero everywhere stays zero and has no gradient. Whether a filter learns a part is decided by the
filter loss (`filter_loss`); the mask alone is the ablation `mask_only`.

`make_interpretable` puts masks behind any named layers of any network.

Source: Zhang, Wu, Zhu, Interpretable Convolutional Neural Networks, CVPR 2018, section 3.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from interp_cnn.model.auxiliary_loss import AuxiliaryLoss
from interp_cnn.model.layer_shapes import layer_shapes
from interp_cnn.model.paper_variants import BETA_RULES, beta_of_spread
from interp_cnn.model.templates import (
    BANK_CELLS,
    distance_kernel,
    evidence_between,
    peak_positions,
    template_distances,
    template_values,
    undecided_peaks,
    windows_at,
)


class TemplateMask(nn.Module):
    """Multiplies each feature map by the positive part of its template.

    Explanations recognise it by what it answers (`interp_cnn.explanation.network.part_mask.PartMask`).

    Args:
        filters: number of filters D.
        beta: steepness of the templates.
        norm: "l2" or "l1".
        position: "argmax", "centroid" or "template" (`peak_positions`).
        beta_rule: "fixed", or "spread": one per filter, following the released code, which makes templates as wide
            as the maps are.
        strength: share of the mask that is applied, from 0 to 1; what the mask hides then keeps the part 1 - strength.
        enabled: False makes it the identity: the plain twin has the same modules.
        rectify: set negative activations to zero first; needed where the layer does not end in a ReLU.
    """

    def __init__(
        self,
        filters: int,
        *,
        beta: float = 4.0,
        norm: str = "l2",
        position: str = "argmax",
        beta_rule: str = "fixed",
        strength: float = 1.0,
        enabled: bool = True,
        rectify: bool = True,
    ):
        super().__init__()
        if beta_rule not in BETA_RULES:
            raise ValueError(f"beta_rule is {beta_rule!r}; expected one of {', '.join(BETA_RULES)}")
        if not beta > 0:
            raise ValueError(f"beta is {beta}; expected a positive number")
        if not 0 <= strength <= 1:
            raise ValueError(f"strength is {strength}; expected a share from 0 to 1")
        self.filters = filters
        self.norm = norm
        self.position = position
        self.beta_rule = beta_rule
        self.enabled = enabled
        self.rectify = rectify
        self.strength = strength
        self.growth = 1.0  # share of the strength that a training has let grow so far
        self.keep_maps = False
        self.kept_maps: Tensor | None = None
        self.auxiliary_loss: AuxiliaryLoss | None = None
        self.beta: Tensor
        shape = (filters,) if beta_rule == "spread" else ()
        self.register_buffer("beta", torch.full(shape, float(beta)))

    def forward(self, feature_maps: Tensor) -> Tensor:
        """Masked feature maps, (B, D, h, w) like the input.

        Raises:
            ValueError: templates of D filters, and maps of another number.
        """
        if self.beta.dim() and feature_maps.shape[1] != self.filters:
            raise ValueError(
                f"mask has templates for {self.filters} filters, got {feature_maps.shape[1]} maps"
            )
        if self.rectify:
            feature_maps = feature_maps.relu()
        if self.keep_maps:
            # A compiled network breaks here, so that the rest of it goes on with the very tensor that is kept.
            # (pyright: `disable` is not annotated, it hands out a function where it is given one.)
            keep = torch.compiler.disable(self._kept) if torch.compiler.is_compiling() else self._kept
            feature_maps = keep(feature_maps)  # pyright: ignore[reportArgumentType, reportAssignmentType]
        if not self.enabled:
            return feature_maps
        positions = self._cells(feature_maps, self.position)
        if feature_maps.requires_grad and not torch.compiler.is_exporting():
            return _MaskedMaps.apply(feature_maps, positions, self)
        return feature_maps * self.factors_at(positions, *feature_maps.shape[2:]).to(feature_maps.dtype)

    def _kept(self, feature_maps: Tensor) -> Tensor:
        self.kept_maps = feature_maps
        if not feature_maps.requires_grad:
            return feature_maps
        self.auxiliary_loss = AuxiliaryLoss(feature_maps)
        return self.auxiliary_loss.attached()

    def positions(self, feature_maps: Tensor) -> Tensor:
        """Where the masks lie on maps (B, D, h, w) as they enter the layer: (B, D) row-major cells."""
        return self._cells(feature_maps.relu() if self.rectify else feature_maps, self.position)

    def fitted_cells(self, feature_maps: Tensor) -> Tensor:
        """The cell whose template fits each map best, (B, D), wherever the layer itself puts its mask."""
        return self._cells(feature_maps.relu() if self.rectify else feature_maps, "template")

    def _cells(self, maps: Tensor, position: str) -> Tensor:
        return peak_positions(maps.detach(), position=position, beta=self.beta, norm=self.norm)

    def evidence_between(self, positions: Tensor, others: Tensor, height: int, width: int) -> Tensor:
        """Weights (B, D, h, w) whose sum over a map is positive where the layer prefers `positions` to `others`."""
        return evidence_between(
            positions,
            others,
            (height, width),
            position=self.position,
            beta=self.beta,
            norm=self.norm,
        )

    def undecided(self, feature_maps: Tensor, inexact: Tensor | None, rounding: float) -> Tensor:
        """Whose mask could lie elsewhere if the values (B, D, h, w) were rounded otherwise, (B, D); see `PartMask`."""
        if not self.enabled:
            return torch.zeros(feature_maps.shape[:2], dtype=torch.bool, device=feature_maps.device)
        return undecided_peaks(
            feature_maps.relu() if self.rectify else feature_maps,
            inexact,
            rounding,
            position=self.position,
            beta=self.beta,
            norm=self.norm,
        )

    def masks_at(self, positions: Tensor, height: int, width: int) -> Tensor:
        """Masks for given positions, (B, D) flat cells -> (B, D, h, w) in [0, 1]."""
        beta, options = self.beta, {"norm": self.norm, "device": positions.device}
        if beta.dim() == 0 and height * width <= BANK_CELLS:
            bank = template_distances(height, width, **options)  # of all cells, kept
            return template_values(bank, beta, floor=0)[positions]
        distances = distance_kernel(height, width, **options)
        if beta.dim() == 0:
            return windows_at(template_values(distances, beta, floor=0), positions, height, width)
        windows = windows_at(distances, positions, height, width)  # (B, D, h, w)
        return template_values(windows, beta[:, None, None], floor=0)

    def factors_at(self, positions: Tensor, height: int, width: int) -> Tensor:
        """What the maps are multiplied by: `masks_at` at the strength that is applied, (B, D, h, w)."""
        masks = self.masks_at(positions, height, width)
        strength = self.strength * self.growth
        return masks if strength == 1 else masks.mul_(strength).add_(1 - strength)

    @torch.no_grad()
    def match_spread(self, feature_maps: Tensor, *, rate: float = 0.05) -> None:
        """Moves beta towards that of the maps' spread (`beta_of_spread`)."""
        self.beta.lerp_(beta_of_spread(feature_maps).to(self.beta), rate)

    def extra_repr(self) -> str:
        return f"{self.filters}, {self.norm}, {self.position}, beta {self.beta_rule}, enabled={self.enabled}"


class _MaskedMaps(torch.autograd.Function):
    """x o mask, keeping the positions instead of the mask."""

    rectifies = False  # told to guided back-propagation

    @staticmethod
    def forward(ctx, feature_maps: Tensor, positions: Tensor, mask: TemplateMask) -> Tensor:
        ctx.mask = mask
        ctx.save_for_backward(positions)
        return mask.factors_at(positions, *feature_maps.shape[2:]).to(feature_maps.dtype).mul_(feature_maps)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (positions,) = ctx.saved_tensors
        masks = ctx.mask.factors_at(positions, *gradient.shape[2:]).to(gradient.dtype)
        return masks.mul_(gradient), None, None


class MaskedLayer(nn.Module):
    """A layer and the mask behind it."""

    def __init__(self, layer: nn.Module, mask: TemplateMask):
        super().__init__()
        self.layer = layer
        self.mask = mask

    def forward(self, *args, **kwargs) -> Tensor:
        """Masked output of the layer, which is called as the network calls it."""
        return self.mask(self.layer(*args, **kwargs))


def make_interpretable(
    network: nn.Module,
    layers: Sequence[str] | str,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    extra_conv: bool = False,
    **mask_options: Any,
) -> nn.Module:
    """Puts a template mask behind each named layer of a network, in place.

    Args:
        network: any classifier.
        layers: dotted module names whose output is (B, D, h, w). In a residual network the name of a block masks
            the map after the addition, the name of its last normalisation (`layer4.1.bn2`) the branch before it.
        image_size: (H, W) of one image on which the network is run to learn each layer's number of filters; None:
            224 x 224, and only as far as the layers, so that a head for another size does not matter. The mask
            itself takes maps of any size.
        channels: image channels; None: those of the network's first convolution.
        extra_conv: also put the publication's new 3 x 3 convolution (as many filters, ReLU) and its mask behind
            the last of the layers.
        **mask_options: arguments of `TemplateMask`.

    Returns:
        The same network; each named layer is now a `MaskedLayer`.

    Raises:
        ValueError: an unknown layer, one that is masked already, one whose output is no feature map, or a network
            that does not run.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> network = make_interpretable(network, "1", image_size=(8, 8))
        >>> list(template_masks(network)), network(torch.rand(2, 3, 8, 8)).shape
        (['1'], torch.Size([2, 5]))
    """
    layers = [layers] if isinstance(layers, str) else list(layers)
    if not layers:
        raise ValueError("layers is empty; name at least one layer to make interpretable")
    if len(set(layers)) < len(layers):
        raise ValueError(f"layers names a layer twice: {', '.join(layers)}")
    modules = dict(network.named_modules())
    for name in layers:
        for part in (name, name.rpartition(".")[0]):
            if isinstance(modules.get(part), MaskedLayer):
                raise ValueError(
                    f"layers names {name}, which has a mask already; expected layers without one"
                )
    shapes = layer_shapes(network, layers, image_size=image_size, channels=channels)
    for name in sorted(layers, key=lambda name: -name.count(".")):  # a layer within another one first
        filters = shapes[name][0]
        layer = network.get_submodule(name)
        masked: nn.Module = MaskedLayer(layer, TemplateMask(filters, **mask_options))
        if extra_conv and name == layers[-1]:
            convolution = nn.Sequential(nn.Conv2d(filters, filters, 3, padding=1), nn.ReLU())
            masked = nn.Sequential(masked, MaskedLayer(convolution, TemplateMask(filters, **mask_options)))
        _replace(network, name, masked)
    return network


def template_masks(network: nn.Module) -> dict[str, TemplateMask]:
    """The masks of a network by the name of the layer that they mask (`conv5`, not `conv5.mask`)."""
    return {
        name.removesuffix(".mask"): module
        for name, module in network.named_modules()
        if isinstance(module, TemplateMask)
    }


@contextmanager
def kept_feature_maps(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within this context the masks keep the maps that they see; the dictionary holds them after a forward pass.

    Each mask then has a `pull`, too: a loss of its maps whose gradient joins the task's in the backward pass.
    """
    masks = template_masks(network)
    maps = _KeptMaps(masks)
    try:
        for mask in masks.values():
            mask.keep_maps = True
        yield maps
    finally:
        for mask in masks.values():
            mask.keep_maps = False
            mask.kept_maps = mask.auxiliary_loss = None


class _KeptMaps(dict):
    """Looks the maps up when they are asked for."""

    def __init__(self, masks: dict[str, TemplateMask]):
        super().__init__({name: None for name in masks})
        self.masks = masks

    def __getitem__(self, name: str) -> Tensor:
        maps = self.masks[name].kept_maps
        assert maps is not None, "the network has not run within kept_feature_maps"
        return maps


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
