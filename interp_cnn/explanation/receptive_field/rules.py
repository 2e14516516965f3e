"""What each operation of a network does to the interval of pixels that a cell sees.

One rule per kind of operation: windows (convolution, pooling), joins (addition, concatenation), resampling,
reordering of axes, operations within a cell. An operation that mixes all positions raises
`CannotFollowError`. The formulas are in `receptive_field`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from interp_cnn.explanation.network.part_mask import is_part_mask


class CannotFollowError(Exception):
    """The graph cannot be traced, or an operation on the way to the layer has no rule."""


@dataclass(frozen=True)
class Interval:
    """Cell i sees pixels first + stride * i ... last + stride * i."""

    stride: float
    first: float
    last: float

    def window(self, kernel: float, step: float, padding: float, dilation: float = 1) -> Interval:
        return Interval(
            self.stride * step,
            self.first - self.stride * padding,
            self.last + self.stride * (dilation * (kernel - 1) - padding),
        )

    def resampled(self, scale: float, reach: float) -> Interval:
        """Every cell becomes `scale` cells that read up to `reach` old cells around their own place (an outer
        bound).
        """
        middle = 0.5 / scale - 0.5
        return Interval(
            self.stride / scale,
            self.first + self.stride * (middle - reach),
            self.last + self.stride * (middle + reach),
        )

    def union(self, other: Interval) -> Interval:
        if not math.isclose(self.stride, other.stride):
            raise CannotFollowError(f"branches with strides {self.stride} and {other.stride} meet")
        return Interval(self.stride, min(self.first, other.first), max(self.last, other.last))


@dataclass(frozen=True)
class Field:
    """Intervals of both image axes, and which axes of the tensor they are."""

    rows: Interval
    columns: Interval
    axes: tuple[int, int] = (2, 3)
    sees_everything: bool = False


def union(fields: Sequence[Field], gated: bool = False) -> Field:
    joined, *others = fields
    for field in others:
        if field.axes != joined.axes:
            raise CannotFollowError("maps with different layouts meet")
        joined = Field(
            joined.rows.union(field.rows),
            joined.columns.union(field.columns),
            joined.axes,
            joined.sees_everything or field.sees_everything,
        )
    return replace(joined, sees_everything=joined.sees_everything or gated)


def module_rule(module: nn.Module, field: Field, before: Tensor, after: Any) -> Field:
    if is_part_mask(module) or isinstance(module, POINTWISE_MODULES):
        return field
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.LPPool2d):
        kernel, dilation = module.kernel_size, getattr(module, "dilation", 1)
        if getattr(module, "padding_mode", "") == "circular":
            raise CannotFollowError("circular padding lets cells at one border see the other")
        padding = same_padding(getattr(module, "padding", 0), kernel, dilation)
        return windowed(field, kernel, module.stride or kernel, padding, dilation)
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        return adaptive(field, before, after)
    if isinstance(module, nn.ConvTranspose2d):
        return _transposed(field, module)
    if isinstance(module, nn.Upsample):
        return resampled(field, before, after, module.mode)
    if isinstance(module, nn.ZeroPad2d | nn.ConstantPad2d | nn.ReflectionPad2d | nn.ReplicationPad2d):
        return padded(field, module.padding)
    if isinstance(module, nn.GroupNorm | nn.InstanceNorm2d):  # statistics over the whole map: a gate
        return replace(field, sees_everything=True)
    if isinstance(module, nn.Linear | nn.LayerNorm):
        shape = (1,) if isinstance(module, nn.Linear) else module.normalized_shape
        return within_cells(field, last_axes(shape, after), type(module).__name__)
    raise CannotFollowError(f"no rule for {type(module).__name__}")


def within_cells(field: Field, mixed: set[int], name: str) -> Field:
    """An operation that mixes the axes `mixed` only: pointwise as long as they are not the image's."""
    if mixed & set(field.axes):
        raise CannotFollowError(f"{name} mixes positions")
    return field


def windowed(field: Field, kernel, step, padding, dilation) -> Field:
    (kernel_r, kernel_c), (step_r, step_c) = _pair(kernel), _pair(step)
    (padding_r, padding_c), (dilation_r, dilation_c) = _pair(padding), _pair(dilation)
    _need_layout(field)
    return replace(
        field,
        rows=field.rows.window(kernel_r, step_r, padding_r, dilation_r),
        columns=field.columns.window(kernel_c, step_c, padding_c, dilation_c),
    )


def adaptive(field: Field, before: Tensor, after: Tensor) -> Field:
    """Windows [floor(i * n / m), ceil((i + 1) * n / m)): exact where m divides n, else an outer bound."""
    _need_layout(field)
    axes = []
    for interval, old, new in zip(
        (field.rows, field.columns), before.shape[2:], after.shape[2:], strict=True
    ):
        ratio = old / new
        slack = 0 if old % new == 0 else 1 - 1 / new
        grown = interval.window(ratio + 2 * slack, ratio, slack)
        axes.append(grown)
    return replace(field, rows=axes[0], columns=axes[1])


def _transposed(field: Field, module: nn.ConvTranspose2d) -> Field:
    """Output o reads inputs (o + padding - dilation * j) / step for j < kernel: an outer bound."""
    _need_layout(field)
    assert not isinstance(module.padding, str)  # torch takes no word for a transposed convolution
    axes = []
    for axis, interval in enumerate((field.rows, field.columns)):
        kernel, step = module.kernel_size[axis], module.stride[axis]
        padding, dilation = module.padding[axis], module.dilation[axis]
        axes.append(
            Interval(
                interval.stride / step,
                interval.first + interval.stride * (padding - dilation * (kernel - 1)) / step,
                interval.last + interval.stride * padding / step,
            )
        )
    return replace(field, rows=axes[0], columns=axes[1])


def resampled(field: Field, before: Tensor, after: Tensor, mode: str) -> Field:
    _need_layout(field)
    reach = {"nearest": 0.5, "nearest-exact": 0.5, "area": 1.0, "bilinear": 1.0, "bicubic": 2.0}.get(mode)
    if reach is None:
        raise CannotFollowError(f"no rule for interpolation mode {mode!r}")
    scales = [new / old for old, new in zip(before.shape[2:], after.shape[2:], strict=True)]
    return replace(
        field, rows=field.rows.resampled(scales[0], reach), columns=field.columns.resampled(scales[1], reach)
    )


def padded(field: Field, padding: Sequence[int] | int) -> Field:
    _need_layout(field)
    sides = [padding] * 4 if isinstance(padding, int) else [*padding, *[0] * (4 - len(padding))]
    if any(sides[4:]):
        raise CannotFollowError("padding of other axes than the image's")
    left, top = sides[0], sides[2]
    return replace(field, rows=_moved(field.rows, top), columns=_moved(field.columns, left))


def _moved(interval: Interval, cells: int) -> Interval:
    shift = interval.stride * cells
    return Interval(interval.stride, interval.first - shift, interval.last - shift)


def permuted(field: Field, order: Sequence[int], value: Tensor) -> Field:
    places = [axis_number(axis, value) for axis in order]
    return replace(field, axes=(places.index(field.axes[0]), places.index(field.axes[1])))


def unsqueezed(field: Field, axis: int) -> Field:
    return replace(field, axes=tuple(place + (place >= axis) for place in field.axes))


def indexed(field: Field, tensor: object, index: object) -> Field:
    if not isinstance(tensor, Tensor):
        return field  # an element of a tuple of maps, all with one field
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index or None in index:
        raise CannotFollowError("indexing with ... or None")
    removed = [axis for axis, item in enumerate(index) if isinstance(item, int)]
    for axis in field.axes:
        if axis < len(index) and index[axis] != slice(None):
            raise CannotFollowError("indexing along an axis of the image")
    return replace(field, axes=tuple(axis - sum(gone < axis for gone in removed) for axis in field.axes))


def extent(tensor: Tensor, field: Field) -> tuple[int, int]:
    return tensor.shape[field.axes[0]], tensor.shape[field.axes[1]]


def is_constant_over(tensor: Tensor, axes: tuple[int, int], ndim: int) -> bool:
    """Broadcast along both image axes of a result with `ndim` axes."""
    places = [axis - ndim + tensor.ndim for axis in axes]
    return all(place < 0 or tensor.shape[place] == 1 for place in places)


def _need_layout(field: Field) -> None:
    if field.axes != (2, 3):
        raise CannotFollowError("a window over maps that are not laid out as (B, D, h, w)")


def last_axes(normalized_shape: Sequence[int], value: Tensor) -> set[int]:
    return set(range(value.ndim - len(normalized_shape), value.ndim))


def axis_number(axis: int, value: Tensor) -> int:
    return axis + value.ndim if axis < 0 else axis


def _pair(value) -> tuple[float, float]:
    return (value, value) if isinstance(value, int | float) else (value[0], value[-1])


def same_padding(padding, kernel, dilation):
    """Padding in cells before the first; torch puts the odd one of 'same' behind."""
    if padding == "valid":
        return 0
    if padding == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(_pair(kernel), _pair(dilation), strict=True))
    return padding


POINTWISE = frozenset(
    """
    add add_ iadd sub sub_ isub rsub mul mul_ imul div div_ truediv itruediv floordiv neg pow square sqrt
    rsqrt exp log abs sign clamp clamp_ maximum minimum where lerp relu relu_ relu6 leaky_relu leaky_relu_ elu
    elu_ selu celu gelu silu silu_ mish softplus sigmoid sigmoid_ tanh tanh_ hardtanh hardtanh_ hardsigmoid
    hardswish batch_norm dropout dropout2d dropout_ stochastic_depth contiguous clone detach to float double
    half type type_as """.split()  # noqa: SIM905 - a list of words reads better as words
)
POINTWISE_MODULES = (
    *(
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.ELU,
        nn.SELU,
        nn.CELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.Softplus,
        nn.PReLU,
    ),
    *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Threshold, nn.Identity),
    *(nn.BatchNorm2d, nn.SyncBatchNorm, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.LocalResponseNorm),
)
