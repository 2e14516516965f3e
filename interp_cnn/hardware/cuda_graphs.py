"""Work on a GPU that is recorded once as a CUDA graph and replayed: launching many small kernels takes the host longer
than the GPU needs for them.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Outcome = TypeVar("Outcome")


def replays_on(device: torch.device) -> bool:
    """Whether work can be recorded there."""
    return device.type == "cuda"


def captured(run: Callable[[], Outcome], device: torch.device) -> tuple[Outcome, Callable[[], Any]]:
    """What the run will have written once the returned function is called; nothing is computed here."""
    graph = torch.cuda.CUDAGraph()
    # other threads may go on using the device, such as one that loads data or pins batches
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = run()
    return out, graph.replay


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Outcome], device: torch.device) -> tuple[Outcome, float]:
    """What the run returns, and its seconds by the clock."""
    synchronise(device)
    begun = time.perf_counter()
    outcome = run()
    synchronise(device)
    return outcome, time.perf_counter() - begun
