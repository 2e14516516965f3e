"""Part templates: what a feature map should look like when its filter sees one part at one place.

A filter of an interpretable layer yields an h x w feature map. For every grid cell mu there is a positive
template, highest at mu and falling off linearly with the distance, and one negative template for "the part is
not in this image":

    t+_mu,ij = max(1 - beta * ||(i, j) - mu|| / n, -1)      t-_ij = -1      n = max(h, w)

The publication multiplies both by tau = 0.5 / n^2. Here tau is 1, so that a template's peak is 1, the mask that
is cut from it leaves the peak of a map as it is, and the temperature of the loss carries the scale alone; pass
`tau` for the paper's values. The Euclidean norm is the default, L1 is the paper's choice for speed.

T_mu is a shift of one (2h - 1) x (2w - 1) kernel, so nothing larger has to be kept: a mask is a window of it.

Source: Zhang, Wu, Zhu, Interpretable Convolutional Neural Networks, CVPR 2018, section 3.
"""

from functools import lru_cache

import torch
from torch import Tensor

NORMS = ("l2", "l1")
BETWEEN = 1e-5  # of the larger side: a centre of mass this near to the middle of two cells is there
BANK_CELLS = 1024  # 4 MiB of distances; on a larger grid their bank costs more than cutting every window


def part_templates(
    height: int, width: int, *, beta: float = 4.0, norm: str = "l2", tau: float = 1.0, dtype=torch.float32
) -> Tensor:
    """All templates of a grid: h * w positive ones, row by row, and the negative one last.

    Args:
        height: rows h of the feature map.
        width: columns w of the feature map.
        beta: steepness; a template crosses zero at a distance of n / beta cells and is clamped at 2 n / beta.
        norm: "l2" (Euclidean) or "l1".
        tau: height of the peak; the publication uses 0.5 / n^2.
        dtype (torch.dtype): floating point type of the result.

    Returns:
        Tensor of shape (h * w + 1, h, w) with values in [-tau, tau].

    Raises:
        ValueError: a size below 1, a beta that is not positive, or an unknown norm.
    """
    distances = template_distances(height, width, norm=norm, dtype=dtype)  # (h*w, h, w)
    if not beta > 0:
        raise ValueError(f"beta is {beta}; expected a positive number")
    positive = template_values(distances, beta)
    negative = positive.new_full((1, height, width), -1.0)
    return torch.cat([positive, negative]) * tau


def template_values(distances: Tensor, beta: Tensor | float, *, floor: float = -1) -> Tensor:
    """The positive template, max(1 - beta d, -1), at distances d from its centre.

    Args:
        distances: any shape, in units of the larger side (`template_distances`, `distance_kernel`).
        beta: steepness, of a shape that broadcasts with the distances.
        floor: what lies lower is lifted to it: -1 for a template, 0 for the mask that is cut from it.

    Returns:
        Values in [floor, 1], a new tensor, differentiable in beta.

    Example:
        >>> template_values(torch.tensor([0.0, 0.125, 0.25, 1.0]), 4.0)
        tensor([ 1.0000,  0.5000,  0.0000, -1.0000])
    """
    return (1 - beta * distances).clamp_(min=floor)


def template_distances(
    height: int, width: int, *, norm: str = "l2", dtype=torch.float32, device=None
) -> Tensor:
    """Distance of every cell from every template centre, in units of the larger side, (h * w, h, w); not to be written
    into: small ones are made once for all.
    """
    if _is_traced() or height * width > BANK_CELLS:
        return _bank(distance_kernel(height, width, norm=norm, dtype=dtype, device=device), height, width)
    return _kept_bank(height, width, norm, dtype, _place(device))


def windows_at(kernel: Tensor, positions: Tensor, height: int, width: int) -> Tensor:
    """For every position the window of a kernel that has its middle there.

    The bank of all windows is made only where it is small; on large grids every window is cut from the kernel.

    Args:
        kernel: (2h - 1, 2w - 1), such as `distance_kernel`'s.
        positions: (B, D) flat row-major cells.
        height: rows h.
        width: columns w.

    Returns:
        (B, D, h, w).
    """
    if height * width <= BANK_CELLS:
        return _bank(kernel, height, width)[positions]
    return _windows(kernel, height, width)[height - 1 - positions // width, width - 1 - positions % width]


def distance_kernel(height: int, width: int, *, norm: str = "l2", dtype=torch.float32, device=None) -> Tensor:
    """The (2h - 1) x (2w - 1) kernel of which every centre's distances are a shifted window; not to be written into,
    for it is made once for all.
    """
    if _is_traced():
        return _distance_kernel(height, width, norm, dtype, device)
    return _kept_kernel(height, width, norm, dtype, _place(device))


def _distance_kernel(height: int, width: int, norm: str, dtype: torch.dtype, device) -> Tensor:
    if height < 1 or width < 1:
        raise ValueError(f"a grid of {height} x {width} cells has no templates; expected at least 1 x 1")
    rows = torch.arange(1 - height, height, dtype=dtype, device=device)[:, None]
    columns = torch.arange(1 - width, width, dtype=dtype, device=device)[None, :]
    if norm == "l2":
        distances = (rows.square() + columns.square()).sqrt()
    elif norm == "l1":
        distances = rows.abs() + columns.abs()
    else:
        raise ValueError(f"norm is {norm!r}; expected one of {', '.join(NORMS)}")
    return distances / max(height, width)


def _is_traced() -> bool:
    """Whether tensors stand for others now (torch.compile, torch.export): none may be kept, or taken from before."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting()


def _place(device) -> torch.device:
    return torch.get_default_device() if device is None else torch.device(device)


@lru_cache(maxsize=64)
def _kept_kernel(height: int, width: int, norm: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _distance_kernel(height, width, norm, dtype, device)


@lru_cache(maxsize=16)
def _kept_bank(height: int, width: int, norm: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _bank(_kept_kernel(height, width, norm, dtype, device), height, width)


def peak_positions(
    feature_maps: Tensor, *, position: str = "argmax", beta: Tensor | float = 4.0, norm: str = "l2"
) -> Tensor:
    """Where each map's part is, as a flat row-major cell index.

    Args:
        feature_maps: (B, D, h, w), not negative.
        position: "argmax" (the publication; the first cell where several are equal) or "centroid" (the released
            code: the rounded centre of mass, which may lie where the map is empty), or "template": the template
            that explains the map best (up to rounding, the first one), the mode of p(T | x) under a uniform prior.
        beta: () or (D,) steepness of those templates.
        norm: their distance.

    Returns:
        (B, D) int64. A map that is zero everywhere answers 0, with "centroid" the middle cell.
    """
    batch, filters, height, width = feature_maps.shape
    if position == "argmax":
        return feature_maps.reshape(batch, filters, height * width).argmax(-1)
    if position == "template":
        scores = _positive_scores(feature_maps, beta, norm)
        # a symmetric map fits several templates equally well: rounding must not choose among them
        return (scores >= scores.amax(-1, keepdim=True) - _rounding_of(feature_maps)).byte().argmax(-1)
    if position != "centroid":
        raise ValueError(f"position is {position!r}; expected argmax, centroid or template")
    centres = _centres_of_mass(feature_maps)
    halves = (2 * centres).round() / 2  # a symmetric map's is one: rounding must not choose
    near = (centres - halves).abs() <= BETWEEN * max(height, width)
    row, column = torch.where(near, halves, centres).round().long()
    return row.clamp(0, height - 1) * width + column.clamp(0, width - 1)


def undecided_peaks(
    feature_maps: Tensor,
    inexact: Tensor | None,
    rounding: float,
    *,
    position: str = "argmax",
    beta: Tensor | float = 4.0,
    norm: str = "l2",
) -> Tensor:
    """Whose `peak_positions` could be others if the values were rounded otherwise.

    A map that is zero everywhere is decided: whatever its position, a mask leaves it as it is.

    Args:
        feature_maps: (B, D, h, w), not negative.
        inexact: (B, D, h, w), cells that may be off by rounding even where they equal another; None: those that differ.
        rounding: relative error of the values.
        position: as in `peak_positions`.
        beta: as in `peak_positions`.
        norm: as in `peak_positions`.

    Returns:
        (B, D) boolean.

    Example:
        >>> maps = torch.tensor([[[[1.0, 1.0, 0.0]], [[1.0, 1.0 + 1e-6, 0.0]]]])
        >>> undecided_peaks(maps, None, 1e-5)
        tensor([[False,  True]])
    """
    moved = True if inexact is None else inexact.flatten(2).any(-1)
    if position == "centroid":
        side, centres = max(feature_maps.shape[2:]), _centres_of_mass(feature_maps)
        distances = ((centres - centres.floor() - 0.5).abs() - BETWEEN * side).abs()
        return moved & (distances <= max(rounding, 1e-6) * side).any(0)  # centres are in single precision
    scores = feature_maps.flatten(2) if position == "argmax" else _positive_scores(feature_maps, beta, norm)
    largest = scores.amax(-1, keepdim=True)
    equal = 0 if position == "argmax" else _rounding_of(feature_maps)
    near = scores >= largest - rounding * largest.abs() - equal
    if position == "argmax" and inexact is not None:
        unsure = (near & inexact.flatten(2)).any(-1) & (near.sum(-1) > 1)
    else:
        unsure = moved & (near & (scores != largest)).any(-1)
    return unsure & (feature_maps.flatten(2) != 0).any(-1)


def _centres_of_mass(feature_maps: Tensor) -> Tensor:
    """Row and column (2, B, D), in single precision; an empty map has its middle there."""
    maps = feature_maps.float()
    mass = maps.sum((2, 3))
    empty, centres = mass <= 0, []
    for other, side in ((3, maps.shape[2]), (2, maps.shape[3])):
        cells = torch.arange(side, dtype=maps.dtype, device=maps.device)
        centre = (maps.sum(other) * cells).sum(-1) / mass.masked_fill(empty, 1.0)
        centres.append(centre.masked_fill(empty, (side - 1) / 2))
    return torch.stack(centres)


def evidence_between(
    positions: Tensor,
    others: Tensor,
    size: tuple[int, int],
    *,
    position: str = "argmax",
    beta: Tensor | float = 4.0,
    norm: str = "l2",
) -> Tensor:
    """What in a map decides between two cells, in the way in which `peak_positions` decides.

    A map x >= 0 puts its part at cell p rather than q where sum_c w_c x_c > 0, with

        argmax      w = e_p - e_q, the two cells themselves
        template    w = T_p - T_q
        centroid    w_c = <c - (p + q) / 2, p - q>: on which side of the middle its mass lies

    Args:
        positions: p, (B, D) flat row-major cells.
        others: q, (B, D).
        size: (h, w) of the grid.
        position: "argmax", "centroid" or "template".
        beta: () or (D,) steepness of the templates.
        norm: their distance.

    Returns:
        w, (B, D, h, w); zero where p = q.
    """
    height, width = size
    cells = torch.arange(height * width, device=positions.device)
    if position == "argmax":
        ones = [(cells == place[..., None]).float() for place in (positions, others)]  # (B, D, h*w) each
        return (ones[0] - ones[1]).unflatten(2, size)
    if position == "template":
        steepness = torch.as_tensor(beta, device=positions.device)
        steepness = steepness[:, None, None] if steepness.dim() else steepness
        kernel = distance_kernel(height, width, norm=norm, device=positions.device)
        of_p, of_q = (
            template_values(windows_at(kernel, place, height, width), steepness)
            for place in (positions, others)
        )
        return of_p - of_q
    if position != "centroid":
        raise ValueError(f"position is {position!r}; expected argmax, centroid or template")
    evidence = torch.zeros(*positions.shape, height, width, device=positions.device)
    for p, q, along in (
        (positions // width, others // width, torch.arange(height, device=positions.device)[:, None]),
        (positions % width, others % width, torch.arange(width, device=positions.device)),
    ):
        p, q = p[..., None, None], q[..., None, None]  # (B, D, 1, 1)
        evidence += (along - (p + q) / 2) * (p - q)
    return evidence


def _windows(kernel: Tensor, height: int, width: int) -> Tensor:
    """All h x w windows of the kernel as a view, (h, w, h, w); the first one belongs to the last centre."""
    return kernel.unfold(0, height, 1).unfold(1, width, 1)


def _bank(kernel: Tensor, height: int, width: int) -> Tensor:
    """The windows of all centres, row by row, (h * w, h, w)."""
    return _windows(kernel, height, width).flip(0, 1).reshape(height * width, height, width)


def position_posterior(feature_maps: Tensor, *, gain: Tensor, beta: Tensor, norm: str = "l2") -> Tensor:
    """p(T_mu | x) under a uniform prior over the positive templates; differentiable.

    Args:
        feature_maps: (B, D, h, w), not negative.
        gain: (D,) nats per unit of score.
        beta: () or (D,) steepness of the templates.
        norm: their distance.

    Returns:
        (B, D, h * w), row-major cells.
    """
    return (_positive_scores(feature_maps, beta, norm) * gain[:, None]).softmax(-1)


def expected_positions(posterior: Tensor, height: int, width: int) -> Tensor:
    """Mean position under `position_posterior` (B, D, h * w): (B, D, 2), (x, y) from -1 (left or top edge) to 1."""
    y, x = (
        (torch.arange(size, device=posterior.device) + 0.5) * 2 / size - 1 for size in (height, width)
    )  # centres of the cells
    cells = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(height * width, 2)
    return posterior @ cells.to(posterior.dtype)


def _rounding_of(feature_maps: Tensor) -> Tensor:
    """Difference up to which scores of a map count as equal, (B, D, 1): what rounding does to their sums."""
    maps = feature_maps.to(torch.promote_types(feature_maps.dtype, torch.float32))
    return 8 * torch.finfo(maps.dtype).eps * maps.abs().sum((2, 3))[..., None]


def _positive_scores(feature_maps: Tensor, beta: Tensor | float, norm: str) -> Tensor:
    """Scores of all maps at all positive templates, (B, D, h * w)."""
    height, width = feature_maps.shape[2:]
    maps = feature_maps.flatten(2).to(torch.promote_types(feature_maps.dtype, torch.float32))
    distances = template_distances(height, width, norm=norm, dtype=maps.dtype, device=maps.device).flatten(1)
    beta = torch.as_tensor(beta, dtype=maps.dtype, device=maps.device)
    with torch.autocast(maps.device.type, enabled=False):  # rounded scores move positions
        if beta.dim() == 0:
            return maps @ template_values(distances, beta)  # symmetric: template by cell
        templates = template_values(distances, beta[:, None, None])  # (D, T, h*w)
        return torch.einsum("bdx,dtx->bdt", maps, templates)
