"""The operations one forward pass really ran, in order: what the rules of LRP and DeepLIFT walk back along.

A symbolic trace refuses Python control flow; hooks on modules miss functional operations and modules used twice.
So the network simply runs on the images, and every torch function that touches a value depending on them is noted
while it runs (`TorchFunctionMode`), with the module it was called from. In-place operations are run out of place
and the old tensor stands for the new value from then on, so that each step keeps its true inputs. A module that
answers as a `PartMask` is one step of its own.

A value is *frozen* when it depends on the images without a slope: an argmax, a comparison, a detached tensor.
Rules take it as a constant or refuse it. What cannot be followed at all (numbers read out of tensors, scripted
modules) is refused here; an unknown operation is refused by the rule that meets it, with its name and place.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp_cnn.explanation.network.logits import check_logits
from interp_cnn.explanation.network.operations import spelled
from interp_cnn.explanation.network.part_mask import is_part_mask

_SLOPELESS = {"detach", "data", "floor", "ceil", "round", "trunc", "sign", "heaviside"}
_SHAPE_ONLY = {f"{what}_like" for what in ("zeros", "ones", "full", "empty", "rand", "randn")} | {
    f"new_{what}" for what in ("zeros", "ones", "full", "empty", "tensor")
}
_SHAPED_LIKE = {
    "to",
    "type_as",
    "expand_as",
    "view_as",
    "reshape_as",
}  # a second tensor gives shape or type only
_READS_NUMBERS = {"item", "tolist", "numpy", "__array__", "__int__", "__index__", "__float__"}


class Value:
    """A tensor that depends on the images, and the step that made it (None: the images themselves).

    The step is the tape's, and not held here: no circle keeps the tensors of a network alive when nobody needs them.
    """

    def __init__(self, tensor: Tensor, step: "Step | None", frozen: bool = False, uses: int = 0) -> None:
        self.tensor, self.frozen, self.uses = tensor, frozen, uses
        self._step = None if step is None else weakref.ref(step)

    @property
    def step(self) -> "Step | None":
        """What made it, as long as the tape is there."""
        return None if self._step is None else self._step()


@dataclass(eq=False)
class Step:
    """One operation: its kind (`conv2d`, `add`), the function, its arguments with Values in place of tensors."""

    kind: str
    function: Callable
    args: tuple
    kwargs: dict
    layer: str
    module: nn.Module | None
    outputs: list[Value] = field(default_factory=list)

    @property
    def output(self) -> Value:
        return self.outputs[0]

    @property
    def occurrences(self) -> list[Value]:
        """The values that relevance can go to, in order of appearance, as often as they appear."""
        return [value for value in _values((self.args, self.kwargs)) if not value.frozen]

    @property
    def inputs(self) -> list[Value]:
        """The values that relevance can go to, each once."""
        return list(dict.fromkeys(self.occurrences))

    @property
    def frozen_inputs(self) -> list[Value]:
        """The values without a slope."""
        return [value for value in _values((self.args, self.kwargs)) if value.frozen]

    @property
    def where(self) -> str:
        return f"{self.kind} in {_place(self.layer, self.module)}"

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def run(self, replaced: Mapping[Value, Tensor]) -> Tensor | tuple[Tensor, ...]:
        """The operation once more, with other tensors in the place of some values."""

        def tensor(value: Value) -> Tensor:
            return replaced.get(value, value.tensor)

        return self.function(*_mapped(self.args, tensor), **_mapped(self.kwargs, tensor))


@dataclass(eq=False)
class Tape:
    """Steps in the order they ran, from `images` to `logits`."""

    images: Value
    logits: Value
    steps: list[Step]


def check_plain(network: nn.Module) -> None:
    """Refuse networks whose operations nobody sees: scripted, traced and exported modules.

    Raises:
        ValueError: naming the module.
    """
    for name, module in network.named_modules():
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted or (isinstance(module, torch.fx.GraphModule) and _is_exported(module)):
            what = f"module {name!r}" if name else "network"
            how = "scripted or traced (TorchScript)" if scripted else "exported (torch.export)"
            raise ValueError(f"{what} is {how}; expected plain modules, whose operations can be followed")


def _is_exported(module: torch.fx.GraphModule) -> bool:
    try:
        module.train(module.training)
    except NotImplementedError:
        return True
    return False


@torch.no_grad()
def record(network: nn.Module, images: Tensor) -> Tape:
    """Run the network (already in evaluation mode) on images (B, C, H, W) and note every operation."""
    recorder = _Recorder(images)
    handles = [handle for name, module in network.named_modules() for handle in recorder.follow(name, module)]
    try:
        with recorder:
            logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    check_logits(logits, len(images))
    value = recorder.values.get(id(logits))
    if value is None or value.frozen:
        raise ValueError(
            "network's logits do not depend on the images through operations that can be followed"
        )
    value.uses += 1
    return Tape(recorder.images, value, recorder.steps)


class _Recorder(TorchFunctionMode):
    """Notes the steps while the network runs."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = Value(images, None)
        self.values: dict[int, Value] = {id(images): self.images}
        self.stale: dict[
            int, Tensor
        ] = {}  # storages that an in-place operation would have changed, kept alive
        self.steps: list[Step] = []
        self.modules: list[tuple[str, nn.Module | None]] = [("", None)]
        self.paused = False

    def follow(self, name: str, module: nn.Module) -> list:
        """Hooks that note where in the network we are; a template mask becomes one step."""
        mask = is_part_mask(module) and module.enabled
        given: list[tuple] = []

        def enter(module: nn.Module, args: tuple) -> tuple | None:
            self.modules.append((name, module))
            if not mask:
                return None
            given.append(_mapped(args, tensor=self._value))
            self.paused = True
            return _mapped(given[-1], lambda value: value.tensor)

        def leave(module: nn.Module, args: tuple, output: object) -> None:
            if mask:
                self.paused = False
                if isinstance(output, Tensor):
                    self._note("template_mask", module, given.pop(), {}, output)
            self.modules.pop()

        return [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, always_call=True),
        ]

    def __torch_function__(self, function, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return function(*args, **kwargs)
        name = _name_of(function)
        if name == "__iter__":  # for row in x
            return iter(self.__torch_function__(torch.unbind, types, args, kwargs))
        args, kwargs = _mapped((args, kwargs), tensor=self._value)
        if name in _SHAPED_LIKE:
            model = _mapped((args[1:], kwargs), lambda value: value.tensor)
            args, kwargs = (*args[:1], *model[0]), model[1]
        inputs = _values((args, kwargs))
        if not inputs:
            return function(*args, **kwargs)
        changed = self._changed_in_place(name, args, kwargs)
        if changed is not None:
            function = _out_of_place(function, name)
            kwargs = kwargs | ({"inplace": False} if "inplace" in kwargs else {})
        tensors, options = _mapped((args, kwargs), lambda value: value.tensor)
        output = _plainly(function, tensors, options)
        results = _tensors(output)
        if not results:
            self._check_harmless(name, output)
        if not results or name in _SHAPE_ONLY or any(results[0] is value.tensor for value in inputs):
            return output  # a size or a type; a new tensor of the same shape; the very same value
        for value in inputs:
            value.uses += 1
        self._note(spelled(name), function, args, kwargs, output)
        if changed is not None:
            self.stale[changed.tensor.untyped_storage().data_ptr()] = changed.tensor
            for old in [old for old, value in self.values.items() if value is changed]:
                self.values[old] = self.steps[-1].output
        return output

    def _note(self, kind: str, function: Callable, args: tuple, kwargs: dict, output: object) -> None:
        if kind in ("max", "min") and isinstance([*args, *kwargs.values(), None][1], Value | Tensor):
            kind += "imum"  # of two tensors, not of one
        if kwargs.get("rounding_mode") is not None:
            kind = "floor"
        step = Step(kind, function, args, kwargs, *self.modules[-1])
        slope = kind not in _SLOPELESS and bool(step.inputs)
        for tensor in _tensors(output):
            value = Value(
                tensor, step, frozen=not (slope and (tensor.is_floating_point() or tensor.is_complex()))
            )
            step.outputs.append(value)
            self.values[id(tensor)] = value
        self.steps.append(step)

    def _value(self, tensor: Tensor) -> Tensor | Value:
        value = self.values.get(id(tensor))
        if value is None:
            return tensor
        if value.tensor.untyped_storage().data_ptr() in self.stale:
            raise ValueError(
                f"network reads a tensor changed in place through a view, again, in {self.place}"
            )
        return value

    @property
    def place(self) -> str:
        return _place(*self.modules[-1])

    def _changed_in_place(self, name: str, args: tuple, kwargs: dict) -> Value | None:
        """The value this operation would overwrite, if any."""
        if name in ("__setitem__", "copy_", "requires_grad_") or kwargs.get("out") is not None:
            raise ValueError(
                f"network writes into a tensor ({name}) in {self.place}: this cannot be followed"
            )
        method = name.endswith("_") and not name.endswith("__")
        operator = name.startswith("__i") and name not in ("__int__", "__index__", "__invert__")
        if not (method or operator or kwargs.get("inplace", False)):
            return None
        target = args[0] if args else kwargs.get("input")
        if not isinstance(target, Value):
            raise ValueError(
                f"network writes into a constant ({name}) in {self.place}: this cannot be followed"
            )
        return target

    def _check_harmless(self, name: str, output: object) -> None:
        """A number read out of a tensor is no longer followed; sizes, types and comparisons are harmless."""
        if isinstance(output, float) or name in _READS_NUMBERS:
            raise ValueError(
                f"network reads numbers out of a tensor ({name}) in {self.place}: cannot be followed"
            )


def _plainly(function: Callable, args: tuple, kwargs: dict) -> object:
    """The function's result whatever mode the network's forward has entered: no inference tensors, no autocast."""
    device = next((tensor.device.type for tensor in _tensors(args)), "cpu")
    if not (torch.is_inference_mode_enabled() or torch.is_autocast_enabled(device)):
        return function(*args, **kwargs)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
        return function(*args, **kwargs)


def _place(layer: str, module: nn.Module | None) -> str:
    return f"layer {layer!r} ({type(module).__name__})" if layer else "the network's forward"


def _tensors(output: object) -> list[Tensor]:
    outputs = output if isinstance(output, tuple | list) else [output]
    return [item for item in outputs if isinstance(item, Tensor)]


def _mapped(
    nest: Any, value: Callable = lambda value: value, tensor: Callable = lambda tensor: tensor
) -> Any:
    """The nest of tuples, lists and dicts with its Values and its tensors replaced."""
    if isinstance(nest, Value):
        return value(nest)
    if isinstance(nest, Tensor):
        return tensor(nest)
    if isinstance(nest, list | tuple):
        mapped = [_mapped(item, value, tensor) for item in nest]
        return mapped if isinstance(nest, list) else tuple(mapped)
    if isinstance(nest, dict):
        return {key: _mapped(item, value, tensor) for key, item in nest.items()}
    return nest


def _values(nest) -> list[Value]:
    values: list[Value] = []
    _mapped(nest, values.append)
    return values


def _name_of(function: Callable) -> str:
    """`conv2d`, `__iadd__`, `relu_`; for an attribute such as `x.T` its name."""
    name = getattr(function, "__name__", str(function))
    return function.__self__.__name__ if name == "__get__" else name


def _out_of_place(function: Callable, name: str) -> Callable:
    """The function that returns what this in-place one (called `name`) would write."""
    if name.startswith("__i"):
        return getattr(Tensor, "__" + name[3:])
    if not name.endswith("_"):
        return function  # its `inplace` option is switched off instead
    base = name.rstrip("_")
    return next(getattr(room, base) for room in (Tensor, F, torch) if hasattr(room, base))
