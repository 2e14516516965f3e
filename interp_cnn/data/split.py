"""Which images are held out for validation: by class, and never half of a group.

Images of one group (crops of one photograph, frames of one film) resemble each other more than anything new
does, so a group is on one side only. Within each class whole groups, in an order drawn from the seed, go to
validation as long as they fit into the class's share.
"""

from __future__ import annotations

from collections import Counter
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
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction={fraction}: the validation share of the images must lie between 0 and 1")
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
