"""Steps of a network, and the network evaluated from known values on, as it was written, for any number of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from interp_cnn.explanation.network.part_mask import PartMask
from interp_cnn.explanation.occlusion.incremental.layouts import cells_of
from interp_cnn.explanation.occlusion.incremental.operations import Operation, undecided_masks
from interp_cnn.explanation.occlusion.incremental.tracing import call, varying_inputs


@dataclass
class GraphStep:
    """One operation of the network on values that depend on the image."""

    name: str
    node: fx.Node
    inputs: tuple[str, ...]
    form: str
    shape: tuple[int, ...]
    operation: Operation | None = None  # None: no rule, runs densely

    @property
    def rule(self) -> Operation:
        """Its operation, of a step that has one."""
        assert self.operation is not None
        return self.operation

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the map; (1, 1) for a vector."""
        return (1, 1) if self.form == "other" else cells_of(self.form, self.shape)[:2]

    @property
    def channels(self) -> int:
        """Channels of a cell."""
        return self.shape[-1] if self.form == "other" else cells_of(self.form, self.shape)[2]


class Evaluation:
    """One dense evaluation of the graph; values are freed after their last reader."""

    def __init__(
        self,
        module: fx.GraphModule,
        steps: dict[str, GraphStep],
        dtype: torch.dtype,
        known: dict[str, Tensor],
        wanted: set[str],
        keep: bool,
        undecided: list[Tensor] | None = None,
    ) -> None:
        """Prepare.

        Args:
            module: the recorded network.
            steps: all steps, in order.
            dtype: the network's own number type.
            known: values by name, of one batch size.
            wanted: names to compute.
            keep: keep every value on the way.
            undecided: gets (N,) for every mask, which of the batch hang on rounding there.
        """
        self.module, self.steps, self.own, self.known = module, steps, dtype, known
        self.wanted, self.keep, self.undecided = wanted, keep, undecided
        first = next(iter(known.values()))
        self.batch, self.dtype = len(first), first.dtype
        self.constants: dict[fx.Node, Any] = {}

    def run(self) -> dict[str, Tensor]:
        needed, stack = [], list(self.wanted)
        seen = set(self.known)
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                needed.append(name)
                stack.extend(self.steps[name].inputs)
        order = [name for name in self.steps if name in set(needed)]
        last_reader = {name: reader for reader in order for name in self.steps[reader].inputs}
        values = dict(self.known)
        for name in order:
            values[name] = self._value(self.steps[name], values)
            if not self.keep:
                for used in set(self.steps[name].inputs):
                    if last_reader[used] == name and used not in self.wanted:
                        del values[used]
        return values

    def _value(self, step: GraphStep, values: dict[str, Tensor]) -> Tensor:
        mask = self._module_of(step)
        if self.undecided is not None and isinstance(mask, PartMask) and mask.enabled:
            self.undecided.append(undecided_masks(mask, values[step.inputs[0]]))
        if step.operation is not None:
            return step.operation.forward(*(values[name] for name in step.inputs))
        alias = dict(zip(varying_inputs(step.node), step.inputs, strict=True))
        # a step without a rule brings its own parameters: it works in the number type of the network

        def argument(node: fx.Node) -> Any:
            if node not in alias:
                return self._constant(node)
            value = values[alias[node]]
            if isinstance(value, Tensor) and value.is_floating_point():
                value = value.to(node.meta["value"].dtype)
            return value.clone() if step.node.meta["overwrites"] and isinstance(value, Tensor) else value

        result = call(self.module, step.node, argument)
        # what the network keeps in its own type goes on in the type of this evaluation
        own_type = isinstance(result, Tensor) and result.dtype == self.own
        return result.to(self.dtype) if own_type else result

    def _module_of(self, step: GraphStep) -> nn.Module | None:
        """The module that a step calls, with or without a rule."""
        return self.module.get_submodule(str(step.node.target)) if step.node.op == "call_module" else None

    def _constant(self, node: fx.Node) -> Any:
        """Parameters, and sizes of values (which depend on the batch size only)."""
        if node not in self.constants:
            if node.meta["varies"]:
                shape = (self.batch, *node.meta["value"].shape[1:])
                self.constants[node] = node.meta["value"].new_empty(1).expand(shape)
            else:
                self.constants[node] = call(self.module, node, self._constant)
        return self.constants[node]
