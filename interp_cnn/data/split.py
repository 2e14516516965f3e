"""Which images are held out for validation: by class, and never half of a group.

Images of one group (crops of one photograph, frames of one film) resemble each other more than anything new
does, so a group is on one side only.

`held_out` draws for a set that never changes: within each class whole groups, in an order drawn from the seed, go to
validation as long as they fit into the class's share. `hashed_sides` is for folders to which images are added.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import torch


def held_out(labels: Sequence[int], groups: Sequence[Hashable], *, fraction: float, seed: int) -> list[bool]:
    """True for the images of the validation side.

    Args:
        labels: N class indices. A group counts towards the class of its first image.
        groups: N group names; images with equal names stay together.
        fraction: share of each class to hold out, in (0, 1), rounded to the nearest image; of a class that
            has two groups or more at least its smallest group.
        seed: of the draw.

    Raises:
        ValueError: if `fraction` is not in (0, 1).
    """
    _check_fraction(fraction)
    sizes = Counter(groups)
    label_of: dict[Hashable, int] = {}
    for label, group in zip(labels, groups, strict=True):
        label_of.setdefault(group, label)
    names = list(label_of)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()

    groups_of_class: dict[int, list[Hashable]] = {}
    for group, label in label_of.items():
        groups_of_class.setdefault(label, []).append(group)
    wanted = {}
    for label, members in groups_of_class.items():
        smallest = min(sizes[group] for group in members) if len(members) > 1 else 0
        wanted[label] = max(round(fraction * sum(sizes[group] for group in members)), smallest)
    chosen: set[Hashable] = set()
    for name in (names[i] for i in order):
        label = label_of[name]
        if 0 < sizes[name] <= wanted[label]:
            chosen.add(name)
            wanted[label] -= sizes[name]
    return [group in chosen for group in groups]


def hashed_sides(
    labels: Sequence[int],
    names: Sequence[str],
    *alike: Sequence[str],
    fraction: float,
    seed: int,
) -> list[bool]:
    """True for the images of the validation side, each decided by its own name: stable where images come and go.

    An image is held out when the hash of seed and name, a number in [0, 1), is below `fraction`. Names that are equal
    (a group), and images that are alike, are decided together; a picture is held out only when all of its names say so,
    thus a copy never brings a training image into validation.

    A class's share then scatters about `fraction` as a coin does. It is kept between half and twice of it, on the
    training side too, by moving the images whose hashes are nearest to the limit; these few depend on the others.

    Args:
        labels: N class indices. A group counts towards the class of its first image.
        names: N names of images, or of the groups that they belong to.
        alike: what else keeps images together, such as N hashes of their files; "" keeps with none.
        fraction: share of each class to hold out, in (0, 1).
        seed: of the hash.

    Raises:
        ValueError: if `fraction` is not in (0, 1).
    """
    _check_fraction(fraction)
    together = _components(names, *alike)
    sizes = Counter(together)
    score: dict[int, float] = {}
    label_of: dict[int, int] = {}
    for label, name, group in zip(labels, names, together, strict=True):
        score[group] = max(score.get(group, 0.0), _hashed(name, seed))
        label_of.setdefault(group, label)
    members: dict[int, list[int]] = defaultdict(list)
    for group, label in label_of.items():
        members[label].append(group)
    chosen = {
        group
        for groups in members.values()
        for group in _within_bounds(sorted(groups, key=score.__getitem__), score, sizes, fraction)
    }
    return [group in chosen for group in together]


def _within_bounds(
    groups: list[int], score: dict[int, float], sizes: Counter[int], fraction: float
) -> list[int]:
    """The groups of one class that are held out, of all in the order of their scores."""
    total = sum(sizes[group] for group in groups)
    share = fraction * total
    low, high = max(share / 2, total - 2 * (total - share)), min(2 * share, total - (total - share) / 2)
    chosen = [group for group in groups if score[group] < fraction]
    count = sum(sizes[group] for group in chosen)
    for group in groups[len(chosen) :]:
        if count < low and count + sizes[group] <= high:
            chosen.append(group)
            count += sizes[group]
    for group in reversed(chosen.copy()):
        if count > high and count - sizes[group] >= low:
            chosen.remove(group)
            count -= sizes[group]
    if len(groups) > 1 and not chosen:  # groups too large for the share
        chosen = [min(groups, key=sizes.__getitem__)]
    if len(groups) > 1 and len(chosen) == len(groups):
        chosen.remove(max(groups, key=sizes.__getitem__))
    return chosen


def _components(*columns: Sequence[str]) -> list[int]:
    """For each image the number of the first one that it hangs together with, by a value in common in any column."""
    root = list(range(len(columns[0])))

    def first(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for values in columns:
        seen: dict[str, int] = {}
        for index, value in enumerate(values):
            if value:
                earlier, other = first(seen.setdefault(value, index)), first(index)
                root[max(earlier, other)] = min(earlier, other)
    return [first(index) for index in range(len(root))]


def _hashed(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the name and the seed."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _check_fraction(fraction: float) -> None:
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction={fraction}: the validation share of the images must lie between 0 and 1")
