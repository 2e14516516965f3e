"""How LRP hands relevance through the steps without weights to learn; see the table in `relevance`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from interp_cnn.explanation.network import operations
from interp_cnn.explanation.propagation.lrp_rules import STABILISER, stabilised
from interp_cnn.explanation.propagation.moves import moved_back
from interp_cnn.explanation.propagation.tape import Step, Value
from interp_cnn.explanation.propagation.transposes import (
    batch_norm_scale,
    of_one_output,
    rows,
    unbroadcast,
    vector_jacobian,
)

Shares = list[tuple[Value, Tensor]]

_PASSING = operations.ELEMENTWISE | operations.NORMALISERS | {"template_mask", "rpow"}


def propagate_relevance(
    step: Step,
    received: Sequence[Tensor | None],
    by_activation: Tensor | None = None,
    epsilon: float = STABILISER,
    *,
    keeping: bool = False,
) -> Shares:
    """The relevance of a step without weights, handed to its inputs.

    Args:
        step: the step.
        received: relevance of each of its outputs; None for an output that nothing came back from.
        by_activation: (B,) images whose biases share by activation.
        epsilon: of sums and averages, as the rule of the same name has it.
        keeping: whether shifts and constants that are added keep their share of the relevance for themselves.

    Returns:
        The inputs and their shares.
    """
    kind, values = step.kind, step.inputs
    if len(values) == 1:
        (value,) = values
        if kind in _SHIFTING:
            slope, axes = _SHIFTING[kind](step)  # refuses the statistics of the batch
            relevance = of_one_output(received)
            if keeping:
                return [(value, _without_shift(step, relevance, slope))]
            if by_activation is not None:
                relevance = _shift_by_activation(step, relevance, slope, axes, by_activation)
            return [(value, relevance)]
        if keeping and kind in ("add", "sub"):
            return [(value, _without_constant(step, value, of_one_output(received)))]
        if kind in _PASSING or kind in operations.BINARY:
            return [(value, unbroadcast(of_one_output(received), value.tensor.shape))]
        if kind in operations.SUMS:
            return [(value, _in_proportion(step, value, of_one_output(received), epsilon))]
    elif kind in ("add", "sub"):
        return _over_branches(step, of_one_output(received), epsilon)
    elif kind == "mul":
        return _to_the_signal(step, of_one_output(received))
    elif kind == "div":
        signal = step.argument(0, "input")
        return [(signal, unbroadcast(of_one_output(received), signal.tensor.shape))]
    if kind in operations.WINNERS | {"maximum", "minimum"}:
        return [(value, vector_jacobian(step, value, received)) for value in values]
    if kind in operations.MOVES:
        return moved_back(step, received)
    raise ValueError(f"lrp has no rule for {step.where}")


def _shift_by_activation(
    step: Step, relevance: Tensor, slope: Tensor, axes: tuple[int, ...], by_activation: Tensor
) -> Tensor:
    """A norm y = slope x + shift: the shift's relevance by activation over the axes, for the images in `by_activation`.

    Where signal and shift cancel out to less than a thousandth, no proportion is left and the relevance stays in place.
    """
    x, y = step.argument(0, "input").tensor, step.output.tensor
    signal = slope * x
    cancelled = 1e-3 * (signal.abs() + (y - signal).abs()) + STABILISER
    factor = relevance * y / (y.square() + cancelled.square())
    signal = factor * signal
    shift = (factor * y - signal).sum(axes, keepdim=True)
    size = x.abs().add_(torch.finfo(x.dtype).tiny)  # evenly where everything is dark
    shared = signal + size / size.sum(axes, keepdim=True) * shift + (relevance - factor * y)
    return torch.where(by_activation.reshape(-1, *([1] * (x.dim() - 1))), shared, relevance)


def _without_shift(step: Step, relevance: Tensor, slope: Tensor) -> Tensor:
    """A norm's relevance without the shift's own: a batch norm's mean belongs to the shift, a layer norm's does not."""
    y = step.output.tensor
    if step.kind == "batch_norm":
        signal = slope * step.argument(0, "input").tensor
    else:
        bias = step.argument(3, "bias")
        signal = y if bias is None else y - bias
    return relevance * signal / stabilised(y)


def _without_constant(step: Step, value: Value, relevance: Tensor) -> Tensor:
    """The relevance of a sum with a constant that belongs to the signal: in proportion."""
    second = step.argument(0, "input") is not value
    slope = (-1 if step.kind == "sub" else 1) * step.argument(2, "alpha", 1) if second else 1
    shared = relevance * slope * value.tensor / stabilised(step.output.tensor)
    return unbroadcast(shared, value.tensor.shape)


def _batch_norm(step: Step) -> tuple[Tensor, tuple[int, ...]]:
    return rows(batch_norm_scale(step), step), (1,)


def _layer_norm(step: Step) -> tuple[Tensor, tuple[int, ...]]:
    x, weight = step.argument(0, "input").tensor, step.argument(2, "weight")
    axes = tuple(range(x.dim() - len(step.argument(1, "normalized_shape")), x.dim()))
    spread = (x.var(axes, unbiased=False, keepdim=True) + step.argument(4, "eps", 1e-5)).rsqrt()
    return spread if weight is None else spread * weight, axes


_SHIFTING = {"batch_norm": _batch_norm, "layer_norm": _layer_norm}


def _in_proportion(step: Step, value: Value, relevance: Tensor, epsilon: float) -> Tensor:
    """Epsilon for a linear step without weights; what has no proportion is spread evenly over the inputs."""
    output = step.output.tensor
    denominator = stabilised(output, epsilon)
    factor = relevance / denominator
    shared = value.tensor * vector_jacobian(step, value, [factor])
    rest = factor * (denominator - output)
    if step.kind in operations.AVERAGES:
        weight = step.run({value: torch.ones_like(value.tensor)})
        assert isinstance(weight, Tensor)  # one output
        return shared + vector_jacobian(step, value, [rest / weight])
    total = rest.flatten(1).sum(1) / value.tensor[0].numel()  # (B,)
    return shared + total.reshape(-1, *([1] * (shared.dim() - 1)))


def _over_branches(step: Step, relevance: Tensor, epsilon: float) -> Shares:
    """A sum's relevance in proportion to its terms; where they cancel out, half each."""
    terms = step.argument(0, "input"), step.argument(1, "other")
    sign = -1 if step.kind == "sub" else 1
    slopes = 1, sign * step.argument(2, "alpha", 1)
    output = step.output.tensor
    denominator = stabilised(output, epsilon)
    factor = relevance / denominator
    half = factor * (denominator - output) / 2
    shares = [
        torch.addcmul(half, term.tensor if slope == 1 else slope * term.tensor, factor)
        for term, slope in zip(terms, slopes, strict=True)
    ]
    return [(term, unbroadcast(share, term.tensor.shape)) for term, share in zip(terms, shares, strict=True)]


def _to_the_signal(step: Step, relevance: Tensor) -> Shares:
    """A product's relevance goes to the signal, not to the gate; half each where neither is a gate."""
    first, second = step.argument(0, "input"), step.argument(1, "other")
    gates = [
        value.tensor.numel() < step.output.tensor.numel() or _is_gate(value) for value in (first, second)
    ]
    signals = [value for value, gate in zip((first, second), gates, strict=True) if not gate] or [
        first,
        second,
    ]
    return [(value, unbroadcast(relevance / len(signals), value.tensor.shape)) for value in signals]


def _is_gate(value: Value) -> bool:
    """Whether a value is the output of a bounded activation, perhaps seen through a view."""
    while value.step is not None and value.step.kind in operations.MOVES and len(value.step.inputs) == 1:
        value = value.step.inputs[0]
    return value.step is not None and value.step.kind in operations.GATES
