"""The network's graph, walked once with a blank image, carrying each tensor's interval of pixels along.

torch.fx records the graph; an interpreter runs it with real tensors (so every shape is known) and applies the
rules of `receptive_rules`. An operation without a rule loses the interval; that is an error only if the layer
asked for lies behind it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from interp_cnn.explanation.network.part_mask import is_part_mask
from interp_cnn.explanation.receptive_field import rules
from interp_cnn.explanation.receptive_field.rules import CannotFollowError, Field, Interval


@dataclass(frozen=True)
class Lost:
    """Depends on the image, but not cell by cell."""

    reason: str


def follow(network: nn.Module, layer: str, image: Tensor) -> tuple[Field, tuple[int, int]]:
    """Field and grid (h, w) of `layer`'s output for a blank `image` (1, C, H, W)."""
    tracer = _Tracer(layer)
    try:
        graph = tracer.trace(network)
    except Exception as error:  # torch.fx raises errors of many classes where Python code branches on values
        raise CannotFollowError(f"torch.fx cannot trace it ({error})") from error
    if tracer.output is None:
        raise ValueError(f"layer {layer!r} did not run in the network's forward pass")
    (output,) = [node for node in graph.nodes if node.op == "output"]
    output.args = (tracer.output,)
    walk = _Walk(fx.GraphModule(network, graph))
    graph.eliminate_dead_code()
    with torch.no_grad():
        value = walk.run(image)
    field = walk.fields[tracer.output]
    if not isinstance(value, Tensor) or value.ndim != 4:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"layer {layer!r} gives {shape}; expected feature maps of shape (B, D, h, w)")
    if isinstance(field, Lost):
        raise CannotFollowError(field.reason)
    if field is None or field.axes != (2, 3):
        raise CannotFollowError("the layer's output is not laid out as (B, D, h, w)")
    return field, (value.shape[2], value.shape[3])


class _Tracer(fx.Tracer):
    """Remembers the node that the named module returned (the last one where it runs more than once)."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer
        self.output: fx.Node | None = None

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return is_part_mask(module) or super().is_leaf_module(module, name)

    def call_module(self, module, forward, args, kwargs):
        result = super().call_module(module, forward, args, kwargs)
        if self.path_of_module(module) == self.layer and isinstance(result, fx.Proxy):
            self.output = result.node
        return result


class _Walk(fx.Interpreter):
    """Runs the graph and notes every node's value and field."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.fields: dict[fx.Node, Field | Lost | None] = {}
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        self.values[node] = value
        if node.op == "placeholder":
            self.fields[node] = Field(Interval(1, 0, 0), Interval(1, 0, 0))
        else:
            self.fields[node] = self._field(node, value)
        return value

    def _field(self, node: fx.Node, value: Any) -> Field | Lost | None:
        inputs = [self.fields[item] for item in node.all_input_nodes]
        if all(field is None for field in inputs) or not isinstance(value, Tensor | tuple | list):
            return None
        try:
            if node.op == "call_module":
                module = self.module.get_submodule(str(node.target))
                return rules.module_rule(
                    module, self._only(node), self.values[node.all_input_nodes[0]], value
                )
            return self._function_rule(node, value)
        except CannotFollowError as reason:
            return Lost(str(reason))

    def _only(self, node: fx.Node) -> Field:
        """The field of the node's first input."""
        field = self.fields[node.all_input_nodes[0]]
        if not isinstance(field, Field):
            raise CannotFollowError(
                field.reason if isinstance(field, Lost) else f"{node.name} has no image input"
            )
        return field

    def _function_rule(self, node: fx.Node, value: Any) -> Field | None:
        name = (
            node.target
            if isinstance(node.target, str)
            else getattr(node.target, "__name__", str(node.target))
        )
        first = self.values[node.all_input_nodes[0]]
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if name in rules.POINTWISE or name in {"cat", "concat", "concatenate"}:
            if (
                name not in rules.POINTWISE
                and rules.axis_number(kwargs.get("dim", args[1] if len(args) > 1 else 0), value) != 1
            ):
                raise CannotFollowError(f"{name} along an axis of the image")
            return self._join(node, value)
        if name in {"adaptive_avg_pool2d", "adaptive_max_pool2d"}:
            return rules.adaptive(self._only(node), first, value)
        if name in {"max_pool2d", "avg_pool2d", "boolean_dispatch", "fn"}:
            options = dict(zip(("kernel_size", "stride", "padding"), args[1:], strict=False)) | kwargs
            dilation = kwargs.get("dilation", args[4] if name != "avg_pool2d" and len(args) > 4 else 1)
            kernel = options["kernel_size"]
            return rules.windowed(
                self._only(node), kernel, options.get("stride") or kernel, options.get("padding", 0), dilation
            )
        if name == "conv2d":
            options = (
                dict(zip(("weight", "bias", "stride", "padding", "dilation"), args[1:], strict=False))
                | kwargs
            )
            kernel, dilation = options["weight"].shape[2:], options.get("dilation", 1)
            padding = rules.same_padding(options.get("padding", 0), kernel, dilation)
            return rules.windowed(self._only(node), kernel, options.get("stride", 1), padding, dilation)
        if name == "interpolate":
            return rules.resampled(
                self._only(node), first, value, kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
            )
        if name == "pad":
            return rules.padded(self._only(node), args[1] if len(args) > 1 else kwargs["pad"])
        if name == "permute":
            order = args[1] if isinstance(args[1], Sequence) else args[1:]
            return rules.permuted(self._only(node), order, value)
        if name == "transpose":
            order = list(range(value.ndim))
            from_axis, to_axis = (rules.axis_number(axis, value) for axis in args[1:3])
            order[from_axis], order[to_axis] = order[to_axis], order[from_axis]
            return rules.permuted(self._only(node), order, value)
        if name == "unsqueeze":
            return rules.unsqueezed(self._only(node), rules.axis_number(args[1], value))
        if name == "getitem" and node.target is operator.getitem:
            return rules.indexed(self._only(node), first, args[1])
        if name in {"linear", "layer_norm"}:
            shape = (
                (1,) if name == "linear" else kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
            )
            return rules.within_cells(self._only(node), rules.last_axes(shape, value), name)
        if name in {"size", "getattr", "dim", "isinstance"}:
            return None
        raise CannotFollowError(f"no rule for {name}")

    def _join(self, node: fx.Node, value: Any) -> Field:
        """Union over all inputs that depend on the image; one that is constant over it is a gate."""
        inputs = [(self.fields[item], self.values[item]) for item in node.all_input_nodes]
        inputs = [(field, tensor) for field, tensor in inputs if field is not None]
        wide = [
            field
            for field, tensor in inputs
            if isinstance(field, Field) and rules.extent(tensor, field) != (1, 1)
        ]
        if not wide:
            if not all(isinstance(field, Field) for field, _ in inputs):
                raise CannotFollowError(next(field.reason for field, _ in inputs if isinstance(field, Lost)))
            return rules.union([field for field, _ in inputs])
        gates = [(field, tensor) for field, tensor in inputs if field not in wide]
        for field, tensor in gates:
            if not rules.is_constant_over(tensor, wide[0].axes, value.ndim):
                raise CannotFollowError(
                    field.reason if isinstance(field, Lost) else f"{node.name} broadcasts a map"
                )
        return rules.union(wide, gated=bool(gates))
