"""What is needed to repeat a run: command, versions, commit, machine."""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from pytorch_lightning.utilities import rank_zero_only

from interp_cnn.storage.versions import version_of


def leave_to_the_first() -> None:
    """Ends all processes of a training but the first: what comes after it is work for one."""
    if rank_zero_only.rank != 0:
        sys.exit(0)


def provenance() -> dict:
    """What is needed to repeat a run: command, versions, commit, machine."""
    packages = ("interp-cnn", "torch", "torchvision", "pytorch-lightning", "numpy", "scikit-learn")
    return {
        "command": shlex.join(["interp-cnn", *sys.argv[1:]]),  # runs when it is pasted into a shell
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in packages}},
        "git_commit": _git_commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
    }


def _git_commit() -> str | None:
    try:
        here = Path(__file__).parent
        git = subprocess.run(
            ["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return git.stdout.strip()
