"""The verdict: what the numbers say about the first network beside the second, in sentences made from them.

One sentence each on accuracy, location instability and tracking gain, for the measures that are there. A
difference counts when its p-value is below 0.05 or, without one, when its interval leaves out zero; without
either the sentence says that it was not tested. A fixed spot in the image scores well on location
instability whatever the network, so the second sentence always names the best of those baselines.
"""

from __future__ import annotations

from typing import Any

from interp_cnn.report.comparison.contents import Contents, Network
from interp_cnn.report.measures import measure
from interp_cnn.report.numbers import is_known, p_of, p_value, value_of

LEVEL = 0.05
FIXED_SPOTS = ("centre", "constant_centre", "best_constant")


def verdict(contents: Contents) -> list[str]:
    """Up to three sentences; with one network they describe it alone."""
    sentences = (_accuracy(contents), _instability(contents), _gain(contents))
    return [sentence for sentence in sentences if sentence]


def significance(difference: Any) -> bool | None:
    """Whether a difference is more than chance; None where nothing tells."""
    if is_known(p_of(difference)):
        return p_of(difference) < LEVEL
    low, high = getattr(difference, "low", None), getattr(difference, "high", None)
    return (low > 0 or high < 0) if is_known(low) and is_known(high) else None


def _accuracy(contents: Contents) -> str:
    first, second = _pair(contents, "accuracy")
    if first is None:
        return ""
    accuracy = measure("accuracy")
    estimate = first.summary["accuracy"]
    count = value_of(getattr(estimate, "n", None))
    images = f"{count:,.0f} validation images" if is_known(count) and count else "the validation images"
    start = f"The {first.name} network classifies {accuracy.write(value_of(estimate))} of {images} correctly"
    if second is None:
        interval = accuracy.write_interval(estimate)
        return f"{start} (95 % interval {interval})." if interval else f"{start}."
    theirs = f"the {second.name} one {accuracy.write(value_of(second.summary['accuracy']))}"
    gap = _gap(contents, "accuracy", first, second)
    if abs(gap) < 0.0005:
        return f"{start}, {theirs}: no difference."
    size = f"{abs(100 * gap):.1f} points {'more' if gap > 0 else 'fewer'}"
    return f"{start}, {theirs}: {size}, {_chance(contents, 'accuracy')}."


def _instability(contents: Contents) -> str:
    name = "location_instability"
    first, second = _pair(contents, name)
    if first is None:
        return ""
    write = measure(name).write
    first_value = value_of(first.summary[name])
    start = (
        f"Location instability, where lower is better, is {write(first_value)} for the {first.name} network"
    )
    if second is not None:
        second_value = value_of(second.summary[name])
        gap = _gap(contents, name, first, second)
        size = f"{100 * abs(gap) / second_value:.0f}\u00a0%" if second_value > 0 else write(abs(gap))
        change = f"{size} {'lower' if gap < 0 else 'higher'}, {_chance(contents, name)}"
        start += f" and {write(second_value)} for the {second.name} one"
        start += ", the same" if write(first_value) == write(second_value) else f": {change}"
    spot = _best_fixed_spot(contents, [network for network in (first, second) if network])
    return f"{start}; {spot}." if spot else f"{start}."


def _best_fixed_spot(contents: Contents, networks: list[Network]) -> str:
    """What the best fixed spot scores, and which networks beat it; nothing where it was not measured."""
    name = "location_instability"
    fixed = {key: value_of(contents.baselines.get(key, {}).get(name)) for key in FIXED_SPOTS}
    fixed = {key: value for key, value in fixed.items() if is_known(value)}
    if not fixed:
        return ""
    best = min(fixed, key=fixed.__getitem__)
    spot = "the best fixed spot" if best == "best_constant" else "always pointing at the image centre"
    beaten = [network.name for network in networks if value_of(network.summary[name]) < fixed[best]]
    if len(networks) == 1:
        outcome = "the network beats" if beaten else "the network does not beat"
    elif len(beaten) == 1:
        outcome = f"only the {beaten[0]} network beats"
    else:
        outcome = "both networks beat" if beaten else "neither network beats"
    return f"{spot} scores {measure(name).write(fixed[best])}, which {outcome}"


def _gain(contents: Contents) -> str:
    first, second = _pair(contents, "tracking_gain")
    if first is None:
        return ""
    write = measure("tracking_gain").write
    start = "Against the best fixed spot (gain 0: no better, 1: perfect tracking)"
    reached = write(value_of(first.summary["tracking_gain"]))
    first_gain = f"the {first.name} network's filters reach {reached} on average"
    shares = [_above_zero(network) for network in (first, second) if network is not None]
    ending = f"; above 0 lie {' and '.join(shares)} filters" if all(shares) else ""
    if second is None:
        return f"{start} {first_gain}{ending}."
    second_gain = f"the {second.name} one's {write(value_of(second.summary['tracking_gain']))}"
    difference = f"a difference {_chance(contents, 'tracking_gain')}"
    return f"{start} {first_gain}, {second_gain}, {difference}{ending}."


def _pair(contents: Contents, name: str) -> tuple[Network | None, Network | None]:
    """The first two networks that know a measure; the second only beside the first."""
    known = [
        network if is_known(value_of(network.summary.get(name))) else None
        for network in contents.networks[:2]
    ]
    return (known[0], known[1] if len(known) > 1 else None) if known[0] else (None, None)


def _gap(contents: Contents, name: str, first: Network, second: Network) -> float:
    paired = value_of(contents.differences.get(name))
    return paired if is_known(paired) else value_of(first.summary[name]) - value_of(second.summary[name])


def _chance(contents: Contents, name: str) -> str:
    """How a difference compares with chance, with its p-value where there is one."""
    difference = contents.differences.get(name)
    known = significance(difference)
    words = {None: "not tested", True: "beyond chance", False: "compatible with chance"}[known]
    p = p_value(difference)
    return f"{words} ({p})" if p else words


def _above_zero(network: Network) -> str:
    """How many filters have a positive gain, `104 of 128`; nothing where it is not known per filter."""
    if "tracking_gain" not in network.filters.columns:
        return ""
    gains = network.filters["tracking_gain"].to_numpy(dtype=float)
    return f"{int((gains > 0).sum())} of {len(gains)}"
