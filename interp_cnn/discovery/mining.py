"""What is mined from a source: patterns, as many filters beside them, nodes of a graph, with what they look at.

Patterns are what `mine_patterns` finds. A filter is taken for the class that most of its exemplars on the proposing
half show, and fires where it reaches half of their mean peak; a node is a filter near one place (`graph_concepts`).
Quota and judging half are the same for all, so that sets of channels can be compared with single ones. Kept of each
are its figures, whether it comes out again when the halves change places, and the cells where it is strongest: one per
image of its category, of the judging half.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby, islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.parts import PartSample, collate
from interp_cnn.discovery.settings import Mining
from interp_cnn.discovery.sources import Source
from interp_cnn.discovery.stages import Arrays
from interp_cnn.explanation.concepts.concepts import (
    Concept,
    FiringRule,
    concept_maps,
    filter_concepts,
    pattern_concepts,
)
from interp_cnn.explanation.concepts.graph_concepts import node_concepts, node_replications
from interp_cnn.explanation.concepts.patterns import mine_patterns, split_in_halves
from interp_cnn.explanation.concepts.replication import replications
from interp_cnn.explanation.concepts.transactions import Transactions, position_transactions
from interp_cnn.explanation.filters.exemplars import exemplars
from interp_cnn.explanation.network.feature_maps import feature_maps, peaks

BATCH = 64


@dataclass(frozen=True, eq=False)
class Units:
    """What was mined of one kind.

    Attributes:
        kind: of `KINDS`.
        concepts: with the occurrences to show.
        rows: figures of each.
        rule: when one fires.
        judging: (n,) numbers of the judging half's images.
        facts: about the mining as a whole.
    """

    kind: str
    concepts: list[Concept]
    rows: list[dict]
    rule: FiringRule
    judging: Tensor
    facts: dict


def spread_images(data: PartDataModule, most: int) -> Subset[PartSample]:
    """At most so many validation images, evenly chosen."""
    images = data.val_set
    if images is None:
        raise ValueError("data has no validation images; expected a data module after setup()")
    count = min(most, len(images))
    return Subset(images, torch.linspace(0, len(images) - 1, count).round().long().tolist())


def pixels_of(images: Subset[PartSample]) -> Callable[[int], Tensor]:
    """Image number -> (C, H, W); the last few hundred are remembered."""
    return lru_cache(maxsize=256)(lambda number: images[number].image)


def loader_of(images: Subset, chosen: Tensor | None = None) -> DataLoader:
    """Batches of the images in their order, or of some of them."""
    part = images if chosen is None else Subset(images, chosen.tolist())
    return DataLoader(part, batch_size=BATCH, collate_fn=collate)


def mine_concepts(source: Source, images: Subset, mining: Mining, *, background: int | None) -> Arrays:
    """Everything that is mined from a source, as arrays and text to keep; `units_in` reads it.

    Raises:
        ValueError: a class with fewer than two images, or a setting out of its range.
    """
    transactions = position_transactions(
        source.network,
        loader_of(images),
        layer=source.layer,
        top=mining.top,
        neighbours=mining.neighbours,
    )
    rule = FiringRule(transactions.scale, mining.top, mining.neighbours)
    kept: Arrays = {"scale": transactions.scale.numpy()}
    halves = split_in_halves(transactions.labels, generator=torch.Generator().manual_seed(mining.seed))
    kept["judging"] = halves.nonzero().flatten().numpy()
    for kind in mining.kinds:
        if kind == "patterns":
            concepts, rows, facts = _patterns(transactions, halves, mining, background)
        else:
            find = _filters if kind == "filters" else _nodes
            concepts, rows, facts = find(source, images, rule, halves, mining, background)
        shown = _strongest(source, images, concepts, rule, halves, mining.shown)
        units = [
            {**asdict(one), "occurrences": places.tolist()}
            for one, places in zip(concepts, shown, strict=True)
        ]
        for name, values in (("units", units), ("rows", rows), ("facts", facts)):
            kept[f"{kind}.{name}"] = np.array(json.dumps(values))
    return kept


def units_in(kept: Arrays, kind: str, mining: Mining) -> Units:
    """The units of one kind from what `mined` gave."""
    concepts = [
        Concept(
            one["name"],
            tuple(one["channels"]),
            tuple(map(tuple, one["offsets"])),
            one["category"],
            torch.tensor(one["occurrences"], dtype=torch.int64).reshape(-1, 3),
            one["floor"],
            None if one["place"] is None else tuple(one["place"]),
        )
        for one in json.loads(str(kept[f"{kind}.units"]))
    ]
    rule = FiringRule(torch.from_numpy(kept["scale"]), mining.top, mining.neighbours)
    rows, facts = (json.loads(str(kept[f"{kind}.{name}"])) for name in ("rows", "facts"))
    return Units(kind, concepts, rows, rule, torch.from_numpy(kept["judging"]), facts)


Found = tuple[list[Concept], list[dict], dict]  # concepts, a row for each, facts about all


def _patterns(transactions: Transactions, judging: Tensor, mining: Mining, background: int | None) -> Found:
    """Mined with one half proposing; and with the other, to see what comes out again."""
    options = {
        "min_support": mining.min_support,
        "lengths": mining.lengths,
        "quota": mining.quota,
        "most_overlap": mining.most_overlap,
        "false_discovery_rate": mining.false_discovery_rate,
        "background": background,
        "generator": torch.Generator().manual_seed(mining.seed),
    }
    found = mine_patterns(transactions, judging=judging, null_draws=mining.null_draws, **options)
    again = mine_patterns(transactions, judging=~judging, **options)
    replicated = replications(transactions, found.patterns, again.patterns)
    rows = [
        {"q_value": one.q_value, "replication": value}
        for one, value in zip(found.patterns, replicated, strict=True)
    ]
    facts: dict[str, float] = {"proposed": found.proposed, "frequent": sum(found.frequent.values())}
    facts["expected"] = sum(found.expected.values())
    return pattern_concepts(found.patterns), rows, facts


def _filters(
    source: Source, images: Subset, rule: FiringRule, judging: Tensor, mining: Mining, background: int | None
) -> Found:
    """Of every class the filters whose proposing exemplars are most often of it; of equals the strongest."""
    halves = [
        exemplars(
            source.network,
            loader_of(images, half.nonzero().flatten()),
            layer=source.layer,
            count=mining.shown,
        )
        for half in (~judging, judging)
    ]
    found, again = (filter_concepts(half, rule.scale) for half in halves)
    classes = {one.name: one.category for one in again}
    own = {one.name: int((halves[0].labels[one.channels[0]] == one.category).sum()) for one in found}
    order = sorted(found, key=lambda one: (one.category, -own[one.name], -(one.floor or 0.0)))
    chosen = [
        one
        for _, group in groupby(order, key=lambda one: one.category)
        for one in islice(group, mining.quota)
        if one.category != background
    ]
    rows = [{"replication": float(classes.get(one.name) == one.category)} for one in chosen]
    return chosen, rows, {"proposed": len(found)}


def _nodes(
    source: Source, images: Subset, rule: FiringRule, judging: Tensor, mining: Mining, background: int | None
) -> Found:
    """Of every class the strongest nodes of the explanatory graph of the proposing half."""
    halves = []
    for half in (~judging, judging):
        generator = torch.Generator().manual_seed(mining.seed)
        maps: dict[int, list[Tensor]] = {}
        for batch in loader_of(images, half.nonzero().flatten()):
            found = feature_maps(source.network, batch.images, source.layer)
            for category in batch.labels.unique().tolist():
                maps.setdefault(category, []).append(found[batch.labels == category])
        halves.append(
            [
                one
                for category in sorted(maps.keys() - {background})
                for one in node_concepts(
                    torch.cat(maps[category]), category, rule=rule, count=mining.quota, generator=generator
                )
            ]
        )
    rows = [{"replication": value} for value in node_replications(*halves)]
    return halves[0], rows, {"proposed": len(halves[0])}


def _strongest(
    source: Source, images: Subset, concepts: list[Concept], rule: FiringRule, judging: Tensor, most: int
) -> list[Tensor]:
    """Of every concept the cell (n, 3) where it is strongest, on n <= `most` judging images of its category."""
    if not concepts:
        return []
    values, cells, labels = [], [], []
    loader = loader_of(images)
    for batch, strengths, fires in concept_maps(
        source.network, loader, concepts, layer=source.layer, rule=rule
    ):
        places, scores = peaks(strengths.where(fires, 0))
        values.append(scores)
        cells.append(places)
        labels.append(batch.labels)
    score, cell, label = torch.cat(values), torch.cat(cells), torch.cat(labels)  # (N, Q), (N, Q, 2), (N,)
    found = []
    for number, one in enumerate(concepts):
        mine = judging & (label == one.category) & (score[:, number] > 0)
        order = score[:, number].where(mine, 0).sort(descending=True, stable=True).indices
        order = order[: min(most, int(mine.sum()))]
        found.append(torch.cat((order[:, None], cell[order, number]), dim=1))
    return found
