"""How DeepLIFT hands multipliers back through one step; see the table in `deeplift`.

Every function takes the step, the multiplier m of its output, and `at_baseline`, the baseline's tensor for each value.
"""

import torch
from torch import Tensor

from interp_cnn.explanation.network import operations
from interp_cnn.explanation.network.logits import capturing
from interp_cnn.explanation.network.part_mask import PartMask
from interp_cnn.explanation.network.refusals import refuse_where
from interp_cnn.explanation.propagation.linear_layers import WeightedLayer
from interp_cnn.explanation.propagation.tape import Step, Value
from interp_cnn.explanation.propagation.transposes import (
    batch_norm_scale,
    of_one_output,
    rows,
    unbroadcast,
    vector_jacobian,
)
from interp_cnn.explanation.propagation.winners import candidates, shared

BaselineValues = dict[Value, Tensor]
Multipliers = list[tuple[Value, Tensor]]

_LINEAR = operations.MOVES | operations.AVERAGES | {"add", "sub", "rsub", "fold"}
_LINEAR_IN_EACH = {"mul", "matmul", "mm", "bmm", "einsum", "tensordot", "mv"}

_CURVED = {
    "gelu",
    "silu",
    "mish",
    "softplus",
    "sigmoid",
    "tanh",
    "logsigmoid",
    "erf",
    "exp",
    "sin",
    "cos",
    "atan",
}
_POWERS = {"pow", "square", "sqrt", "rsqrt", "reciprocal", "log", "rdiv", "mul"}
_KINKS = {
    "hardswish": (-3, 3),
    "hardsigmoid": (-3, 3),
    "leaky_relu": (0,),
    "prelu": (0,),
    "elu": (0,),
    "selu": (0,),
    "celu": (0,),
}


def propagate_multipliers(
    step: Step, received: list[Tensor | None], at_baseline: BaselineValues
) -> Multipliers:
    """The multipliers of a step's inputs.

    Args:
        step: the step on the image's tape.
        received: multipliers of its outputs; None for an output without influence.
        at_baseline: the baseline's tensor for each value of the image's tape.
    """
    kind, values = step.kind, step.inputs
    if kind in operations.WEIGHTED:
        layer = WeightedLayer(step)
        return [(layer.value, layer.transpose(of_one_output(received), layer.weight))]
    if kind == "batch_norm":
        return [(values[0], of_one_output(received) * rows(batch_norm_scale(step), step))]
    if kind == "template_mask":
        return [(values[0], _through_mask(step, of_one_output(received), at_baseline))]
    if kind in operations.WINNERS or (kind in ("maximum", "minimum") and len(values) == 2):
        return _to_winners(step, received, at_baseline)
    divided = kind == "div" and not isinstance(step.argument(1, "other"), Value)
    if kind in _LINEAR or divided or (kind in _LINEAR_IN_EACH and len(step.occurrences) == 1):
        return [(value, vector_jacobian(step, value, received)) for value in values]
    if len(values) == 1 and kind in operations.ELEMENTWISE | operations.BINARY | {"rpow"}:
        return [(values[0], _rescaled(step, of_one_output(received), at_baseline))]
    if len(values) == 1 and kind in _GROUPED:
        return [(values[0], _through_norm(step, of_one_output(received), at_baseline))]
    if kind == "mul":
        return _through_product(step, of_one_output(received), at_baseline)
    if kind == "div" and len(values) == 2:
        return _through_quotient(step, of_one_output(received), at_baseline)
    raise ValueError(f"deeplift has no rule for {step.where}")


def _rescaled(step: Step, m: Tensor, at_baseline: BaselineValues) -> Tensor:
    """A pointwise function: m dy / dx; where dx is so small that dy is rounding, m times the slope halfway."""
    (value,) = step.inputs
    x, b = value.tensor, at_baseline[value]
    dx, dy = x - b, step.output.tensor - at_baseline[step.output]
    if dx.shape != dy.shape:
        raise ValueError(f"deeplift has no rule for {step.where} that spreads a value over several")
    still = dx.abs() <= _stillness(step.kind, x, b)
    multiplier = dy.div_(dx.masked_fill_(still, 1)).mul_(m)
    if not capturing() and not still.any():
        return multiplier
    return torch.where(still, vector_jacobian(step, value, [m], {value: (x + b) / 2}), multiplier)


def _stillness(kind: str, x: Tensor, b: Tensor) -> Tensor:
    """How small a change counts as none: beyond, the quotient is better than the slope halfway (error dx^2 / 24)."""
    rounding = 4 * torch.finfo(x.dtype).eps * torch.maximum(x.abs(), b.abs())
    small = torch.finfo(x.dtype).eps ** (1 / 3)  # where both errors are alike
    if kind in _CURVED:
        return torch.full_like(x, small)
    if kind in _POWERS:
        return small * torch.minimum(x.abs(), b.abs()) * (x * b > 0)
    if kind not in _KINKS:
        return rounding
    straddled = torch.zeros_like(x, dtype=torch.bool)
    for kink in _KINKS[kind]:
        straddled |= (x - kink) * (b - kink) <= 0
    return torch.where(straddled, rounding, small)


def _to_winners(step: Step, received: list[Tensor | None], at_baseline: BaselineValues) -> Multipliers:
    """A maximum: the rise to the image's winners, the fall to the baseline's, divided by their own changes.

    Winners that are equal up to rounding share alike. One that wins in both, give or take a thousandth of the change,
    takes it whole: in a constant baseline every cell of a window wins, and the image's winner is the one meant.
    """
    k, m = next((k, m) for k, m in enumerate(received) if m is not None)
    y, y_b = step.outputs[k].tensor, at_baseline[step.outputs[k]]
    image = {value: value.tensor for value in step.inputs}
    baseline = {value: at_baseline[value].expand_as(value.tensor) for value in step.inputs}
    if step.kind == "minimum":
        y, y_b, m = -y, -y_b, -m
    change, top = y - y_b, torch.maximum(y, y_b)
    rounding = 16 * torch.finfo(y.dtype).eps * torch.maximum(y.abs(), y_b.abs())
    below = candidates(step, image) - y[..., None], candidates(step, baseline) - y_b[..., None]
    equal = (1e-5 * change.abs() + rounding)[..., None]
    nearly = (1e-3 * change.abs() + rounding)[..., None]
    wins, wins_b = (difference >= -equal for difference in below)  # (*outputs, candidates)
    both = wins & (below[1] >= -nearly)
    both = torch.where(both.any(-1, keepdim=True), both, wins_b & (below[0] >= -nearly))
    settled = both.any(-1)
    parts = ((both, change * settled), (wins, (top - y_b) * ~settled), (wins_b, (y - top) * ~settled))
    each = (winners * (m * part / winners.sum(-1).clamp(min=1))[..., None] for winners, part in parts)
    shares = sum(each, start=m.new_zeros(()))
    multipliers = []
    for value in step.inputs:
        dx = value.tensor - at_baseline[value]
        still = dx.abs() <= 4 * torch.finfo(dx.dtype).eps * torch.maximum(
            value.tensor.abs(), at_baseline[value].abs()
        )
        share = shared(step, value, shares, image)
        multiplier = share / dx.masked_fill(still, 1)
        slope = vector_jacobian(step, value, received)
        multipliers.append((value, torch.where(still, slope, multiplier)))
    return multipliers


def _through_product(step: Step, m: Tensor, at_baseline: BaselineValues) -> Multipliers:
    first, second = step.argument(0, "input"), step.argument(1, "other")
    means = [(value.tensor + at_baseline[value]) / 2 for value in (second, first)]
    return [
        (value, unbroadcast(m * mean, value.tensor.shape))
        for value, mean in zip((first, second), means, strict=True)
    ]


def _through_quotient(step: Step, m: Tensor, at_baseline: BaselineValues) -> Multipliers:
    """A quotient u / v as the product of u and 1 / v, whose change is -dv / (v_x v_b)."""
    u, v = step.argument(0, "input"), step.argument(1, "other")
    inverse, inverse_b = 1 / v.tensor, 1 / at_baseline[v]
    m_u = m * (inverse + inverse_b) / 2
    m_v = m * (u.tensor + at_baseline[u]) / 2 * -(inverse * inverse_b)
    return [(u, unbroadcast(m_u, u.tensor.shape)), (v, unbroadcast(m_v, v.tensor.shape))]


_GROUPED = {"layer_norm", "group_norm", "instance_norm"}


def _through_norm(step: Step, m: Tensor, at_baseline: BaselineValues) -> Tensor:
    """A norm y = weight c / sqrt(v) + bias with c = x - mean x and v = mean c^2 + eps, over groups of each image."""
    x, b = step.argument(0, "input").tensor, at_baseline[step.argument(0, "input")]
    weight, eps, grouped = _norm_parts(step)
    m = grouped(m if weight is None else m * weight)  # (B, groups, members) like the rest
    centred, centred_b = (values - values.mean(-1, keepdim=True) for values in (grouped(x), grouped(b)))
    root, root_b = ((values.square().mean(-1, keepdim=True) + eps).sqrt() for values in (centred, centred_b))
    by_centre = m * (1 / root + 1 / root_b) / 2
    slope = -1 / (root * root_b * (root + root_b))  # change of 1 / root for each change of v
    by_variance = (m * (centred + centred_b) / 2).mean(-1, keepdim=True) * slope * (centred + centred_b)
    m = by_centre + by_variance
    return (m - m.mean(-1, keepdim=True)).reshape(x.shape)


def _norm_parts(step: Step):
    """Weight shaped for the input, eps, and the reshaping into (B, groups, members)."""
    x = step.argument(0, "input").tensor
    if step.kind == "layer_norm":
        members = int(torch.Size(step.argument(1, "normalized_shape")).numel())
        return (
            step.argument(2, "weight"),
            step.argument(4, "eps", 1e-5),
            lambda t: t.reshape(len(t), -1, members),
        )
    if step.kind == "group_norm":
        groups, weight, eps = (
            step.argument(1, "num_groups"),
            step.argument(2, "weight"),
            step.argument(4, "eps", 1e-5),
        )
    else:
        if not step.argument(5, "use_input_stats", True):
            raise ValueError(f"deeplift has no rule for {step.where} with running statistics")
        groups, weight, eps = x.shape[1], step.argument(3, "weight"), step.argument(7, "eps", 1e-5)
    weight = None if weight is None else rows(weight, step)
    return weight, eps, lambda t: t.reshape(len(t), groups, -1)


def _through_mask(step: Step, m: Tensor, at_baseline: BaselineValues) -> Tensor:
    """A part mask y = r(x) M: the mean mask, and what its move between the two positions brings about.

    The move is charged to the cells whose change made the mask prefer the one position to the other: in proportion
    to |evidence_c dx_c| (`PartMask.evidence_between`). For a mask at the peak these are the two peaks.
    """
    (value,), mask = step.inputs, step.module
    assert isinstance(mask, PartMask)
    entering = value.tensor, at_baseline[value]
    positions = [mask.positions(maps).expand(len(m), -1) for maps in entering]  # (B, D) each
    size = m.shape[2:]
    factors = [mask.factors_at(position, *size).to(m) for position in positions]
    signed = value.tensor, at_baseline[value].expand_as(value.tensor)
    x, b = (maps.relu() for maps in signed) if mask.rectify else signed
    for values, factor, output in zip(
        (x, b), factors, (step.output.tensor, at_baseline[step.output]), strict=True
    ):
        refuse_where(
            (values * factor - output).abs().amax() > 1e-5 * values.abs().amax(),
            f"deeplift has no rule for {step.where}: it is not its maps times factors_at(positions)",
        )
    empty = [(maps == 0).all(3, keepdim=True).all(2, keepdim=True) for maps in (x, b)]  # no peak: no move
    factors = [torch.where(empty[0], factors[1], factors[0]), torch.where(empty[1], factors[0], factors[1])]
    moved = (m * (x + b) / 2 * (factors[0] - factors[1])).sum((2, 3), keepdim=True)  # (B, D, 1, 1)
    change = x - b
    evidence = mask.evidence_between(positions[0], positions[1], *size).to(m).abs()
    total = (evidence * change.abs()).sum((2, 3), keepdim=True)
    multiplier = m * (factors[0] + factors[1]) / 2
    multiplier += moved / total.where(total > 0, 1) * evidence * change.sign()
    if not mask.rectify:
        return multiplier
    slope = change / (signed[0] - signed[1]).where(signed[0] != signed[1], 1)
    return multiplier * torch.where(signed[0] != signed[1], slope, (signed[0] > 0).to(slope))
