"""Writing a network down with `torch.fx`, and making the graph safe to compute on.

An operation that works in place changes every name of its memory: the variable it was called on, and whatever
`Identity`, `contiguous`, dropout in evaluation mode or a slice handed on of it. While the graph is recorded, the memory
of the values says who is meant: later readers of the same tensor read the result instead, and a network that reads
another view of overwritten memory is not written down at all. What works in place is seen by what it does (torch counts
the writes into a tensor), not by its name.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from interp_cnn.explanation.network.part_mask import is_part_mask


class Untraceable(Exception):
    """The network cannot be written down as a constant graph; the message says why."""


class _Proxy(fx.Proxy):
    """Remembers `x += y` as what it is; torch.fx's own would write `x = x + y`, which leaves other names of x alone."""

    def __iadd__(self, other):
        return self._in_place(operator.iadd, other)

    def __isub__(self, other):
        return self._in_place(operator.isub, other)

    def __imul__(self, other):
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other):
        return self._in_place(operator.itruediv, other)

    def __ipow__(self, other):
        return self._in_place(operator.ipow, other)

    def _in_place(self, function, other):
        return self.tracer.create_proxy("call_function", function, (self, other), {})


class Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return is_part_mask(module) or super().is_leaf_module(module, qualified_name)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside `DataParallel`, `DistributedDataParallel` and `torch.compile`, which compute the same."""
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = network.module
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def traced(network: nn.Module) -> fx.GraphModule:
    """The network as a graph.

    Raises:
        Untraceable: torch.fx cannot follow it, or it takes more than one input.
    """
    network = unwrapped(network)
    try:
        module = fx.GraphModule(network, Tracer().trace(network))
    except Exception as error:  # user code runs on proxies: anything may be raised
        raise Untraceable(f"torch.fx cannot trace it ({type(error).__name__}: {error})") from error
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    if len(placeholders) != 1 and any(not node.args for node in placeholders[1:]):
        raise Untraceable(f"it takes {len(placeholders)} inputs")
    return module


def record(module: fx.GraphModule, images: Tensor) -> None:
    """Run the graph once, as the network runs.

    Every node learns, in `meta`: `value`, as it was before anything overwrote it; `varies`, whether it depends on the
    images' pixels (parameters and sizes do not); `overwrites`, whether it writes into its inputs.

    Raises:
        Untraceable: it overwrites memory of which another view is read later.
    """
    position = {node: number for number, node in enumerate(module.graph.nodes)}
    memories: dict[int, list[fx.Node]] = {}  # who holds which memory, the values of `meta` being alive
    for node in module.graph.nodes:
        if node.op == "output":
            continue
        if node.op == "placeholder":
            first = position[node] == 0
            node.meta.update(
                value=images if first else (node.args[0] if node.args else None),
                varies=first,
                overwrites=False,
            )
        else:
            value, overwritten = _called(module, node)
            # sizes and types are constants, though they are read off the image
            varies = bool(varying_inputs(node)) and _holds_tensor(value)
            node.meta.update(value=value, varies=varies, overwrites=bool(overwritten))
            for source in overwritten:
                _take_the_place(node, source, memories, position)
        for tensor in _tensors(node.meta["value"]):
            memories.setdefault(_memory(tensor), []).append(node)


REFORMS = frozenset("squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_ resize_ resize_as_ set_".split())  # noqa: SIM905


def _called(module: fx.GraphModule, node: fx.Node) -> tuple[Any, list[fx.Node]]:
    """The value of a call, and the inputs into which it wrote; it was given copies of those."""
    if node.op == "call_method" and node.target in REFORMS:
        raise Untraceable(f"{node.target} changes the shape of a tensor in place")
    copied = may_overwrite(node, module)
    given: dict[fx.Node, Any] = {}
    for source in node.all_input_nodes:
        value = source.meta["value"]
        given[source] = value.clone() if copied and isinstance(value, Tensor) else value
    versions = {source: [_version(tensor) for tensor in _tensors(given[source])] for source in given}
    value = call(module, node, given.__getitem__)
    overwritten = [
        source
        for source in given
        if [_version(tensor) for tensor in _tensors(given[source])] != versions[source]
    ]
    if not overwritten:  # without the copies, so that what hands on its input is seen to
        return call(module, node, lambda source: source.meta["value"]) if copied else value, []
    (source, *others) = overwritten
    if others or not copied or not isinstance(value, Tensor) or not _same_cells(value, given[source]):
        raise Untraceable(f"{_words(node)} writes into its inputs in a way that is not understood")
    return value, overwritten


def _take_the_place(
    node: fx.Node, source: fx.Node, memories: dict[int, list[fx.Node]], position: dict[fx.Node, int]
) -> None:
    """Whoever reads the overwritten tensor later, by any of its names, reads the result of the overwriting."""
    now = position[node]
    written = source.meta["value"]
    for other in memories.get(_memory(written), [source]):
        if all(position[user] <= now for user in other.users):
            continue
        value = other.meta["value"]
        if not any(_share_cells(tensor, written) for tensor in _tensors(value)):
            continue
        if not isinstance(value, Tensor) or not _same_cells(value, written):
            raise Untraceable(f"{_words(node)} writes into memory of which another view is read later")
        if other.op == "get_attr":
            raise Untraceable(f"{_words(node)} overwrites the network's own {other.target}")
        other.replace_all_uses_with(node, lambda user: position[user] > now)


def may_overwrite(node: fx.Node, module: fx.GraphModule) -> bool:
    """True if the call may write into its inputs, judged by its name: it is then given copies."""
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return node.target.endswith("_") and not node.target.endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    flags = [*node.args[1:], node.kwargs.get("inplace", False)]
    return (
        name.endswith("_")
        or (name.startswith("i") and getattr(operator, name, None) is node.target)
        or any(flag is True for flag in flags)
        or node.kwargs.get("out") is not None
    )


def call(module: fx.GraphModule, node: fx.Node, argument) -> Any:
    """The value of a node, `argument` giving those of the nodes it reads."""
    arguments = map_arg(node.args, argument)
    keywords = map_arg(node.kwargs, argument)
    if node.op == "call_module":
        return module.get_submodule(str(node.target))(*arguments, **keywords)
    if node.op == "call_function":
        assert callable(node.target)
        return node.target(*arguments, **keywords)
    if node.op == "call_method":
        return getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
    return operator.attrgetter(str(node.target))(module)


def varying_inputs(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node that depend on the image."""
    return [source for source in node.all_input_nodes if source.meta["varies"]]


def constants(node: fx.Node) -> dict[fx.Node, Any]:
    """The values of the inputs that do not."""
    return {source: source.meta["value"] for source in node.all_input_nodes if not source.meta["varies"]}


def _holds_tensor(value: Any) -> bool:
    return bool(_tensors(value))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in _tensors(part)]
    return [value] if isinstance(value, Tensor) else []


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _same_cells(first: Tensor, second: Tensor) -> bool:
    """True if both name the same cells of their memory in the same order."""
    return bool(
        first.shape == second.shape
        and first.stride() == second.stride()
        and first.storage_offset() == second.storage_offset()
    )


def _share_cells(first: Tensor, second: Tensor) -> bool:
    """True if two tensors have cells of memory in common."""
    if _memory(first) != _memory(second):
        return False
    cells = [
        torch.zeros(first.untyped_storage().nbytes() // tensor.element_size(), dtype=torch.bool)
        for tensor in (first, second)
    ]
    for tensor, touched in zip((first, second), cells, strict=True):
        touched.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
    return len(cells[0]) != len(cells[1]) or bool((cells[0] & cells[1]).any())


def _words(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
