"""Asking a method about many images: as many at once as fit into memory, and one by one where one of them is refused.

A batch that does not fit after all is asked in halves. A refusal (an operation without a rule, a map that is not
finite) is raised; with `tolerant`, the images that it concerns get the `Refusal` in the place of a map.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import method_named
from interp_cnn.explanation.network.logits import being_tried, checked_evaluation
from interp_cnn.explanation.network.precision import chosen_precision
from interp_cnn.explanation.network.refusals import Refusal, is_full_memory
from interp_cnn.hardware.memory import free_memory
from interp_cnn.storage.brief import Brief

SHARE_OF_MEMORY = 0.25
MOST_BYTES = 2 << 30  # on a CPU larger batches are no faster
KEPT = 4  # times what a forward pass writes: a backward pass, or a walk over every operation, keeps it all


@dataclass(frozen=True, repr=False)
class Maps(Brief):
    """What one method says about a batch of images.

    Attributes:
        maps: (B, H, W), colour channels added up.
        sums: (B,) what the maps sum to.
        expected: (B,) what they should sum to, None where the method promises nothing.
        seconds: for the whole batch.
        forward_passes: images sent through the network, or as much work, for the whole batch.
        notes: (B,) a sentence about each map, empty for none.
    """

    maps: Tensor
    sums: Tensor
    expected: Tensor | None
    seconds: float
    forward_passes: float
    notes: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class ImageMap(Brief):
    """One method's map of one image.

    Attributes:
        values: (H, W).
        sum: of the map, in the method's own way.
        expected: what it should be, None where the method promises nothing.
        seconds: this image's share of its batch.
        forward_passes: likewise.
        note: a sentence about the map, empty for none.
    """

    values: Tensor
    sum: float
    expected: float | None
    seconds: float
    forward_passes: float
    note: str = ""

    def _repr_png_(self) -> bytes:
        """The map alone, as a notebook shows it."""
        from interp_cnn.figures.notebook import map_png

        return map_png(self.values)


@chosen_precision()
def explain_images(name: str, network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> Maps:
    """The map of one method for every image.

    Args:
        name: of the method, see `methods.method_named`.
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W), all of one size.
        targets: (B,) classes.
        options: see `Options`.

    Raises:
        ValueError: a question that this method cannot answer for this network, said in one sentence.
    """
    method = method_named(name, options)
    with _counted(network) as passes:
        start = time.perf_counter()
        result = method.maps(network, images, targets, options)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        seconds = time.perf_counter() - start
    expected = None
    if method.total is not None:
        with checked_evaluation(network):
            expected = method.total(network, images, targets, options).cpu()
    count = sum(passes) if result.passes is None else result.passes
    notes = result.notes or ("",) * len(images)
    return Maps(result.maps.float().cpu(), result.sums.cpu(), expected, seconds, count, notes)


def estimated(name: str, network: nn.Module, image: Tensor, options: Options) -> tuple[float, float]:
    """About how many images an image's map sends through the network, and how many seconds that takes.

    Args:
        name: of the method.
        network: images (B, C, H, W) -> logits (B, K).
        image: (C, H, W), one like the others.
        options: see `Options`.
    """
    method, some = method_named(name, options), image.expand(4, -1, -1, -1).contiguous()
    if method.worth is None:
        passes = method.cost((image.shape[1], image.shape[2]), options)
    else:
        passes = method.worth(network, image[None], options)
    with checked_evaluation(network), torch.no_grad():
        network(some)
        start = time.perf_counter()
        network(some)
    return passes, passes * method.work * (time.perf_counter() - start) / len(some)


@contextmanager
def _counted(network: nn.Module) -> Iterator[list[int]]:
    """The sizes of the batches that pass the network meanwhile, those that only try it left out.

    Counted for all modules and sifted: a scripted network takes no hook of its own.
    """
    passes: list[int] = []
    count = register_module_forward_pre_hook(
        lambda module, given: (
            passes.append(len(given[0])) if module is network and not being_tried() else None
        )
    )
    try:
        yield passes
    finally:
        count.remove()


@overload
def asked(
    name: str,
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    options: Options,
    *,
    tolerant: Literal[False] = False,
) -> list[ImageMap]: ...
@overload
def asked(
    name: str, network: nn.Module, images: Tensor, targets: Tensor, options: Options, *, tolerant: bool
) -> list[ImageMap] | list[ImageMap | Refusal]: ...
def asked(
    name: str,
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    options: Options,
    *,
    tolerant: bool = False,
) -> list[ImageMap] | list[ImageMap | Refusal]:
    """One method's answer for every image.

    Args:
        name: of the method.
        network: images (B, C, H, W) -> logits (B, K).
        images: (B, C, H, W).
        targets: (B,) classes.
        options: see `Options`.
        tolerant: answer with the refusal where there is one, instead of raising it.

    Returns:
        B maps or refusals.

    Raises:
        Refusal: there is one, or an image does not fit into memory by itself.
    """
    try:
        maps = explain_images(name, network, images, targets, options)
    except (ValueError, RuntimeError, MemoryError) as error:
        full = is_full_memory(error)
        if not full and not isinstance(error, ValueError):
            raise
        if len(images) > 1 and (full or tolerant):
            half = len(images) // 2
            parts = (slice(0, half), slice(half, None))
            halves = [
                asked(name, network, images[part], targets[part], options, tolerant=tolerant)
                for part in parts
            ]
            return [*halves[0], *halves[1]]
        size = " x ".join(map(str, images.shape[2:]))
        sentence = f"an image of {size} pixels does not fit into memory" if full else str(error)
        if tolerant:
            return [Refusal(" ".join(sentence.split()))]
        raise Refusal(f"{name}: {sentence}") from error
    count = len(images)
    expected = [None] * count if maps.expected is None else maps.expected.tolist()
    rows = zip(maps.maps, maps.sums.tolist(), expected, maps.notes, strict=True)
    return [
        ImageMap(values, total, wanted, maps.seconds / count, maps.forward_passes / count, note)
        for values, total, wanted, note in rows
    ]


def fitting_batch(network: nn.Module, image: Tensor, *, most: int = 32) -> int:
    """How many images like this one (C, H, W) fit into memory at once, from what one forward pass writes.

    A power of two, so that a little more or less free memory gives the same.
    """
    written: list[int] = []

    def note(module: nn.Module, given: tuple, output: object) -> None:
        if isinstance(output, Tensor):
            written.append(output.numel() * output.element_size())

    modules = [module for module in network.modules() if not isinstance(module, torch.jit.ScriptModule)]
    leaves = [module for module in modules if not any(module.children())]
    handles = [module.register_forward_hook(note) for module in leaves]
    try:
        with checked_evaluation(network), torch.no_grad():
            network(image[None])
    finally:
        for handle in handles:
            handle.remove()
    needed = KEPT * max(sum(written), image.numel() * image.element_size())
    free = free_memory(image.device) * SHARE_OF_MEMORY
    if image.device.type != "cuda":
        free = min(free, MOST_BYTES)
    fitting = int(min(most, max(1, free // needed)))
    return 1 << (fitting.bit_length() - 1)
