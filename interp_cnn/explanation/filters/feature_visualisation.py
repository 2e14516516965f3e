"""Feature visualisation: pictures that make single filters fire as much as a picture of a kind can.

    picture(c) = argmax over pictures p of   E_t peak(c, t(p)) / s  -  closeness * distance(p, start)

Gradient ascent on the parameters of a picture (`picture_parameters`); t moves, resizes and disturbs it a little in
every step, so that what is found does not hang on single pixels. All channels' pictures are optimised at once, each by
its own channel. From noise (Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017; Fel et al., NeurIPS
2023), or from a real image that is changed no more than the filter asks (Hamblin, Fel, Saha, Konkle, Alvarez, "Feature
Accentuation", 2024): s is then the filter's response to that image, and the distance the mean squared change of the
layer's other filters, relative to their mean square.

A picture shows what suffices for a filter, not what it fires for in the world: people predict filters better from real
images (Borowski et al., ICLR 2021), and such pictures can be made to show anything (Geirhos et al., "Don't trust your
eyes", ICML 2024). So each is shown to networks again (`picture_checks`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.filters.picture_parameters import PARAMETRISATIONS
from interp_cnn.explanation.network.feature_maps import differentiable_maps_and_logits, feature_maps
from interp_cnn.explanation.network.layers import layer_name
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.explanation.network.randomness import normal_noise
from interp_cnn.storage.brief import Brief

OBJECTIVES = ("peak", "mean")
POOL = 64  # pictures of noise, of which every filter starts from the one that it answers most
SHIFT, ZOOM, NOISE = 0.06, 0.08, 0.02  # of the side, of the size, of the pixels' range


@dataclass(frozen=True, eq=False, repr=False)
class FilterPictures(Brief):
    """N pictures of filters of one layer.

    Attributes:
        layer: dotted module name.
        channels: (N,) int64, whose pictures they are.
        pictures: (N, C, H, W) in [0, 1], in steps of 1/255: what a file of them holds.
        starts: (N, C, H, W) likewise, what they began as.
        responses: (N,), the filter's peak on its finished picture, not moved.
    """

    layer: str
    channels: Tensor
    pictures: Tensor
    starts: Tensor
    responses: Tensor

    def __len__(self) -> int:
        return len(self.channels)


@torch.inference_mode(False)
@chosen_precision()
def visualise_filters(
    network: nn.Module,
    images: Tensor,
    channels: Sequence[int] | Tensor,
    *,
    layer: str | nn.Module,
    parametrisation: str = "phase",
    starts: Tensor | None = None,
    closeness: float = 1.0,
    objective: str = "peak",
    steps: int = 64,
    batch_size: int = 32,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> FilterPictures:
    """A picture for every channel, found by gradient ascent; all of a batch at once.

    Args:
        network: any classifier, images in [0, 1] -> logits; keeps its mode and its weights' gradients.
        images: (M, C, H, W) in [0, 1], real ones: their size, spectrum and colours are the pictures'.
        channels: N numbers of the layer's filters.
        layer: dotted module name, or the module.
        parametrisation: "phase" (magnitudes of real images) or "fourier".
        starts: (N, C, H, W) in [0, 1], real images to start from, one per channel; None: noise.
        closeness: with `starts`, how much is paid for changes of the layer's other filters.
        objective: "peak" of the filter's map, or its "mean".
        steps: of Adam.
        batch_size: pictures at a time.
        seed: of noise and movements; a channel's are its own, whichever others stand beside it.
        advance: hears of every so many pictures that are done.

    Raises:
        ValueError: an unknown name, channel or layer, images that do not fit, or steps below 0.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> found = visualise_filters(network, torch.rand(9, 3, 8, 8), [0, 2], layer="1", steps=3)
        >>> found.pictures.shape, found.channels.tolist()
        (torch.Size([2, 3, 8, 8]), [0, 2])
    """
    layer = layer_name(network, layer)
    device = device_of(network)
    _check(images, starts, parametrisation, objective, steps, closeness, batch_size)
    images = images.detach().to(device)
    channels = torch.as_tensor(channels, dtype=torch.int64)
    tried = feature_maps(network, images[:1], layer)
    if len(channels) and not 0 <= int(channels.min()) <= int(channels.max()) < tried.shape[1]:
        raise ValueError(
            f"channels is {channels.tolist()}; expected numbers from 0 to {tried.shape[1] - 1}, filters of {layer}"
        )
    if starts is not None and len(starts) != len(channels):
        raise ValueError(f"starts holds {len(starts)} images; expected {len(channels)}, one per channel")
    if not len(channels):
        return FilterPictures(layer, channels, images[:0].cpu(), images[:0].cpu(), torch.zeros(0))
    make = PARAMETRISATIONS[parametrisation]
    noise = None if starts is not None else _fitting_noise(network, images, channels, layer, make, seed)
    pieces = []
    for places in torch.arange(len(channels)).split(batch_size):
        begun = None if starts is None else starts[places].to(device)
        parameters = make(images, starts=begun, noise=None if noise is None else noise[places].to(device))
        ascent = _Ascent(network, layer, channels[places], begun, closeness, objective)
        generators = [torch.Generator().manual_seed((seed << 20) + int(it)) for it in channels[places]]
        first = _finished(parameters)
        with torch.enable_grad():
            optimizer = torch.optim.Adam([parameters.values], lr=parameters.rate)
            for _ in range(steps):
                loss = -ascent.worth(moved(parameters().clamp(0, 1), generators)).sum()
                (parameters.values.grad,) = torch.autograd.grad(loss, [parameters.values])
                optimizer.step()
        last = _finished(parameters)
        pieces.append((last.cpu(), first.cpu(), ascent.peaks(last).cpu()))
        advance(len(places))
    pictures, begun, responses = (torch.cat(rows) for rows in zip(*pieces, strict=True))
    return FilterPictures(layer, channels, pictures, begun, responses)


def moved(pictures: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Pictures (N, C, H, W) shifted, resized and disturbed a little, each by its own generator; edges are mirrored."""
    drawn = torch.stack([torch.rand(3, generator=it) for it in generators]).to(pictures) * 2 - 1
    zoom, shift = 1 + ZOOM * drawn[:, :1], 2 * SHIFT * drawn[:, 1:]
    turn = torch.eye(2, device=pictures.device, dtype=pictures.dtype) * zoom[..., None]
    grid = F.affine_grid(
        torch.cat([turn, shift[..., None]], dim=2), list(pictures.shape), align_corners=False
    )
    seen = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    return seen + NOISE * normal_noise(pictures, generators)


class _Ascent:
    """What a batch of pictures is worth to its filters."""

    def __init__(
        self,
        network: nn.Module,
        layer: str,
        channels: Tensor,
        starts: Tensor | None,
        closeness: float,
        objective: str,
    ) -> None:
        self.network, self.layer, self.objective = network, layer, objective
        self.channels, self.rows = channels, torch.arange(len(channels))
        self.before = None if starts is None else feature_maps(network, starts, layer)
        self.closeness = closeness

    def worth(self, pictures: Tensor) -> Tensor:
        """(N,), with its gradient."""
        maps, _ = differentiable_maps_and_logits(self.network, pictures, self.layer)
        response = self._response(maps)
        if self.before is None:
            return response
        scale = self._response(self.before).clamp(min=1e-6)
        others = torch.ones(maps.shape[:2], device=maps.device)
        others[self.rows, self.channels] = 0
        size = (self.before.square().mean((2, 3)) * others).sum(1).clamp(min=1e-12)
        change = ((maps - self.before).square().mean((2, 3)) * others).sum(1) / size
        return response / scale - self.closeness * change

    def peaks(self, pictures: Tensor) -> Tensor:
        """(N,) the filters' peaks."""
        return feature_maps(self.network, pictures, self.layer)[self.rows, self.channels].amax((1, 2))

    def _response(self, maps: Tensor) -> Tensor:
        own = maps[self.rows, self.channels]  # (N, h, w)
        return own.amax((1, 2)) if self.objective == "peak" else own.mean((1, 2))


def _fitting_noise(
    network: nn.Module, images: Tensor, channels: Tensor, layer: str, make: Callable, seed: int
) -> Tensor:
    """Noise (N, C, H, W) of which a filter's picture starts: of a pool the one that it answers most.

    A rectified filter that is silent has no gradient: where it starts decides whether it finds anything.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, *images.shape[1:], generator=generator)
    with torch.no_grad():
        answers = [
            feature_maps(network, make(images, noise=part.to(device_of(network)))().clamp(0, 1), layer).amax(
                (2, 3)
            )
            for part in pool.split(16)
        ]
    return pool[torch.cat(answers)[:, channels.to(answers[0].device)].argmax(0).cpu()]


def _finished(parameters: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad():
        return (parameters().clamp(0, 1) * 255).round() / 255


def _check(
    images: Tensor,
    starts: Tensor | None,
    parametrisation: str,
    objective: str,
    steps: int,
    closeness: float,
    batch_size: int,
) -> None:
    if parametrisation not in PARAMETRISATIONS:
        raise ValueError(
            f"parametrisation is {parametrisation!r}; expected one of {', '.join(PARAMETRISATIONS)}"
        )
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; expected one of {', '.join(OBJECTIVES)}")
    if steps < 0 or batch_size < 1:
        raise ValueError(f"steps is {steps} and batch_size {batch_size}; expected at least 0 and 1")
    if not closeness >= 0:
        raise ValueError(f"closeness is {closeness}; expected 0 or more")
    if images.ndim != 4 or not len(images) or not images.is_floating_point():
        raise ValueError(f"images has shape {tuple(images.shape)}; expected (M, C, H, W), floats in [0, 1]")
    if starts is not None and starts.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"starts has shape {tuple(starts.shape)}; expected images like the others, {tuple(images.shape[1:])}"
        )
