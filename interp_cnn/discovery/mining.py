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
    arrays: Arrays = {"scale": transactions.scale.numpy()}
    halves = split_in_halves(transactions.labels, generator=torch.Generator().manual_seed(mining.seed))
    arrays["judging"] = halves.nonzero().flatten().numpy()
    for kind in mining.kinds:
        if kind == "patterns":
            concepts, rows, facts = _patterns(transactions, halves, mining, background)
        else:
            find = _filters if kind == "filters" else _nodes
            concepts, rows, facts = find(source, images, rule, halves, mining, background)
        shown = _strongest(source, images, concepts, rule, halves, mining.shown)
        units = [
            {**asdict(concept), "occurrences": places.tolist()}
            for concept, places in zip(concepts, shown, strict=True)
        ]
        for name, values in (("units", units), ("rows", rows), ("facts", facts)):
            arrays[f"{kind}.{name}"] = np.array(json.dumps(values))
    return arrays


def units_in(arrays: Arrays, kind: str, mining: Mining) -> Units:
    """The units of one kind from what `mined` gave."""
    concepts = [
        Concept(
            unit["name"],
            tuple(unit["channels"]),
            tuple(map(tuple, unit["offsets"])),
            unit["category"],
            torch.tensor(unit["occurrences"], dtype=torch.int64).reshape(-1, 3),
            unit["floor"],
            None if unit["place"] is None else tuple(unit["place"]),
        )
        for unit in json.loads(str(arrays[f"{kind}.units"]))
    ]
    rule = FiringRule(torch.from_numpy(arrays["scale"]), mining.top, mining.neighbours)
    rows, facts = (json.loads(str(arrays[f"{kind}.{name}"])) for name in ("rows", "facts"))
    return Units(kind, concepts, rows, rule, torch.from_numpy(arrays["judging"]), facts)


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
    mined = mine_patterns(transactions, judging=judging, null_draws=mining.null_draws, **options)
    again = mine_patterns(transactions, judging=~judging, **options)
    replicated = replications(transactions, mined.patterns, again.patterns)
    rows = [
        {"q_value": pattern.q_value, "replication": value}
        for pattern, value in zip(mined.patterns, replicated, strict=True)
    ]
    facts: dict[str, float] = {"proposed": mined.proposed, "frequent": sum(mined.frequent.values())}
    facts["expected"] = sum(mined.expected.values())
    return pattern_concepts(mined.patterns), rows, facts


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
    proposed, again = (filter_concepts(half, rule.scale) for half in halves)
    classes = {concept.name: concept.category for concept in again}
    counts = {
        concept.name: int((halves[0].labels[concept.channels[0]] == concept.category).sum())
        for concept in proposed
    }
    order = sorted(
        proposed, key=lambda concept: (concept.category, -counts[concept.name], -(concept.floor or 0.0))
    )
    chosen = [
        concept
        for _, group in groupby(order, key=lambda concept: concept.category)
        for concept in islice(group, mining.quota)
        if concept.category != background
    ]
    rows = [{"replication": float(classes.get(concept.name) == concept.category)} for concept in chosen]
    return chosen, rows, {"proposed": len(proposed)}


def _nodes(
    source: Source, images: Subset, rule: FiringRule, judging: Tensor, mining: Mining, background: int | None
) -> Found:
    """Of every class the strongest nodes of the explanatory graph of the proposing half."""
    halves = []
    for half in (~judging, judging):
        generator = torch.Generator().manual_seed(mining.seed)
        maps: dict[int, list[Tensor]] = {}
        for batch in loader_of(images, half.nonzero().flatten()):
            batch_maps = feature_maps(source.network, batch.images, source.layer)
            for category in batch.labels.unique().tolist():
                maps.setdefault(category, []).append(batch_maps[batch.labels == category])
        halves.append(
            [
                node
                for category in sorted(maps.keys() - {background})
                for node in node_concepts(
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
    strongest = []
    for number, concept in enumerate(concepts):
        firing = judging & (label == concept.category) & (score[:, number] > 0)
        order = score[:, number].where(firing, 0).sort(descending=True, stable=True).indices
        order = order[: min(most, int(firing.sum()))]
        strongest.append(torch.cat((order[:, None], cell[order, number]), dim=1))
    return strongest
