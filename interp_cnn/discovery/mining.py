"""What is mined from a source: patterns, as many filters beside them, nodes of a graph, atoms, with what they look at.

Patterns are what `mine_patterns` finds. A filter is taken for the class that most of its exemplars on the proposing
half show, and fires where it reaches half of their mean peak; so is an atom of a dictionary (`dictionaries`), with its
codes for a map; a node is a filter near one place (`graph_concepts`). Quota and judging half are the same for all, so
that sets and sums of channels can be compared with single ones. Kept of each are its figures, whether it comes out
again when the halves change places, and the cells where it is strongest: one per image of its category, of the judging
half.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from interp_cnn.discovery.finding import find_atoms, find_filters, find_nodes, find_patterns
from interp_cnn.discovery.images import loader_of
from interp_cnn.discovery.settings import DICTIONARIES, Mining
from interp_cnn.discovery.sources import Source
from interp_cnn.discovery.stages import Arrays
from interp_cnn.explanation.concepts.concepts import Concept, FiringRule, concept_maps
from interp_cnn.explanation.concepts.dictionaries import Dictionary
from interp_cnn.explanation.concepts.patterns import split_in_halves
from interp_cnn.explanation.concepts.transactions import position_transactions
from interp_cnn.explanation.network.feature_maps import peaks


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
    plain_rule = FiringRule(transactions.scale, mining.top, mining.neighbours)
    arrays: Arrays = {"scale": transactions.scale.numpy()}
    halves = split_in_halves(transactions.labels, generator=torch.Generator().manual_seed(mining.seed))
    arrays["judging"] = halves.nonzero().flatten().numpy()
    for kind in mining.kinds:
        rule = plain_rule
        if kind == "patterns":
            concepts, rows, facts = find_patterns(transactions, halves, mining, background)
        elif kind in DICTIONARIES:
            dictionary, (concepts, rows, facts) = find_atoms(
                source, images, rule, halves, mining, kind=kind, background=background
            )
            rule = replace(rule, dictionary=dictionary)
            arrays |= {f"{kind}.{name}": values for name, values in dictionary.arrays().items()}
        else:
            find = find_filters if kind == "filters" else find_nodes
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
            unit["atom"],
        )
        for unit in json.loads(str(arrays[f"{kind}.units"]))
    ]
    dictionary = Dictionary.of_arrays(arrays, f"{kind}.") if kind in DICTIONARIES else None
    rule = FiringRule(torch.from_numpy(arrays["scale"]), mining.top, mining.neighbours, dictionary)
    rows, facts = (json.loads(str(arrays[f"{kind}.{name}"])) for name in ("rows", "facts"))
    return Units(kind, concepts, rows, rule, torch.from_numpy(arrays["judging"]), facts)


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
