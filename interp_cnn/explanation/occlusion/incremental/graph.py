"""From a network to a list of steps whose delta rules are known.

`torch.fx` writes the network down as a graph (`tracing`), so functional operations and modules used
twice are seen as what they are. Then
- every call gets its delta rule, if one knows it (`rules`);
- batch norm (evaluation mode) and other per-channel scales that follow a convolution are folded into it;
- max-pool moves before relu (they commute), so that relu sees the smaller map;
- what no rule knows keeps its original call: it, and all that reads it, runs densely.

A step's `form` says which axes its value has (`layouts`): "map" (N, C, H, W), "last" (N, H, W, C), "vector" (N, F),
axes spelled out, or "other".
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from interp_cnn.explanation.occlusion.incremental.calls import Call
from interp_cnn.explanation.occlusion.incremental.evaluation import Evaluation, GraphStep
from interp_cnn.explanation.occlusion.incremental.operations import (
    Affine,
    Chain,
    Convolution,
    Linear,
    Relu,
)
from interp_cnn.explanation.occlusion.incremental.pooling import MaxPool
from interp_cnn.explanation.occlusion.incremental.rearranging import PARTS
from interp_cnn.explanation.occlusion.incremental.rules import operation_of
from interp_cnn.explanation.occlusion.incremental.tracing import (
    Untraceable,
    constants,
    record,
    traced,
    varying_inputs,
)

VERY_DEEP = 30  # convolutions beyond which only the smallest tiles keep a drop exact to 1e-5
DEEP = 8  # layers from which rounding counts: exact clean maps, small tiles


@dataclass
class Graph:
    """Steps in order; the first is the image, `output` names the logits."""

    module: fx.GraphModule
    steps: dict[str, GraphStep]
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

    def dense(
        self,
        known: dict[str, Tensor],
        wanted: list[str],
        keep: bool = False,
        undecided: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Evaluate the network from the known values on, as it was written.

        Args:
            known: values by name, of one batch size; the rest is computed from them as needed.
            wanted: names to compute.
            keep: keep every value on the way, not only the wanted ones.
            undecided: see `Evaluation`.
        """
        wished = set(wanted)
        return Evaluation(self.module, self.steps, self.dtype, known, wished, keep, undecided).run()


def graph_of(network: nn.Module, images: Tensor, careful: bool = False) -> Graph:
    """Write the network down as steps.

    Args:
        network: in evaluation mode.
        images: (B, C, H, W), of the size the steps are for.
        careful: see `incremental_rules.operation_of`.

    Raises:
        Untraceable: with the reason.
    """
    with torch.inference_mode(False), torch.no_grad():
        module = traced(network)
        record(module, images.clone())
        steps = {}
        for node in module.graph.nodes:
            if node.op != "output" and node.meta["varies"]:
                steps |= {step.name: step for step in _steps_of(_step(module, node, steps, careful))}
    (result,) = next(node for node in module.graph.nodes if node.op == "output").args
    if not isinstance(result, fx.Node) or not isinstance(result.meta["value"], Tensor):
        raise Untraceable("it does not return one tensor")
    if not result.meta["varies"]:
        raise Untraceable("its logits do not depend on the image")
    steps = _read(steps, result.name)
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


def _step(module: fx.GraphModule, node: fx.Node, steps: dict[str, GraphStep], careful: bool) -> GraphStep:
    """The step of a node, with its operation if a rule knows it."""
    value, sources = node.meta["value"], varying_inputs(node)
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    step = GraphStep(node.name, node, tuple(source.name for source in sources), "other", shape)
    step.form = _form(step, steps)
    if not sources or not isinstance(value, Tensor):
        return step
    given = Call.of(module, node, [s.meta["value"] for s in sources], [], constants(node))
    inputs = step.inputs
    if given.name == "getitem" and len(sources) == 1 and not isinstance(sources[0].meta["value"], Tensor):
        whole = varying_inputs(sources[0])  # a part of what chunk or split gives is a part of their input
        before = Call.of(module, sources[0], [s.meta["value"] for s in whole], [], constants(sources[0]))
        if len(whole) != 1 or before.name not in PARTS:
            return step
        given.parts_of, given.sources, inputs = before, before.sources, steps[sources[0].name].inputs
    given.forms = [steps[name].form for name in inputs]
    if "other" not in given.forms:
        step.operation = operation_of(given, careful)
    if step.operation is not None:
        step.inputs = inputs
        step.form = step.operation.form or step.form
        if step.form == "other":
            step.operation = None
    return step


def _steps_of(step: GraphStep) -> list[GraphStep]:
    """Two steps for two operations in one call."""
    chain = step.operation
    if not isinstance(chain, Chain):
        return [step]
    first = GraphStep(f"{step.name}:before", step.node, step.inputs, "map", chain.between, chain.first)
    step.operation, step.inputs = chain.second, (first.name,)
    return [first, step]


def _read(steps: dict[str, GraphStep], output: str) -> dict[str, GraphStep]:
    """The steps that the output depends on, in order, and the image."""
    needed, stack = {next(iter(steps))}, [output]
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack.extend(steps[name].inputs)
    return {name: step for name, step in steps.items() if name in needed}


def _form(step: GraphStep, steps: dict[str, GraphStep]) -> str:
    """Which axes the value has; a permutation is recognised by its call, everything else keeps its input's form."""
    if not isinstance(step.node.meta["value"], Tensor):
        return "other"
    if not step.inputs:
        return "map" if len(step.shape) == 4 else "other"
    alike = {steps[name].form for name in step.inputs if steps[name].shape == step.shape}
    if len(step.shape) not in (2, 4):  # as spelled out by a rule, and kept by what does not change the shape
        return next(iter(alike)) if len(alike) == 1 else "other"
    if len(step.shape) == 2:
        return "vector"
    forms = {steps[name].form for name in step.inputs if len(steps[name].shape) == 4}
    if len(forms) != 1:
        return "other"
    (form,) = forms
    order = Call.permutation(step.node)
    if order is None:
        return form
    if (form, order) == ("map", (0, 2, 3, 1)):
        return "last"
    return "map" if (form, order) == ("last", (0, 3, 1, 2)) else "other"


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
