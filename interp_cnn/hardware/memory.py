"""How much memory and how many cores this process may use; containers get a share of their machine."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

log = logging.getLogger(__name__)
UNKNOWN = 4 << 30  # bytes, where nobody says
# limit, use and statistics of a container, in the two versions of Linux' control groups
GROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_memory(device: torch.device | None = None) -> int:
    """Bytes that can still be taken on a device, by default of main memory; 4 GiB where nobody says."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_free_of_machine(), *(_free_of_group(*files) for files in GROUPS)]
    return min((value for value in free if value is not None), default=UNKNOWN)


def cores() -> int:
    """Processor cores that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def at_most_the_cores(workers: int) -> int:
    """A number of worker processes; more than there are cores only fill the memory."""
    most = cores()
    if workers > most:
        log.warning(
            "data.workers=%d: this process has %d cores; %d workers are taken", workers, cores(), most
        )
    return min(workers, most)


def check_memory(needed: int, what: str) -> None:
    """Refuse what no memory holds before anything else is done.

    Raises:
        ValueError: `what` takes more bytes than are free.
    """
    free = free_memory()
    if needed > free:
        raise ValueError(
            f"{what} take {in_words(needed)}, {in_words(free)} are free; expected fewer images, pixels or workers"
        )


def in_words(size: float) -> str:
    """A number of bytes for people.

    Example:
        >>> in_words(1_500_000), in_words(40 * 2**30)
        ('1 MiB', '40.0 GiB')
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(1, int(size / 2**20))} MiB"


def _free_of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _free_of_group(limit: str, use: str) -> int | None:
    """What is left to the container; files that the system remembers for it make room when it needs some."""
    top = Path("/sys/fs/cgroup")
    try:
        most, used = (int((top / name).read_text("ascii")) for name in (limit, use))
        lines = (top / limit).with_name("memory.stat").read_text("ascii").splitlines()
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None
    remembered = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return max(0, most - used + remembered)
