"""One call in the network's graph, as the rules look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from interp_cnn.explanation.network.operations import spelled


@dataclass
class Call:
    """One call, with the values it was recorded with."""

    node: fx.Node
    module: nn.Module | None
    name: str  # of the function or method, without module and trailing underscore; "" for a module
    sources: list[Tensor]  # the inputs that depend on the image
    forms: list[str]
    output: Tensor
    constants: dict[fx.Node, Any]
    parts_of: Call | None = None  # the call whose parts this one takes one of

    @classmethod
    def of(
        cls, graph: fx.GraphModule, node: fx.Node, sources: list, forms: list[str], constants: dict
    ) -> Call:
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        return cls(node, module, _name(node), sources, forms, node.meta["value"], constants)

    @staticmethod
    def permutation(node: fx.Node) -> tuple[int, ...] | None:
        """The order of axes if this call permutes them."""
        if node.op not in ("call_method", "call_function") or _name(node) != "permute":
            return None
        order = node.args[1:] or (node.kwargs.get("dims"),)
        order = order[0] if len(order) == 1 else order
        if not isinstance(order, (tuple, list)):
            return ()
        axes = [axis for axis in order if isinstance(axis, int)]
        return tuple(axis % len(order) for axis in axes) if len(axes) == len(order) else ()

    @property
    def keywords(self) -> dict[str, Any]:
        """Keyword arguments with constants filled in, without `inplace`."""
        return {key: self.value(v) for key, v in self.node.kwargs.items() if key != "inplace"}

    @property
    def arguments(self) -> list[Any]:
        """Positional arguments with constants filled in."""
        return [self.value(argument) for argument in self.node.args]

    def value(self, argument: Any) -> Any:
        return map_arg(argument, lambda node: self.constants.get(node, node))

    @property
    def again(self) -> Callable[[Tensor], Any]:
        """The same call for another value of its only varying input; holds none of the recorded values."""
        before = None if self.parts_of is None else self.parts_of.again
        node, module, constants = self.node, self.module, self.constants

        def again(value: Tensor) -> Any:
            if before is not None:
                value = before(value)
            elif node.meta["overwrites"]:
                value = value.clone()

            def argument(source: fx.Node) -> Any:
                return constants.get(source, value)

            arguments: Any = map_arg(node.args, argument)
            keywords: Any = map_arg(node.kwargs, argument)
            if module is not None:
                return module(*arguments, **keywords)
            if node.op == "call_method":
                return getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
            assert callable(node.target)
            return node.target(*arguments, **keywords)

        return again

    @property
    def alone(self) -> bool:
        """True if exactly the first argument depends on the image."""
        others = [*self.arguments[1:], *self.keywords.values()]
        return (
            len(self.sources) == 1
            and len(self.node.args) > 0
            and isinstance(self.node.args[0], fx.Node)
            and not any(_nodes(other) for other in others)
        )


def _name(node: fx.Node) -> str:
    if node.op == "call_method":
        return spelled(str(node.target))
    if node.op != "call_function" or node.target is torch.adaptive_avg_pool1d:
        return ""
    return spelled(getattr(node.target, "__name__", ""))


def _nodes(value: Any) -> list[fx.Node]:
    nodes: list[fx.Node] = []
    map_arg(value, lambda node: nodes.append(node))
    return nodes
