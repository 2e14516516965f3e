"""The head behind a layer: what turns the layer's maps into logits, as a network of its own.

A network runs once on its images while its operations are noted (`tape`). The steps that depend on the layer's output
are its head, and run again on other maps without the layers below: whole images need not pass to find out what the
network says when filters are silent. What reaches the head on another way than through the layer (a residual branch
that starts below it) stays as it was for the image.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property

import torch
from torch import Tensor, nn

from interp_cnn.explanation.gradients.grad_cam import layers_with_maps
from interp_cnn.explanation.network.feature_maps import named_layer
from interp_cnn.explanation.network.layers import layer_name
from interp_cnn.explanation.network.operations import AVERAGES, MOVES, WEIGHTED
from interp_cnn.explanation.network.part_mask import is_part_mask
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.explanation.propagation.tape import Step, Tape, Value, record

_AFFINE = MOVES | AVERAGES | WEIGHTED | {"batch_norm", "add", "sub", "rsub", "neg", "fold", "positive"}
_AFFINE_IN_ONE = {"mul", "div", "matmul", "mm", "bmm", "einsum", "tensordot", "mv"}


def chosen_layer(network: nn.Module, images: Tensor, layer: str | nn.Module | None) -> str:
    """The layer's dotted name; by default the last layer that masks around parts, else the last feature maps.

    Maps that only need adding up to be logits are the classes' own and no filters: the layer before is taken.

    Args:
        network: in evaluation mode.
        images: (B, C, H, W), one of which is tried.
        layer: its name, the module, or None.
    """
    if layer is not None:
        name = layer_name(network, layer)
        named_layer(network, name)
        return name
    masks = [name for name, module in network.named_modules() if is_part_mask(module)]
    if masks:
        return _as_a_whole(network, images[:1], masks[-1])
    names = layers_with_maps(network, images[:1])
    for name in names:
        with suppress(Refusal):
            if any(step.kind in WEIGHTED for step in Head(network, images[:1], name).steps):
                return name
    return names[0]


def _as_a_whole(network: nn.Module, images: Tensor, mask: str) -> str:
    """A mask's name, or that of the layer that it is the end of."""
    around = mask.rpartition(".")[0]
    if not around:
        return mask
    outputs: dict[str, object] = {}
    handles = [
        named_layer(network, name).register_forward_hook(
            lambda *call, name=name: outputs.update({name: call[-1]})
        )
        for name in (mask, around)
    ]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return around if around in outputs and outputs[around] is outputs.get(mask) else mask


class Head(nn.Module):
    """The part of a network behind a layer, for the images it was recorded on.

    Called with maps (N, D, h, w), it returns logits (N, K). With one image any N will do, each of them that image with
    other maps; with several images N must be their number.

    Args:
        network: images (B, C, H, W) -> logits (B, K), in evaluation mode.
        images: (B, C, H, W).
        layer: dotted name of the layer.

    Raises:
        Refusal: the layer's output is no map, or the logits do not depend on it.
    """

    def __init__(self, network: nn.Module, images: Tensor, layer: str) -> None:
        super().__init__()
        seen: list[object] = []
        handle = named_layer(network, layer).register_forward_hook(lambda *call: seen.append(call[-1]))
        try:
            self.tape: Tape = record(network, images)
        finally:
            handle.remove()
        self.layer, self.value = layer, _value_of(self.tape, seen[-1] if seen else None, layer)
        self.steps, self.outside = _behind(self.tape, self.value)
        self.masks = nn.ModuleList(
            step.module for step in self.steps if step.kind == "template_mask" and step.module is not None
        )
        self.eval()

    @property
    def maps(self) -> Tensor:
        """The layer's output on the images, (B, D, h, w)."""
        return self.value.tensor

    @property
    def logits(self) -> Tensor:
        """(B, K) of the images as they are."""
        return self.tape.logits.tensor

    @property
    def bypassed(self) -> bool:
        """Whether something of the images reaches the logits without passing the layer."""
        return bool(self.outside)

    @cached_property
    def bend(self) -> str | None:
        """The first step that is not linear, with its place; None where sums and constant factors are all there is."""
        for step in self.steps:
            one_input = len([value for value in step.inputs if value in self._reached]) == 1
            constant = step.kind in _AFFINE_IN_ONE and len(step.occurrences) == 1
            divided_by = step.kind == "div" and isinstance(step.argument(1, "other"), Value)
            if not (step.kind in _AFFINE or (one_input and constant and not divided_by)):
                return step.where
            if any(value in self._reached for value in step.frozen_inputs):
                return step.where
        return None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, D, h, w) to logits (N, K)."""
        if len(self.maps) != 1 or len(maps) == 1:
            return self._replayed(maps)
        if self._one_by_one:
            return torch.cat([self._replayed(single) for single in maps.split(1)])
        return self._replayed(maps)

    @cached_property
    def _reached(self) -> set[Value]:
        return {self.value, *(value for step in self.steps for value in step.outputs)}

    @cached_property
    def _one_by_one(self) -> bool:
        """Whether the head knows how many images it was recorded with (`x.view(1, -1)`)."""
        with torch.no_grad():
            pair = torch.cat([self.maps / 2, self.maps])
            try:
                together = self._replayed(pair)
            except RuntimeError:
                return True
            alone = torch.cat([self._replayed(single) for single in pair.split(1)])
        scale = alone.abs().max()
        return together.shape != alone.shape or bool((together - alone).abs().max() > 1e-4 * scale)

    def _replayed(self, maps: Tensor) -> Tensor:
        tensors = {self.value: maps}
        if len(maps) != len(self.maps):
            for value in self.outside:
                if value.tensor.dim() and len(value.tensor) == 1:
                    tensors[value] = value.tensor.expand(len(maps), *value.tensor.shape[1:])
        for step in self.steps:
            output = step.run(tensors)
            outputs = output if isinstance(output, tuple | list) else [output]
            tensors |= dict(zip(step.outputs, outputs, strict=True))
        return tensors[self.tape.logits]


def _value_of(tape: Tape, output: object, layer: str) -> Value:
    """The value on the tape that is a layer's output."""
    if not isinstance(output, Tensor) or output.dim() != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else "no tensor"
        raise Refusal(f"layer {layer!r} gives {shape}; expected feature maps (B, D, h, w)")
    for step in reversed(tape.steps):
        for value in step.outputs:
            if value.tensor is output and not value.frozen:
                return value
    raise Refusal(f"layer {layer!r}: its output is not among the operations that make the logits")


def _behind(tape: Tape, value: Value) -> tuple[list[Step], list[Value]]:
    """The steps that depend on a value, and what else of the images they take."""
    reached, steps, outside = {value}, [], {}
    for step in tape.steps:
        inputs = [*step.inputs, *step.frozen_inputs]
        if any(source in reached for source in inputs):
            steps.append(step)
            reached.update(step.outputs)
            outside |= dict.fromkeys(source for source in inputs if source not in reached)
    if tape.logits not in reached:
        raise Refusal("the logits do not depend on the layer")
    needed: set[Value] = {tape.logits}  # steps whose results nobody uses are left out
    kept = []
    for step in reversed(steps):
        if any(output in needed for output in step.outputs):
            kept.append(step)
            needed.update([*step.inputs, *step.frozen_inputs])
    return kept[::-1], [source for source in outside if source in needed]
