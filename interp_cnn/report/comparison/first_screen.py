"""What the first page says before any table: one sentence, and one tile for each of four measures."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Any

from interp_cnn.report.baselines import IN_THE_TABLE, baseline
from interp_cnn.report.comparison.contents import Contents, Network
from interp_cnn.report.comparison.verdict import significance
from interp_cnn.report.measures import Measure, in_order, measure
from interp_cnn.report.numbers import is_known, value_of

TILES = ("accuracy", "part_interpretability", "location_instability", "tracking_gain", "translation_gain")
MOST_TILES = 4
HANDFUL = 8  # filters for each class
MOST_PARTS = 4  # that are named in the headline
HEADLINE = (
    "part_interpretability",
    "translation_gain",
)  # what it says of the filters: the first that is known
SAME = 0.01  # of accuracy: who says "as accurate as" must know the difference as well as that


@dataclass(frozen=True)
class Tile:
    """One measure of both networks, and how the first compares.

    Attributes:
        measure: its record.
        values: place, name and number of each network.
        outcome: good, bad or open; empty with one network.
        says: the same in words, with an arrow for the direction of the number.
        scale: what the numbers are measured in, and what it takes no network to reach.
    """

    measure: Measure
    values: list[tuple[int, str, str]]
    outcome: str = ""
    says: str = ""
    scale: str = ""


@dataclass(frozen=True)
class Ahead:
    """In which measures one network is ahead beyond chance, of how many that were compared."""

    place: int
    name: str
    measures: list[Measure]
    compared: int
    figures: list[str]  # of each of the measures: title, this network's value against the other's


def tiles(contents: Contents) -> list[Tile]:
    """Up to four measures that the first network knows."""
    known = [_tile(contents, name) for name in TILES if _value(contents.networks[0], name) is not None]
    return known[:MOST_TILES]


def headline(contents: Contents) -> str:
    """One sentence for somebody who knows none of the measures; empty where nothing was measured."""
    clauses = [clause for clause in (_accuracy(contents), _filters(contents)) if clause]
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _tile(contents: Contents, name: str) -> Tile:
    how = measure(name)
    known = [(place, network, _value(network, name)) for place, network in enumerate(contents.networks[:2])]
    values = [(place, network.name, how.write(value)) for place, network, value in known if value is not None]
    scale = _scale(contents, how)
    if len(values) < 2:
        return Tile(how, values, scale=scale)
    gap = _gap(contents, name)
    arrow = "▲" if gap > 0 else "▼"
    beyond = significance(contents.differences.get(name))
    if not beyond:
        return Tile(
            how, values, "open", "not tested" if beyond is None else "no difference beyond chance", scale
        )
    better = (gap > 0) == (how.better == "higher")
    outcome, word = ("good", "better") if better else ("bad", "worse")
    return Tile(how, values, outcome, f"{arrow} {word} ({'higher' if gap > 0 else 'lower'})", scale)


def ahead(contents: Contents) -> list[Ahead]:
    """Of two networks, in which of all measures each is ahead beyond chance; nothing where none was tested."""
    tested = {
        name: significance(difference)
        for name, difference in contents.differences.items()
        if measure(name).better and significance(difference) is not None
    }
    if len(contents.networks) < 2 or not tested:
        return []
    leads: tuple[list[Measure], list[Measure]] = ([], [])
    for name in in_order([name for name, beyond in tested.items() if beyond]):
        first_is_better = (_gap(contents, name) > 0) == (measure(name).better == "higher")
        leads[0 if first_is_better else 1].append(measure(name))
    names = [network.name for network in contents.networks[:2]]

    def figures(place: int) -> list[str]:
        mine, other = contents.networks[place], contents.networks[1 - place]
        return [
            f"{it.title.lower()}: {mine.name} {it.write(_value(mine, it.name))}, {other.name} "
            f"{it.write(_value(other, it.name))}"
            for it in leads[place]
        ]

    return [Ahead(place, names[place], leads[place], len(tested), figures(place)) for place in (0, 1)]


def few_filters(contents: Contents) -> str:
    """How right both networks are with a handful of filters for each class; empty where that was not asked."""
    by_name = {reading.few.network: dict(reading.few.kept) for reading in contents.readings}
    kept = [
        (network.name, by_name[network.name]) for network in contents.networks[:2] if network.name in by_name
    ]
    counts = set.intersection(*(set(accuracies) for _, accuracies in kept)) if len(kept) == 2 else set()
    count = max((it for it in counts if 1 < it <= HANDFUL), default=None)
    if count is None:
        return ""
    write = measure("accuracy").write
    right = [f"the {name} network is right on {write(accuracies[count])}" for name, accuracies in kept]
    return f"With each class's strongest {count} filters alone {right[0]} of the images, {right[1]}."


def _scale(contents: Contents, how: Measure) -> str:
    known = {key: value_of(contents.baselines.get(key, {}).get(how.name)) for key in IN_THE_TABLE}
    marks = [f"{baseline(key)} {how.write(value)}" for key, value in known.items() if is_known(value)]
    return "; ".join([*([how.unit] if how.unit else []), ", ".join(marks)] if marks else [how.unit])


def _accuracy(contents: Contents) -> str:
    first = contents.networks[0]
    first_value, second_value = (_value(network, "accuracy") for network in (first, _second(contents)))
    if first_value is None:
        return ""
    write = measure("accuracy").write
    if second_value is None:
        return f"The {first.name} network is right on {write(first_value)} of the images"
    gap, difference = _gap(contents, "accuracy"), contents.differences.get("accuracy")
    size = f"{100 * abs(gap):.1f} points {'more' if gap > 0 else 'less'}"
    second, (low, high) = contents.networks[1].name, _ends(difference)
    beyond, told_apart = significance(difference), max(-low, high) > SAME or low == high
    if beyond or not told_apart:
        how = f"{size} accurate than" if beyond else "as accurate as"
        return f"The {first.name} network is {how} the {second} one ({write(first_value)} and {write(second_value)})"
    count = getattr(difference, "n", 0)
    start = f"The {first.name} network is right on {write(first_value)} of {f'{count:,}' if count else 'the'} images"
    if beyond is None:
        return f"{start}, the {second} one on {write(second_value)}: not tested"
    if low == high:
        return f"{start}, the {second} one on the same ones"
    ends = " to ".join(f"{100 * end:+.1f}".replace("-", "\u2212") for end in (low, high))
    interval = f", 95\u00a0% interval {ends}" if isfinite(low) else ""
    return (
        f"{start}, the {second} one on {write(second_value)}: too few to tell which is more accurate "
        f"(difference {size}{interval})"
    )


def _ends(difference: Any) -> tuple[float, float]:
    """Of a difference's interval; without ends where nobody knows them."""
    low, high = (getattr(difference, end, nan) for end in ("low", "high"))
    return (low, high) if is_known(low) and is_known(high) else (-inf, inf)


def _filters(contents: Contents) -> str:
    """What the filters do, by the clearest measure there is."""
    templates = {
        "part_interpretability": (
            f"the region of a filter matches one and the same part{_part_names(contents)} in {{}} of the images",
            ", for the {} one in {}",
        ),
        "translation_gain": (
            "its filters follow shifted content with a gain of {} (1: exactly, 0: like any fixed spot)",
            ", those of the {} one with {}",
        ),
    }
    first, second = contents.networks[0], _second(contents)
    name = next((name for name in HEADLINE if _value(first, name) is not None), None)
    if name is None:
        return ""
    write, (of_first, of_second) = measure(name).write, templates[name]
    first_value, second_value = _value(first, name), _value(second, name)
    if second_value is None or second is None:
        return of_first.format(write(first_value))
    chance = {None: ", not tested", True: "", False: ", a difference that chance may explain"}[
        significance(contents.differences.get(name))
    ]
    return of_first.format(write(first_value)) + of_second.format(second.name, write(second_value)) + chance


def _part_names(contents: Contents) -> str:
    """Which parts there are, in brackets, where they are few."""
    names = [name for name in contents.facts.get("parts", "").split(", ") if name not in ("", "none")]
    if not 1 < len(names) <= MOST_PARTS:
        return ""
    text = f" ({', '.join(names[:-1])} or {names[-1]})"
    return text.replace("{", "{{").replace("}", "}}")  # it stands in a format


def _second(contents: Contents) -> Network | None:
    return contents.networks[1] if len(contents.networks) > 1 else None


def _value(network: Network | None, name: str) -> float | None:
    value = value_of(network.summary.get(name)) if network is not None else None
    return value if is_known(value) else None


def _gap(contents: Contents, name: str) -> float:
    paired = value_of(contents.differences.get(name))
    first, second = (value_of(network.summary.get(name)) for network in contents.networks[:2])
    return paired if is_known(paired) else first - second
