"""Where a network computes, and how much memory is left there."""

import torch
from torch import Tensor, nn

UNKNOWN = 4 * 2**30  # bytes, where nobody says


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters lie; the processor, where it has none.

    Example:
        >>> device_of(nn.Linear(2, 3)), device_of(nn.ReLU())
        (device(type='cpu'), device(type='cpu'))
    """
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def beside(network: nn.Module, images: Tensor) -> Tensor:
    """The images where the network's parameters lie; where they are, if it has none."""
    return images.to(next(network.parameters(), images).device)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device; 4 GiB where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return UNKNOWN
