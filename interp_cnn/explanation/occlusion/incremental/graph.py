"""From a network to a list of steps whose delta rules are known.

`torch.fx` writes the network down as a graph (`incremental_trace`), so functional operations and modules used
twice are seen as what they are. Then
- every call gets its delta rule, if one knows it (`incremental_rules`);
- batch norm (evaluation mode) and other per-channel scales that follow a convolution are folded into it;
- max-pool moves before relu (they commute), so that relu sees the smaller map;
- what no rule knows keeps its original call: it, and all that reads it, runs densely.

A step's `form` says which axes its value has: "map" (N, C, H, W), "last" (N, H, W, C), "vector" (N, F), "other".
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from interp_cnn.explanation.occlusion.incremental.calls import Call
from interp_cnn.explanation.occlusion.incremental.operations import (
    Affine,
    Convolution,
    Linear,
    Operation,
    Relu,
)
from interp_cnn.explanation.occlusion.incremental.pooling import MaxPool
from interp_cnn.explanation.occlusion.incremental.rules import operation_of
from interp_cnn.explanation.occlusion.incremental.tracing import (
    Tracer,
    Untraceable,
    call,
    constants,
    record,
    replace_in_place,
    varying_inputs,
    works_in_place,
)

VERY_DEEP = 30  # convolutions beyond which only the smallest tiles keep a drop exact to 1e-5
DEEP = 8  # layers from which rounding counts: exact clean maps, small tiles


@dataclass
class Step:
    """One operation of the network on values that depend on the image."""

    name: str
    node: fx.Node
    inputs: tuple[str, ...]
    form: str
    shape: tuple[int, ...]
    operation: Operation | None = None  # None: no rule, runs densely

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the map; (1, 1) for a vector."""
        if self.form == "map":
            return self.shape[2], self.shape[3]
        return (self.shape[1], self.shape[2]) if self.form == "last" else (1, 1)

    @property
    def channels(self) -> int:
        return self.shape[1] if self.form in ("map", "vector") else self.shape[-1]


@dataclass
class Graph:
    """Steps in order; the first is the image, `output` names the logits."""

    module: fx.GraphModule
    steps: dict[str, Step]
    output: str
    dtype: torch.dtype

    @property
    def image(self) -> str:
        return next(iter(self.steps))

    @property
    def deep(self) -> bool:
        """True if the rounding of many layers adds up."""
        layers = [s for s in self.steps.values() if isinstance(s.operation, Convolution | Linear)]
        return len(layers) >= DEEP

    def readers(self) -> dict[str, list[str]]:
        """Who reads each step."""
        readers: dict[str, list[str]] = {name: [] for name in self.steps}
        for step in self.steps.values():
            for name in step.inputs:
                readers[name].append(step.name)
        return readers

    def capable(self) -> list[str]:
        """Steps with a delta rule that only such steps lead to; the image first."""
        names = [self.image]
        for step in list(self.steps.values())[1:]:
            if step.operation is not None and all(name in names for name in step.inputs):
                names.append(step.name)
        return names

    def unknown(self) -> list[str]:
        """Steps without a delta rule that such steps lead to, as the network names them."""
        reached = set(self.capable())
        ends = [s for s in self.steps.values() if s.operation is None and reached.issuperset(s.inputs)]
        return [f"{s.node.op} {getattr(s.node.target, '__name__', s.node.target)}" for s in ends[1:]]

    def dense(self, known: dict[str, Tensor], wanted: list[str], keep: bool = False) -> dict[str, Tensor]:
        """Evaluate the network from the known values on, as it was written.

        Args:
            known: values by name, of one batch size; the rest is computed from them as needed.
            wanted: names to compute.
            keep: keep every value on the way, not only the wanted ones.
        """
        return _Evaluation(self, known, set(wanted), keep).run()


class _Evaluation:
    """One dense evaluation of the graph; values are freed after their last reader."""

    def __init__(self, graph: Graph, known: dict[str, Tensor], wanted: set[str], keep: bool) -> None:
        self.graph, self.wanted, self.keep = graph, wanted, keep
        self.batch = len(next(iter(known.values())))
        self.known = known
        self.constants: dict[fx.Node, Any] = {}

    def run(self) -> dict[str, Tensor]:
        needed, stack = [], list(self.wanted)
        seen = set(self.known)
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                needed.append(name)
                stack.extend(self.graph.steps[name].inputs)
        order = [name for name in self.graph.steps if name in set(needed)]
        last_reader = {name: reader for reader in order for name in self.graph.steps[reader].inputs}
        values = dict(self.known)
        for name in order:
            values[name] = self._value(self.graph.steps[name], values)
            if not self.keep:
                for used in set(self.graph.steps[name].inputs):
                    if last_reader[used] == name and used not in self.wanted:
                        del values[used]
        return values

    def _value(self, step: Step, values: dict[str, Tensor]) -> Tensor:
        if step.operation is not None:
            return step.operation.forward(*(values[name] for name in step.inputs))
        alias = dict(zip(varying_inputs(step.node), step.inputs, strict=True))
        # a step without a rule brings its own parameters: it works in the number type of the network
        own = self.graph.dtype
        known = [values[name] for name in step.inputs]
        given = next((value.dtype for value in known if isinstance(value, Tensor)), own)

        def argument(node: fx.Node) -> Any:
            if node not in alias:
                return self._constant(node)
            value = values[alias[node]]
            value = value.to(own) if isinstance(value, Tensor) and value.is_floating_point() else value
            return value.clone() if works_in_place(step.node, self.graph.module) else value

        result = call(self.graph.module, step.node, argument)
        floating = isinstance(result, Tensor) and result.is_floating_point()
        return result.to(given) if floating else result

    def _constant(self, node: fx.Node) -> Any:
        """Parameters, and sizes of values (which depend on the batch size only)."""
        if node not in self.constants:
            if node.meta["varies"]:
                shape = (self.batch, *node.meta["value"].shape[1:])
                self.constants[node] = node.meta["value"].new_empty(1).expand(shape)
            else:
                self.constants[node] = call(self.graph.module, node, self._constant)
        return self.constants[node]


def graph_of(network: nn.Module, images: Tensor, careful: bool = False) -> Graph:
    """Write the network down as steps.

    Args:
        network: in evaluation mode.
        images: (B, C, H, W), of the size the steps are for.
        careful: see `incremental_rules.operation_of`.

    Raises:
        Untraceable: with the reason.
    """
    try:
        module = fx.GraphModule(network, Tracer().trace(network))
    except Exception as error:  # user code runs on proxies: anything may be raised
        raise Untraceable(f"torch.fx cannot trace it ({type(error).__name__}: {error})") from error
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    if len(placeholders) != 1 and any(not node.args for node in placeholders[1:]):
        raise Untraceable(f"it takes {len(placeholders)} inputs")
    replace_in_place(module)
    record(module, images)
    steps: dict[str, Step] = {}
    for node in module.graph.nodes:
        if node.op == "output" or not node.meta["varies"]:
            continue
        inputs = tuple(source.name for source in varying_inputs(node))
        value = node.meta["value"]
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        step = Step(node.name, node, inputs, "other", shape)
        step.form = _form(step, steps)
        if inputs and step.form != "other" and all(steps[name].form != "other" for name in inputs):
            sources = [source.meta["value"] for source in varying_inputs(node)]
            forms = [steps[name].form for name in inputs]
            step.operation = operation_of(Call.of(module, node, sources, forms, constants(node)), careful)
        steps[node.name] = step
    (result,) = next(node for node in module.graph.nodes if node.op == "output").args
    if not isinstance(result, fx.Node) or not isinstance(result.meta["value"], Tensor):
        raise Untraceable("it does not return one tensor")
    for node in module.graph.nodes:  # only shapes are needed from here on
        value = node.meta.get("value")
        if isinstance(value, Tensor) and node.meta["varies"]:
            node.meta["value"] = value.new_empty(1).expand(value.shape)
    graph = Graph(module, steps, result.name, images.dtype)
    _fold(graph)
    _pool_first(graph)
    convolutions = [step.operation for step in steps.values() if isinstance(step.operation, Convolution)]
    for convolution in convolutions:  # rounding adds up over layers: larger tiles round more
        convolution.largest_tile = 6 if not graph.deep else 3 if len(convolutions) <= VERY_DEEP else 2
    return graph


def _form(step: Step, steps: dict[str, Step]) -> str:
    """Which axes the value has; a permutation is recognised by its call, everything else keeps its input's form."""
    if not isinstance(step.node.meta["value"], Tensor) or len(step.shape) not in (2, 4):
        return "other"
    if not step.inputs:
        return "map" if len(step.shape) == 4 else "other"
    if len(step.shape) == 2:
        return "vector"
    forms = {steps[name].form for name in step.inputs if len(steps[name].shape) == 4}
    if len(forms) != 1:
        return "other"
    (form,) = forms
    order = Call.permutation(step.node)
    if order is None:
        return form
    return {("map", (0, 2, 3, 1)): "last", ("last", (0, 3, 1, 2)): "map"}.get((form, order), "other")


def _fold(graph: Graph) -> None:
    """Merge a per-channel scale into the convolution before it, where nobody else reads the convolution."""
    readers = graph.readers()
    for name in list(graph.steps):
        step = graph.steps[name]
        if not isinstance(step.operation, Affine) or step.operation.scale.ndim > 1 or step.form != "map":
            continue
        (source,) = step.inputs
        convolution = graph.steps[source]
        if isinstance(convolution.operation, Convolution) and readers[source] == [name]:
            folded = convolution.operation.then_affine(step.operation.scale, step.operation.shift)
            merged = copy.copy(step)
            merged.operation, merged.inputs = folded, convolution.inputs
            graph.steps[name] = merged
            del graph.steps[source]
            readers[convolution.inputs[0]] = [
                name if r == source else r for r in readers[convolution.inputs[0]]
            ]


def _pool_first(graph: Graph) -> None:
    """Relu then max-pool is max-pool then relu, on a smaller map."""
    readers = graph.readers()
    for name, step in graph.steps.items():
        if not isinstance(step.operation, MaxPool) or step.form != "map":
            continue
        (source,) = step.inputs
        rectifier = graph.steps[source]
        if isinstance(rectifier.operation, Relu) and readers[source] == [name]:
            rectifier.operation, step.operation = step.operation, rectifier.operation
            rectifier.shape = step.shape
