"""Convolutions and linear layers of a tape as linear maps.

`WeightedLayer` gives such a layer as the linear map x -> z = W x, its transpose, and the spreading of a quantity evenly
over all inputs connected with an output; batch norm behind it may be folded into W on the fly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.network.logits import capturing
from interp_cnn.explanation.network.operations import WEIGHTED
from interp_cnn.explanation.propagation.tape import Step, Value
from interp_cnn.explanation.propagation.transposes import batch_norm_scale, rows

_NEVER_NEGATIVE = {"relu", "relu6", "sigmoid", "hardsigmoid", "softmax", "square"}
_KEEPS_SIGN = {
    *("max_pool2d", "adaptive_max_pool2d", "amax", "avg_pool2d", "adaptive_avg_pool2d", "mean"),
    *("view", "reshape", "flatten", "permute", "squeeze", "contiguous", "clone"),
}

MOST_OF_ONES = 128  # layers of ones that are kept


@dataclass(frozen=True, eq=False)
class WeightedLayer:
    """A convolution or linear layer of a tape as a linear map.

    Attributes:
        step: the convolution or linear step.
        norm: a batch norm step folded into it.
        by_activation: (B,) images whose biases share their relevance by activation; None for no image.
        keeps_bias: biases that would share by activation keep their share for themselves.
    """

    step: Step
    norm: Step | None = None
    by_activation: Tensor | None = None
    keeps_bias: bool = False

    def __post_init__(self) -> None:
        if any(isinstance(part, Value) for part in (self._part(1, "weight"), self._part(2, "bias"))):
            raise ValueError(
                f"{self.step.where} has weights that depend on the images: no rule knows how to share"
            )

    @property
    def value(self) -> Value:
        return self._part(0, "input")

    @property
    def input(self) -> Tensor:
        return self.value.tensor

    @cached_property
    def nonnegative(self) -> bool:
        """Whether no input is negative: read off the operations where they say so, as the host waits for a value.

        False where that cannot be read: rules for inputs of both signs hold for one.
        """
        value = self.value
        while value.step is not None and value.step.kind in _KEEPS_SIGN and len(value.step.inputs) == 1:
            value = value.step.inputs[0]
        never_negative = value.step is not None and value.step.kind in _NEVER_NEGATIVE
        return never_negative or (not capturing() and bool(self.input.min() >= 0))

    @cached_property
    def scale(self) -> Tensor | None:
        return None if self.norm is None else batch_norm_scale(self.norm)

    @cached_property
    def weight(self) -> Tensor:
        """The layer's weight, times the folded batch norm's slope; never written to."""
        weight = self._part(1, "weight").detach()
        if self.scale is None:
            return weight
        if self.step.kind.startswith("conv_transpose"):  # (inputs, outputs of a group, ...)
            groups = self._part(6, "groups", 1)
            scale = (
                self.scale.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1).flatten(0, 1)
            )
            return weight * scale.reshape(*scale.shape, *([1] * (weight.dim() - 2)))
        return weight * self.scale.reshape(-1, *([1] * (weight.dim() - 1)))

    @cached_property
    def contributions(self) -> Tensor:
        """The output without bias, z = W x."""
        z, bias = self.step.output.tensor, self._part(2, "bias")
        z = z if bias is None else z - (bias if self.step.kind == "linear" else rows(bias, self.step))
        return z if self.scale is None else z * rows(self.scale, self.step)

    @property
    def output(self) -> Tensor:
        """The output with bias, after the folded batch norm."""
        return (self.norm or self.step).output.tensor

    @cached_property
    def bias_by_activation(self) -> Tensor | None:
        """The part of the output that is bias, for the images whose biases share by activation; None for no image."""
        if self.by_activation is None:
            return None
        bias = self.output - self.contributions
        return bias * self.by_activation.reshape(-1, *([1] * (bias.dim() - 1)))

    @cached_property
    def total(self) -> Tensor:
        """What the contributions add up to: z, and the bias where it shares by activation."""
        bias = self.bias_by_activation
        return self.contributions if bias is None else self.contributions + bias

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """W x for some input and weight, without bias."""
        if self.step.kind == "linear":
            return F.linear(x, weight)
        return self.step.function(x, weight, None, *self._geometry)

    def transpose(self, z: Tensor, weight: Tensor) -> Tensor:
        """W^T z."""
        if self.step.kind == "linear":
            return z @ weight
        stride, padding, *more = self._geometry
        if isinstance(padding, str):
            with torch.enable_grad():
                x = self.input.new_zeros((len(z), *self.input.shape[1:])).requires_grad_()
                return torch.autograd.grad(self.forward(x, weight), x, z)[0]
        transposed = self.step.kind.startswith("conv_transpose")
        output_padding, groups, dilation = more if transposed else (0, more[1], more[0])
        axes = self.input.dim() - 2
        stride, padding, output_padding, dilation = (
            [option] * axes if isinstance(option, int) else list(option) * (axes if len(option) == 1 else 1)
            for option in (stride, padding, output_padding, dilation)
        )
        x = self.input if len(z) == len(self.input) else self.input[:1].expand(len(z), *self.input.shape[1:])
        return torch.ops.aten.convolution_backward(
            z, x, weight, None, stride, padding, dilation, transposed, output_padding, groups,
            [True, False, False],
        )[0]  # fmt: skip

    def spread(self, z: Tensor) -> Tensor:
        """Each output's share handed out evenly to all the inputs it is connected with, padding left out."""
        if self.step.kind == "linear":
            return (z.sum(-1, keepdim=True) / self.input.shape[-1]).expand_as(self.input)
        if not all(
            any(reached) for reached in self._reached
        ):  # the output is bias alone: evenly to everything
            everything = z.flatten(1).sum(1) / self.input[0].numel()
            return everything.reshape(-1, *([1] * (self.input.dim() - 1))).expand_as(self.input)
        channels = self.input.shape[1] // self._part(6, "groups", 1)
        even = self._collected(self._within_reach(z)) / (channels * self._single.connected)
        return self._handed_out(self._single.transpose(even, self._single.weight))

    def spread_by_activation(self, z: Tensor) -> Tensor:
        """Each output's share handed out in proportion to |x_i|; evenly where all those inputs are zero.

        A grouped convolution hands out to all channels of its window: a group of one channel that is nearly
        silent would otherwise have to carry all of a bias.
        """
        size = self.input.abs()
        if self.step.kind == "linear":
            total = size.sum(-1, keepdim=True)
            return size * (z.sum(-1, keepdim=True) / total.where(total > 0, 1)) + self.spread(
                z * (total <= 0)
            )
        ones = self._single.weight
        total = self._single.forward(size.sum(1, keepdim=True), ones)  # (B, 1, h, w)
        shared = self._single.transpose(z.sum(1, keepdim=True) / total.where(total > 0, 1), ones) * size
        return shared + self.spread(z * (total <= 0))

    def _within_reach(self, z: Tensor) -> Tensor:
        """Shares of outputs that no input reaches (a kernel that lies in the padding) moved to the nearest others."""
        for axis, reached in enumerate(self._reached, start=2):
            if not all(reached):
                near = [i for i, there in enumerate(reached) if there]
                nearest = [min(near, key=lambda i, o=o: abs(i - o)) for o in range(len(reached))]
                z = torch.zeros_like(z).index_add_(axis, torch.tensor(nearest, device=z.device), z)
        return z

    @cached_property
    def _reached(self) -> list[list[bool]]:
        """For each axis, which outputs are connected with an input: a matter of shapes alone."""
        stride, padding, *more = self._geometry
        if isinstance(padding, str):  # "same" and "valid" have none
            return []
        transposed = self.step.kind.startswith("conv_transpose")
        dilation = more[2] if transposed else more[0]
        sizes = self.input.shape[2:], self.step.output.tensor.shape[2:], self.weight.shape[2:]
        axes = len(sizes[0])
        stride, padding, dilation = (
            [option] * axes if isinstance(option, int) else list(option) * (axes // len(option))
            for option in (stride, padding, dilation)
        )
        reached = []
        for n, m, k, s, p, d in zip(*sizes, stride, padding, dilation, strict=True):
            reach = [[False] * n, [False] * m]
            few, many = (n, 1) if transposed else (m, 0)
            for i in range(few):
                for tap in range(k):
                    o = i * s - p + tap * d
                    if 0 <= o < len(reach[many]):
                        reach[1][o if transposed else i] = True
            reached.append(reach[1])
        return reached

    def _collected(self, z: Tensor) -> Tensor:
        """The sum over the output channels of each group: (B * groups, 1, h, w)."""
        return z.unflatten(1, (self._part(6, "groups", 1), -1)).sum(2).flatten(0, 1)[:, None]

    def _handed_out(self, z: Tensor) -> Tensor:
        """The same number for every input channel of a group: (B * groups, 1, H, W) to (B, C, H, W)."""
        groups = self._part(6, "groups", 1)
        z = z.unflatten(0, (-1, groups))  # (B, groups, 1, H, W)
        return z.expand(-1, -1, self.input.shape[1] // groups, *z.shape[3:]).flatten(1, 2)

    @cached_property
    def connected(self) -> Tensor:
        """How many positions each output of a layer of ones is connected with, at least 1."""
        return self.contributions.clamp_min(1)

    @cached_property
    def _single(self) -> "WeightedLayer":
        """The same geometry with one channel, ones everywhere: z counts an output's connected positions."""
        weight, x = self._part(1, "weight"), self.input
        sizes = tuple(x.shape[2:]), tuple(weight.shape[2:])
        geometry = tuple(tuple(option) if isinstance(option, list) else option for option in self._geometry)
        return _layer_of_ones(self.step.kind, self.step.function, geometry, sizes, x.dtype, x.device)

    @cached_property
    def _geometry(self) -> tuple:
        """stride, padding, (output_padding,) dilation and groups in the order of the function."""
        if self.step.kind.startswith("conv_transpose"):
            names = (("stride", 1), ("padding", 0), ("output_padding", 0), ("groups", 1), ("dilation", 1))
        else:
            names = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))
        return tuple(self._part(i, name, default) for i, (name, default) in enumerate(names, start=3))

    def _part(self, position: int, name: str, default: Any = None) -> Any:
        return self.step.argument(position, name, default)


_ones: dict[tuple, WeightedLayer] = {}  # a matter of shapes, the same for every image and pass


def _layer_of_ones(
    kind: str,
    function: Callable,
    geometry: tuple,
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
) -> WeightedLayer:
    key = kind, function, geometry, sizes, dtype, device
    if key in _ones:
        return _ones[key]
    x, ones = (torch.ones(1, 1, *size, dtype=dtype, device=device) for size in sizes)
    groups = 3 if kind.startswith("conv_transpose") else -1  # its place among the options
    geometry = (*geometry[:groups], 1, *geometry[groups:][1:])
    single = Step(kind, function, (Value(x, None), ones, None, *geometry), {}, "", None)
    z = single.run({})
    assert isinstance(z, Tensor)  # one output
    single.outputs = [Value(z, single)]
    layer = WeightedLayer(single)
    if not capturing():  # a recording's own tensors hold nothing outside it
        while len(_ones) >= MOST_OF_ONES:
            del _ones[next(iter(_ones))]
        _ones[key] = layer
        _ = layer.connected, layer.weight  # computed here, not within a recording
    return layer


def folded_norms(steps: list[Step]) -> dict[Step, Step]:
    """Batch norms that directly follow a weighted layer whose output nobody else reads: {layer: batch norm}."""
    pairs = {}
    for step in steps:
        if step.kind != "batch_norm":
            continue
        before = step.argument(0, "input").step
        if before is None or before.kind not in WEIGHTED or before.output.uses > 1:
            continue
        if before.kind != "linear" or before.output.tensor.dim() == 2:
            pairs[before] = step
    return pairs


def module_type(step: Step) -> type[nn.Module]:
    """The module type of a weighted step, also of a functional one: `F.conv2d` counts as `nn.Conv2d`."""
    names = {"linear": nn.Linear}
    for axes in (1, 2, 3):
        names |= {f"conv{axes}d": getattr(nn, f"Conv{axes}d")}
        names |= {f"conv_transpose{axes}d": getattr(nn, f"ConvTranspose{axes}d")}
    return names[step.kind]
