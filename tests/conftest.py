"""What several test files share."""

import os
import signal
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Before torch is imported: test processes that share the cores get in each other's way with more threads than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and stops with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Many processes import torch; where no bytecode may lie beside the sources, each would spend seconds compiling them.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(REPOSITORY / ".pytest_cache" / "bytecode"))
    sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["PYTHONPYCACHEPREFIX"]

from interp_cnn.data.digits import DigitsParts  # noqa: E402
from interp_cnn.data.strokes import CanvasSet  # noqa: E402


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


@pytest.fixture(scope="session", autouse=True)
def moments_once():
    """The mean and standard deviation of a set of digits take 512 views: once for each set and test process."""
    seen: dict[str, tuple] = {}
    compute = CanvasSet._moments.func

    def moments(images: CanvasSet) -> tuple:
        settings = {name: value for name, value in vars(images).items() if name not in ("scans", "labels")}
        key = repr((sorted(settings.items(), key=lambda item: item[0]), images.contents()))
        if key not in seen:
            seen[key] = compute(images)
        return seen[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CanvasSet, "_moments", property(moments), raising=False)
        yield


@pytest.fixture(scope="session")
def digits() -> DigitsParts:
    """The validation digits in their fixed views: small, real, always there."""
    return DigitsParts("val")
