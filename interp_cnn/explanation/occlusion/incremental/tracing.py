"""Writing a network down with `torch.fx`, and making the graph safe to compute on.

An operation that works in place takes the place of its input for everyone who reads it later. Every node learns
its value on example images, and whether it depends on their pixels (parameters and sizes do not).
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from interp_cnn.explanation.network.part_mask import is_part_mask

IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv, torch.relu_, nn.functional.relu_}
VIEWS = {
    "view",
    "reshape",
    "flatten",
    "permute",
    "transpose",
    "chunk",
    "split",
    "unsqueeze",
    "squeeze",
    "getitem",
}


class Untraceable(Exception):
    """The network cannot be written down as a constant graph; the message says why."""


def works_in_place(node: fx.Node, module: fx.GraphModule) -> bool:
    """True if the call overwrites its first argument."""
    if node.op == "call_module":
        called = module.get_submodule(node.target)
        return bool(getattr(called, "inplace", False)) and not isinstance(
            called, nn.modules.dropout._DropoutNd
        )
    if node.op == "call_method":
        return node.target.endswith("_") and not node.target.endswith("__")
    flagged = bool(node.kwargs.get("inplace", False))
    name = getattr(node.target, "__name__", "")
    positional = node.target is nn.functional.relu and len(node.args) > 1 and bool(node.args[1])
    return node.op == "call_function" and (
        flagged or positional or node.target in IN_PLACE or name.endswith("_")
    )


class Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return is_part_mask(module) or super().is_leaf_module(module, qualified_name)


def replace_in_place(module: fx.GraphModule) -> None:
    """Whoever reads a tensor after it was overwritten reads the result of the overwriting."""
    position = {node: number for number, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        if node.op in ("placeholder", "output", "get_attr") or not works_in_place(node, module):
            continue
        if not node.args or not isinstance(node.args[0], fx.Node):
            raise Untraceable(f"{node.target} writes in place in a way that is not understood")
        source = base = node.args[0]
        later = position[node]
        while str(getattr(base.target, "__name__", base.target)) in VIEWS and isinstance(
            base.args[0], fx.Node
        ):
            base = base.args[0]
            if any(position[user] > later for user in base.users):
                raise Untraceable(f"{node.target} writes into a view of a tensor that is read again")
        source.replace_all_uses_with(node, lambda user, after=later: position[user] > after)


def record(module: fx.GraphModule, images: Tensor) -> None:
    """Run the graph once; every node learns its value and whether it depends on the images' pixels."""
    for node in module.graph.nodes:
        if node.op == "placeholder":
            first = node is next(iter(module.graph.nodes))
            node.meta["value"] = images if first else (node.args[0] if node.args else None)
            node.meta["varies"] = first
        elif node.op != "output":
            overwrites = works_in_place(node, module) if node.op != "get_attr" else False

            def argument(source: fx.Node, overwrites: bool = overwrites) -> Any:
                value = source.meta["value"]
                return value.clone() if overwrites and isinstance(value, Tensor) else value

            node.meta["value"] = call(module, node, argument)
            # sizes and types are constants, though they are read off the image
            node.meta["varies"] = bool(varying_inputs(node)) and _holds_tensor(node.meta["value"])


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_tensor(part) for part in value)
    return isinstance(value, Tensor)


def call(module: fx.GraphModule, node: fx.Node, argument) -> Any:
    arguments = fx.node.map_arg(node.args, argument)
    keywords = fx.node.map_arg(node.kwargs, argument)
    if node.op == "call_module":
        return module.get_submodule(node.target)(*arguments, **keywords)
    if node.op == "call_function":
        return node.target(*arguments, **keywords)
    if node.op == "call_method":
        return getattr(arguments[0], node.target)(*arguments[1:], **keywords)
    return operator.attrgetter(node.target)(module)


def varying_inputs(node: fx.Node) -> list[fx.Node]:
    return [source for source in node.all_input_nodes if source.meta["varies"]]


def constants(node: fx.Node) -> dict[fx.Node, Any]:
    return {source: source.meta["value"] for source in node.all_input_nodes if not source.meta["varies"]}
