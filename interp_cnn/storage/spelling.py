"""Did you mean: the valid names most like a wrong one."""

from collections.abc import Sequence
from difflib import SequenceMatcher


def nearest(name: str, names: Sequence[str]) -> str:
    """'did you mean A or B?' for the names most like `name`, or an empty string."""
    likeness = {other: SequenceMatcher(None, name, other).ratio() for other in names}
    same_end = [other for other in names if other.rpartition(".")[2] == name.rpartition(".")[2]]
    best = max(likeness.values(), default=0.0)
    close = [other for other in names if likeness[other] >= max(0.6, best - 0.1)]
    alike = sorted(close, key=lambda other: likeness[other])
    near = list(dict.fromkeys([*same_end, *reversed(alike)]))[:3]
    return f"did you mean {' or '.join(near)}?" if near else ""
