"""A filter loss on CUDA, recorded once and replayed in every later step.

The loss of a layer is a hundred kernels on small tensors: launching them one by one takes the host longer than the
GPU needs for them. A step is therefore recorded as one CUDA graph: what the loss remembers, its value and its
gradient in closed form (`information_and_gradient`), so that nothing of it is left to autograd. The first steps of
a size run as they are; then one is recorded, compared with the same step as it is, and kept if it gives the same
numbers in less time. Otherwise, and where recording fails, steps go on as they are, and a line is logged.
"""

import logging
from collections.abc import Callable, Hashable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp_cnn.hardware.cuda_graphs import captured, synchronise, timed

log = logging.getLogger(__name__)

STEPS_BEFORE = 3  # of a size, before one is recorded
MOST = 2  # sizes that are kept: whole batches, and the last one of an epoch
Outcome = tuple[Tensor, Tensor]  # figures (F,), gradient of the maps
Step = Callable[[Tensor, Tensor, Tensor], Outcome]


class RecordedSteps:
    """Runs one step function on maps, labels and beta, replayed where it was recorded.

    Copies, also those of `pickle`, start without recordings.
    """

    def __init__(self) -> None:
        self.record = True
        self.kept: tuple[Tensor | None, ...] = ()  # what recordings read and others may let go
        self._seen: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, _Recording] = {}

    def __reduce__(self):
        return RecordedSteps, ()

    @torch.no_grad()
    def run(
        self,
        step: Step,
        maps: Tensor,
        labels: Tensor,
        beta: Tensor,
        *,
        memory: list[Tensor],
        options: Hashable,
    ) -> Outcome:
        """What `step(maps, labels, beta)` returns, in tensors of the caller's own.

        Args:
            step: pure but for `memory`; it waits for nothing.
            maps: feature maps.
            labels: of the images.
            beta: steepness; read where it lies.
            memory: tensors that the step changes in place.
            options: everything else on which the step depends.
        """
        places = tuple(tensor.data_ptr() for tensor in (beta, *memory))
        key = (maps.shape, maps.stride(), maps.dtype, labels.dtype, maps.device, places, options)
        recording = self._recordings.get(key)
        if recording is not None:
            return recording.replay(maps, labels)
        outcome = None
        if self.record and self._seen.get(key, 0) >= STEPS_BEFORE and len(self._recordings) < MOST:
            outcome = self._recorded(key, step, maps, labels, beta, memory)
        self._seen[key] = self._seen.get(key, 0) + 1
        return step(maps, labels, beta) if outcome is None else outcome

    def _recorded(self, key, step, maps, labels, beta, memory) -> Outcome | None:
        """The outcome of this step, run as it is; the recording is kept where it is right and faster."""
        before = [tensor.clone() for tensor in memory]
        eager, eager_time = timed(lambda: step(maps, labels, beta), maps.device)
        after = [tensor.clone() for tensor in memory]
        _put_back(memory, before)
        try:
            recording = _Recording(step, maps, labels, beta)
            recording.replay(maps, labels)
            _put_back(memory, before)
            replayed, replay_time = timed(lambda: recording.replay(maps, labels), maps.device)
            same = all(_equal(*pair) for pair in zip((*replayed, *memory), (*eager, *after), strict=True))
            if same and replay_time < eager_time:
                self._recordings[key] = recording
            else:
                self.record = False
                reason = "it is no faster" if same else "it gives other numbers"
                log.info("filter loss: steps are not replayed, because %s", reason)
        except RuntimeError as error:
            self.record = False
            synchronise(maps.device)
            log.info("filter loss: steps are not replayed, because %s", str(error).partition("\n")[0])
        _put_back(memory, after)
        return eager


class _Recording:
    """A CUDA graph of one step, with its inputs at fixed addresses."""

    def __init__(self, step: Step, maps: Tensor, labels: Tensor, beta: Tensor) -> None:
        self.maps, self.labels = maps.clone(), labels.clone()
        self.out, self.again = captured(lambda: step(self.maps, self.labels, beta), maps.device)
        self.beta = beta

    def replay(self, maps: Tensor, labels: Tensor) -> Outcome:
        self.maps.copy_(maps)
        self.labels.copy_(labels)
        self.again()
        figures, of_maps = self.out  # the next step writes there
        return figures.clone(), of_maps.clone()


class WithGradient(torch.autograd.Function):
    """A loss () whose gradient is known: `apply(maps, loss, maps_gradient)`."""

    @staticmethod
    def forward(ctx, maps: Tensor, loss: Tensor, of_maps: Tensor):
        ctx.save_for_backward(of_maps)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        (of_maps,) = ctx.saved_tensors
        return of_maps * gradient.to(of_maps.dtype), None, None


def _put_back(memory: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(memory, values, strict=True):
        tensor.copy_(value)


def _equal(tensor: Tensor, other: Tensor) -> bool:
    tensor, other = tensor.double(), other.double()
    return torch.allclose(tensor, other, rtol=1e-2, atol=1e-4 * float(other.abs().max()), equal_nan=True)
