"""Reconstruction: a picture of what a concept stands for, and whether the network sees the concept in it again.

A decoder draws a picture from feature maps of which only a part is kept:

    window     all channels in the 3 x 3 cells around the occurrence (the default)
    channels   the concept's channels alone, at every position
    full       everything: the ceiling
    ablate     everything but the concept's channels in the window
    refine     the concept's channels in the window alone, then gradient steps on the picture towards these values

Of an atom not its channels are kept or taken out but the share of them that it brings (`FiringRule.shares`).

The picture goes back through the network. Re-activation: the concept fires within a cell of where it was. Control: the
share of unrelated concepts (other channels, another category) that fire there. Rank: how many of all concepts are, in
units of what is typical of each on real images, stronger anywhere in the picture. A picture whose re-activation does
not exceed its control says nothing about the concept, however good it looks: a decoder that was not trained on parts
of maps draws such pictures only. Other networks, which the decoder was not trained for, are asked too (`witness`).

Decoders: Dosovitskiy and Brox, "Inverting Visual Representations with Convolutional Networks", CVPR 2016. Synthesis
from patterns: Zhang, Cao, Shi, Wu, Zhu, "Interpreting CNN Knowledge via an Explanatory Graph", AAAI 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from interp_cnn.explanation.concepts.concepts import Concept, FiringRule, unrelated
from interp_cnn.explanation.concepts.cross_network import Witness, fires_near, witnessed
from interp_cnn.explanation.network.feature_maps import (
    differentiable_maps_and_logits,
    evaluation_mode,
    feature_maps,
    feature_maps_and_logits,
)
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.storage.brief import Brief

MODES = ("window", "channels", "full", "ablate", "refine")
REFINING_STEPS = 10
REFINING_RATE = 0.05  # of Adam, in units of the pixels' range


@dataclass(frozen=True, eq=False, repr=False)
class Verification(Brief):
    """M pictures of one mode, one per concept and occurrence, and what the network makes of them.

    Attributes:
        mode: how they were drawn.
        concepts: (M,) int64, number of the concept.
        images: (M,) int64, number of the image.
        reactivated: (M,) float64, 1 where the concept fires again.
        control: (M,) float64, share of unrelated concepts that fire; NaN where there are none.
        rank: (M,) float64, 1 for the concept that is strongest in its own picture.
        own_class: (M,) float64, 1 where the network sees the concept's category.
        witnessed: (M,) float64, share of the witnesses' own concepts that fire at the place on the image and fire
            there again; NaN where none fires.
        witnessed_control: (M,) float64, the same of those that do not fire there on the image.
        pictures: (M, C, H, W) uint8, what was drawn.
        other_class: name of another network -> the same for it.
    """

    mode: str
    concepts: Tensor
    images: Tensor
    reactivated: Tensor
    control: Tensor
    rank: Tensor
    own_class: Tensor
    witnessed: Tensor
    witnessed_control: Tensor
    pictures: Tensor
    other_class: dict[str, Tensor]

    def of(self, values: Tensor, concept: int) -> float:
        """Mean of some of the above over one concept's pictures."""
        return float(values[self.concepts == concept].mean())


@dataclass(frozen=True, eq=False, repr=False)
class Reconstructor(Brief):
    """Draws and verifies pictures of one layer of one network.

    Attributes:
        network: any classifier; keeps its mode.
        decoder: feature maps (B, D, h, w) -> pictures (B, C, H, W) in [0, 1].
        layer: dotted module name.
        rule: when a concept is there.
        reach: cells around an occurrence that belong to its window.
        tolerance: cells by which a concept may be off and still counts as re-activated.
        others: further networks that look at a picture, by name.
        batch_size: pictures at a time.
    """

    network: nn.Module
    decoder: nn.Module
    layer: str
    rule: FiringRule
    reach: int = 1
    tolerance: int = 1
    others: Mapping[str, Witness] = field(default_factory=dict)
    batch_size: int = 64

    @chosen_precision()
    def pictures(self, images: Tensor, concepts: Sequence[Concept], cells: Tensor, *, mode: str) -> Tensor:
        """Pictures (B, C, H, W).

        Args:
            images: (B, C, H, W), where the concepts occur.
            concepts: B, one per image.
            cells: (B, 2) (row, column) of the occurrences.
            mode: one of `MODES`.
        """
        maps = feature_maps(self.network, images, self.layer)
        kept = kept_parts(self.rule.shares(maps, concepts), cells, mode=mode, reach=self.reach)
        with evaluation_mode(self.decoder), torch.no_grad():
            drawn = self.decoder(maps * kept)
        return self._refined(drawn, maps, kept) if mode == "refine" else drawn

    @chosen_precision()
    def verified(
        self,
        image_of: Callable[[int], Tensor],
        concepts: Sequence[Concept],
        *,
        mode: str = "window",
        advance: Callable[[int], None] = lambda count: None,
    ) -> Verification:
        """Draws every occurrence of every concept and shows the pictures to the network.

        Args:
            image_of: image number -> (C, H, W).
            concepts: at least one, with the occurrences to draw.
            mode: one of `MODES`.
            advance: hears of every so many pictures that are done.
        """
        device = device_of(self.network)
        pairs = [
            (number, *place)
            for number, concept in enumerate(concepts)
            for place in concept.occurrences.tolist()
        ]
        if not pairs:
            raise ValueError("no concept has an occurrence; expected at least one to draw")
        far = unrelated(concepts).double()
        typical = self._typical(image_of, concepts, device)
        rows = []
        for start in range(0, len(pairs), self.batch_size):
            chosen = torch.tensor(pairs[start : start + self.batch_size])
            concept_numbers, cells = chosen[:, 0], chosen[:, 2:]
            images = torch.stack([image_of(number) for number in chosen[:, 1].tolist()]).to(device)
            drawn = self.pictures(
                images, [concepts[number] for number in concept_numbers.tolist()], cells, mode=mode
            )
            maps, logits = feature_maps_and_logits(self.network, drawn, self.layer)
            near = fires_near(maps, concepts, cells, self.rule, self.tolerance)  # (B, Q)
            strongest = self.rule.strengths(maps, concepts).amax(dim=(2, 3)).cpu() / typical
            drawn_strength = strongest.gather(1, concept_numbers[:, None])
            apart = far[concept_numbers]
            categories = torch.tensor([concepts[number].category for number in concept_numbers.tolist()])
            places = (cells + 0.5) / torch.tensor(maps.shape[2:])
            again, anew, classes = witnessed(
                list(self.others.values()), images, drawn, places, tolerance=self.tolerance
            )
            rows.append(
                (
                    near.gather(1, concept_numbers[:, None]).squeeze(1).double(),
                    (near * apart).sum(dim=1) / apart.sum(dim=1),  # 0 / 0 is NaN: no unrelated concept
                    1 + (strongest > drawn_strength).sum(dim=1).double(),
                    (logits.argmax(dim=1).cpu() == categories).double(),
                    again,
                    anew,
                    (drawn * 255).round().to(torch.uint8).cpu(),
                    (classes == categories[:, None]).double(),
                )
            )
            advance(len(chosen))
        reactivated, control, rank, own_class, again, anew, drawn, by_others = (
            torch.cat(row) for row in zip(*rows, strict=True)
        )
        numbers = torch.tensor(pairs)
        other_class = dict(zip(self.others, by_others.unbind(dim=1), strict=True))
        return Verification(
            mode=mode,
            concepts=numbers[:, 0],
            images=numbers[:, 1],
            reactivated=reactivated,
            control=control,
            rank=rank,
            own_class=own_class,
            witnessed=again,
            witnessed_control=anew,
            pictures=drawn,
            other_class=other_class,
        )

    def _typical(
        self, image_of: Callable[[int], Tensor], concepts: Sequence[Concept], device: torch.device
    ) -> Tensor:
        """(Q,) mean strength of every concept at its occurrences on the real images."""
        typical = torch.ones(len(concepts))
        for number, concept in enumerate(concepts):
            at_occurrences = []
            for piece in concept.occurrences.split(self.batch_size) if len(concept.occurrences) else ():
                images = torch.stack([image_of(image) for image in piece[:, 0].tolist()]).to(device)
                strengths = self.rule.strengths(feature_maps(self.network, images, self.layer), [concept])[
                    :, 0
                ]
                at_occurrences.append(strengths.cpu()[torch.arange(len(piece)), piece[:, 1], piece[:, 2]])
            if at_occurrences:
                typical[number] = torch.cat(at_occurrences).mean().clamp(min=1e-6)
        return typical

    @torch.enable_grad()
    def _refined(self, pictures: Tensor, maps: Tensor, kept: Tensor) -> Tensor:
        """Pictures after a few steps towards the kept values of the maps."""
        pixels = pictures.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=REFINING_RATE)
        scale = self.rule.scale.to(maps)[:, None, None]
        there = (kept > 0).to(maps)
        count = there.sum(dim=(1, 2, 3)).clamp(min=1)
        for _ in range(REFINING_STEPS):
            seen, _ = differentiable_maps_and_logits(self.network, pixels, self.layer)
            error = ((seen - maps * kept) / scale * there).square().sum(dim=(1, 2, 3)) / count
            (pixels.grad,) = torch.autograd.grad(error.sum(), [pixels])
            optimizer.step()
            with torch.no_grad():
                pixels.clamp_(0, 1)
        return pixels.detach()


def kept_parts(shares: Tensor, cells: Tensor, *, mode: str, reach: int = 1) -> Tensor:
    """The share of every activation that a mode keeps, (B, D, h, w).

    Args:
        shares: (B, D, h, w), which belongs to the concept (`FiringRule.shares`).
        cells: (B, 2).
        mode: one of `MODES`.
        reach: cells around an occurrence that belong to its window.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    if mode == "full":
        return torch.ones_like(shares)
    if mode == "channels":
        return shares
    height, width = shares.shape[2:]
    inside = torch.zeros_like(shares[:, :1])
    for place, (row, column) in enumerate(cells.tolist()):
        rows = slice(max(0, row - reach), min(height, row + reach + 1))
        columns = slice(max(0, column - reach), min(width, column + reach + 1))
        inside[place, :, rows, columns] = 1.0
    if mode == "window":
        return inside.expand_as(shares)
    return 1 - shares * inside if mode == "ablate" else shares * inside
