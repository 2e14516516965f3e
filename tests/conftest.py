"""What several test files share."""

import os
from pathlib import Path

import pytest

# Before torch is imported: test processes that share the cores get in each other's way with more threads than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from interp_cnn.data.digits import DigitsParts

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser) -> None:
    parser.addoption("--fuzz", type=int, default=20, help="damaged files of each kind in test_fuzz.py")


def pytest_runtest_setup(item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with real image sets; tests that need it are skipped where it is absent."""
    given = os.environ.get("INTERP_CNN_DATA")
    root = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no image data at {root}; INTERP_CNN_DATA names their folder")
    return root


@pytest.fixture(scope="session")
def digits() -> DigitsParts:
    """The validation digits in their fixed views: small, real, always there."""
    return DigitsParts("val")
