"""Who wins a maximum: every candidate of every output side by side, so that equal winners share instead of the first.

A pooling's gradient goes to one winner of each window, and where several are equal (a constant patch, a black
baseline) rounding chooses it. Here the candidates are laid out as (*outputs, candidates), for pools, `amax`, `max` and
`maximum` alike, and whoever comes up to the largest wins.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from interp_cnn.explanation.propagation.tape import Step, Value


def candidates(step: Step, tensors: Mapping[Value, Tensor]) -> Tensor:
    """The values among which a step chooses, (*outputs, candidates), -inf for none; differentiable.

    A minimum is the maximum of the negated candidates.

    Args:
        step: of a kind in `operations.WINNERS`, or the maximum or minimum of two values.
        tensors: for each input of the step.
    """
    if step.kind in ("maximum", "minimum"):
        sides = (step.argument(0, "input"), step.argument(1, "other"))
        both = torch.broadcast_tensors(
            *(tensors[side] if isinstance(side, Value) else side for side in sides)
        )
        return torch.stack(both, -1) * (-1 if step.kind == "minimum" else 1)
    x = tensors[step.argument(0, "input")]
    if "pool" in step.kind:
        for axis, cells in enumerate(_windows(step), start=x.dim() - int(step.kind[-2])):
            edge = x.new_full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), -torch.inf)
            rows = torch.cat([x, edge], axis).index_select(axis, cells.flatten())
            x = rows.unflatten(axis, cells.shape).movedim(axis + 1, -1)  # the candidates of an axis go last
        return x.flatten(-int(step.kind[-2]))
    axes = step.argument(1, "dim", None)
    axes = range(x.dim()) if axes is None else [axes] if isinstance(axes, int) else axes or range(x.dim())
    axes = sorted(axis % x.dim() for axis in axes)
    laid_out = x.movedim(axes, list(range(-len(axes), 0))).flatten(-len(axes))
    for axis in axes if step.output.tensor.dim() == x.dim() else ():  # keepdim
        laid_out = laid_out.unsqueeze(axis)
    return laid_out


def shared(step: Step, value: Value, shares: Tensor, tensors: Mapping[Value, Tensor]) -> Tensor:
    """What each candidate gets, (*outputs, candidates), added up where one value is a candidate several times."""
    with torch.enable_grad():
        leaf = tensors[value].detach().requires_grad_()
        laid_out = candidates(step, {**tensors, value: leaf})
        shares = shares * (-1 if step.kind == "minimum" else 1)
        return torch.autograd.grad(laid_out, leaf, shares)[0]


def _windows(step: Step) -> list[Tensor]:
    """For each pooled axis the cells of every window, (outputs, candidates); one past the last stands for none."""
    axes = int(step.kind[-2])
    x = step.argument(0, "input").tensor
    sizes, outputs = tuple(x.shape[-axes:]), tuple(step.output.tensor.shape[-axes:])
    if step.kind.startswith("adaptive"):
        return _adaptive_windows(sizes, outputs, x.device)
    kernel = _each(step.argument(1, "kernel_size"), axes)
    stride = _each(step.argument(2, "stride", None) or kernel, axes)
    padding, dilation = (
        _each(step.argument(*argument), axes) for argument in ((3, "padding", 0), (4, "dilation", 1))
    )
    return _plain_windows(sizes, outputs, (kernel, stride, padding, dilation), x.device)


@lru_cache(maxsize=256)  # a matter of shapes
def _adaptive_windows(sizes: tuple[int, ...], outputs: tuple[int, ...], device: torch.device) -> list[Tensor]:
    windows = []
    for n, m in zip(sizes, outputs, strict=True):
        starts = [o * n // m for o in range(m)]
        ends = [-((-(o + 1) * n) // m) for o in range(m)]
        most = max(end - start for start, end in zip(starts, ends, strict=True))
        windows.append(
            [
                [i if i < end else n for i in range(start, start + most)]
                for start, end in zip(starts, ends, strict=True)
            ]
        )
    return [torch.tensor(cells, device=device) for cells in windows]


@lru_cache(maxsize=256)  # a matter of shapes
def _plain_windows(
    sizes: tuple[int, ...],
    outputs: tuple[int, ...],
    options: tuple[tuple[int, ...], ...],
    device: torch.device,
) -> list[Tensor]:
    windows = []
    for n, m, k, s, p, d in zip(sizes, outputs, *options, strict=True):
        cells = torch.arange(m)[:, None] * s - p + torch.arange(k) * d
        windows.append(torch.where((cells >= 0) & (cells < n), cells, n).to(device))
    return windows


def _each(option: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (option,) * axes if isinstance(option, int) else tuple(option) * (axes // len(option))
