"""Pictures as free parameters: what an optimisation turns so that every step yields a picture, and no fine noise.

Gradient steps on pixels make noise that no image holds. Two ways out, both in the frequencies of the picture:

    fourier   sigmoid(A F^-1(c / f) + b): complex coefficients c, each divided by its frequency f, so that a step moves
              broad shapes as easily as fine ones. A (C, C) is the square root of the channels' covariance over real
              images (colours that occur together move together), b the logit of their mean colour.
              Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017.
    phase     F^-1(r e^(i phi)): only the phase phi is free, the magnitude r is the mean over real images, which no
              optimisation can leave. Fel et al., "Unlocking Feature Visualization for Deeper Networks with MAgnitude
              Constrained Optimization", NeurIPS 2023.

Pictures start from noise or from an image: from its coefficients, or from its phase with its own magnitude. Any number
of channels, any size.
"""

from __future__ import annotations

import torch
from torch import Tensor

SOFTENING = 4.0  # of the coefficients' picture, as in Olah et al.'s library
NOISE = 0.3  # standard deviation of the coefficients that a picture starts with
EDGE = 0.02  # images are this far from black and white before the logit is taken


class FourierPictures:
    """Pictures in (0, 1) from complex coefficients.

    Args:
        images: (M, C, H, W) in [0, 1], real ones, for the colours.
        starts: (N, C, H, W) in [0, 1], images to start from; or
        noise: (N, C, H, W), standard normal, whose frequencies are the first coefficients.

    Example:
        >>> images = torch.rand(8, 3, 12, 9)
        >>> pictures = FourierPictures(images, starts=images[:2])
        >>> bool((pictures() - images[:2]).abs().max() < 0.021)
        True
    """

    rate = 0.05  # of Adam

    def __init__(self, images: Tensor, *, starts: Tensor | None = None, noise: Tensor | None = None) -> None:
        self.size = images.shape[2], images.shape[3]
        self.damping = 1 / (SOFTENING * frequencies(self.size).to(images))  # (H, W//2+1)
        self.colours = colour_axes(images)
        self.base = images.mean((0, 2, 3)).clamp(EDGE, 1 - EDGE).logit()[:, None, None]
        if starts is None:
            assert noise is not None
            spectrum = NOISE * torch.fft.rfft2(noise, norm="ortho")
        else:
            apart = starts.clamp(EDGE, 1 - EDGE).logit() - self.base
            flat = torch.linalg.solve(self.colours, apart.flatten(2)).unflatten(2, self.size)
            spectrum = torch.fft.rfft2(flat, norm="ortho") / self.damping
        self.values = torch.view_as_real(spectrum).clone().requires_grad_()  # (N, C, H, W//2+1, 2)

    def __call__(self) -> Tensor:
        """The pictures (N, C, H, W)."""
        spectrum = torch.view_as_complex(self.values) * self.damping
        flat = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        return (torch.einsum("dc,nchw->ndhw", self.colours, flat) + self.base).sigmoid()


class PhasePictures:
    """Pictures of a fixed magnitude spectrum, whose phases are free; some of their pixels leave [0, 1].

    Args:
        images: (M, C, H, W) in [0, 1], real ones, for the mean magnitude; not asked where there are `starts`.
        starts: (N, C, H, W) in [0, 1], images to start from, which keep their own magnitude; or
        noise: (N, C, H, W), whose phases are the first.

    Example:
        >>> images = torch.rand(8, 1, 12, 9)
        >>> pictures = PhasePictures(images, noise=torch.randn(2, 1, 12, 9))
        >>> torch.allclose(torch.fft.rfft2(pictures()).abs(), natural_magnitude(images).expand(2, 1, 12, 5), atol=1e-5)
        True
    """

    rate = 0.1  # of Adam, in radians

    def __init__(self, images: Tensor, *, starts: Tensor | None = None, noise: Tensor | None = None) -> None:
        self.size = images.shape[2], images.shape[3]
        begun = noise if starts is None else starts
        assert begun is not None
        spectrum = torch.fft.rfft2(begun)
        self.magnitude = natural_magnitude(images) if starts is None else spectrum.abs()
        self.first = spectrum.angle()
        self.first[..., 0, 0] = 0  # brightness is positive
        self.values = torch.zeros_like(self.first).requires_grad_()  # (N, C, H, W//2+1), turns

    def __call__(self) -> Tensor:
        """The pictures (N, C, H, W), not clipped."""
        phase = self.first + odd(self.values, even_width=self.size[1] % 2 == 0)
        return torch.fft.irfft2(torch.polar(self.magnitude.expand_as(phase), phase), s=self.size)


PARAMETRISATIONS = {"phase": PhasePictures, "fourier": FourierPictures}


def odd(turns: Tensor, *, even_width: bool) -> Tensor:
    """Turns (..., H, W//2+1) of phases as a real picture has them: opposite at opposite frequencies.

    Half a spectrum holds both of a pair in its first column, and in its last one where the width is even; left as they
    are, the pair's magnitudes would not stay what they were.
    """
    first, middle, last = turns[..., :1], turns[..., 1:], turns[..., :0]
    if even_width and turns.shape[-1] > 1:
        middle, last = turns[..., 1:-1], turns[..., -1:]
    return torch.cat([_opposite(first), middle, _opposite(last)], dim=-1)


def _opposite(column: Tensor) -> Tensor:
    return (column - column.flip(-2).roll(1, -2)) / 2


def frequencies(size: tuple[int, int]) -> Tensor:
    """Lengths (H, W//2+1) of the frequencies of a picture, in cycles per pixel; the mean counts as the lowest one."""
    rows, columns = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None]
    return (rows.square() + columns.square()).sqrt().clamp(min=1 / max(size))


def natural_magnitude(images: Tensor) -> Tensor:
    """Mean magnitude of the spectra of images (M, C, H, W): (C, H, W//2+1)."""
    return torch.fft.rfft2(images).abs().mean(0)


def colour_axes(images: Tensor) -> Tensor:
    """The symmetric square root of the channels' covariance over images (M, C, H, W): (C, C), longest column 1.

    Channels that are the same, or constant, get a little variance of their own, so that it can be inverted.
    """
    channels = images.transpose(0, 1).flatten(1).double()
    covariance = (channels - channels.mean(1, keepdim=True)).square().mean() * 1e-3 * torch.eye(
        len(channels)
    ).to(channels) + torch.cov(channels).reshape(len(channels), len(channels))
    values, vectors = torch.linalg.eigh(covariance + 1e-8 * torch.eye(len(channels)).to(channels))
    root = vectors @ values.clamp(min=1e-8).sqrt().diag() @ vectors.T
    return (root / root.norm(dim=0).max()).to(images)
