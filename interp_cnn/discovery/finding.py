"""Finding units of one kind on one half of the images: patterns, filters, nodes of a graph, atoms of a dictionary.

Every finder gives the units that the proposing half names, as many per class at most as the quota allows, how far each
comes out again when the halves change places, and facts about all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from interp_cnn.data.parts import PartBatch
from interp_cnn.discovery.images import loader_of
from interp_cnn.discovery.settings import Mining
from interp_cnn.discovery.sources import Source
from interp_cnn.explanation.concepts.concepts import (
    Concept,
    FiringRule,
    atom_concepts,
    filter_concepts,
    pattern_concepts,
)
from interp_cnn.explanation.concepts.dictionaries import Dictionary, sampled_cells, unexplained
from interp_cnn.explanation.concepts.factorisation import factorised
from interp_cnn.explanation.concepts.graph_concepts import node_concepts, node_replications
from interp_cnn.explanation.concepts.patterns import mine_patterns
from interp_cnn.explanation.concepts.replication import replications
from interp_cnn.explanation.concepts.sparse_dictionary import sparse_dictionary
from interp_cnn.explanation.concepts.transactions import Transactions
from interp_cnn.explanation.filters.exemplars import Look, exemplars, strongest_of
from interp_cnn.explanation.network.feature_maps import feature_maps, peaks
from interp_cnn.explanation.network.placement import device_of

Found = tuple[list[Concept], list[dict], dict]  # concepts, a row for each, facts about all


def find_patterns(
    transactions: Transactions, judging: Tensor, mining: Mining, background: int | None
) -> Found:
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


def find_filters(
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
    chosen = _speaking_most(proposed, halves[0].labels, mining.quota, background)
    classes = {concept.name: concept.category for concept in again}
    rows = [{"replication": float(classes.get(concept.name) == concept.category)} for concept in chosen]
    return chosen, rows, {"proposed": len(proposed)}


def find_atoms(
    source: Source,
    images: Subset,
    rule: FiringRule,
    judging: Tensor,
    mining: Mining,
    *,
    kind: str,
    background: int | None,
) -> tuple[Dictionary, Found]:
    """Of every class the atoms whose proposing exemplars are most often of it, as of filters, from a dictionary of the
    proposing half; and whether atoms of the other half's dictionary fire where they do.

    Raises:
        ValueError: more atoms than the method can give.
    """
    found, facts = [], {}
    for half in (~judging, judging):
        loader = loader_of(images, half.nonzero().flatten())
        dictionary, left = _learned(source, loader, rule, mining, kind)
        of_half = replace(rule, dictionary=dictionary)
        if not len(dictionary):
            found.append((of_half, [], 0))
            continue
        strongest = strongest_of(
            source.network,
            loader,
            lambda batch, it=of_half: _code_look(source, batch, it),
            layer=source.layer,
            count=mining.shown,
        )
        proposed = atom_concepts(strongest, dictionary)
        chosen = _speaking_most(proposed, strongest.labels, mining.quota, background)
        found.append((of_half, chosen, len(proposed)))
        facts = facts or {
            "atoms": len(dictionary),
            "silent_atoms": len(dictionary) - len(proposed),
            "left_over": left,
        }
    (own, chosen, proposed), (other, again, _) = found
    rows = [
        {"replication": value} for value in firing_replications(source, images, (own, chosen), (other, again))
    ]
    dictionary = own.dictionary
    assert dictionary is not None  # just learned
    return dictionary, (chosen, rows, {"proposed": proposed, **facts})


def _learned(
    source: Source, loader: DataLoader, rule: FiringRule, mining: Mining, kind: str
) -> tuple[Dictionary, float]:
    """A dictionary of a loader's maps, and the share of their energy that it leaves over."""
    generator = torch.Generator().manual_seed(mining.seed)
    labels = set()

    def maps() -> Iterator[Tensor]:
        for batch in loader:
            labels.update(batch.labels.tolist())
            yield _maps(source, batch)

    cells = sampled_cells(maps(), rule.scale, generator=generator)
    channels = cells.shape[1]
    if not len(cells):
        return Dictionary(torch.zeros(0, channels)), float("nan")
    atoms = mining.atoms or min(mining.quota * len(labels), channels)
    if kind == "nmf":
        if atoms > channels:
            raise ValueError(
                f"patterns.atoms={atoms}: expected at most {channels} for nmf, as many as the layer has channels"
            )
        dictionary = factorised(cells, atoms=atoms, seed=mining.seed)
    else:
        dictionary = sparse_dictionary(cells, atoms=atoms, active=mining.active, generator=generator)
    return dictionary, unexplained(cells, dictionary)


def _maps(source: Source, batch: PartBatch) -> Tensor:
    return feature_maps(source.network, batch.images.to(device_of(source.network)), source.layer)


def _code_look(source: Source, batch: PartBatch, rule: FiringRule) -> Look:
    """Code maps of a batch and where they are strongest."""
    assert rule.dictionary is not None  # who looks has one
    codes = rule.codes(_maps(source, batch))
    return Look(codes, *peaks(codes))


def firing_replications(
    source: Source,
    images: Subset,
    units: tuple[FiringRule, list[Concept]],
    others: tuple[FiringRule, list[Concept]],
) -> list[float]:
    """Largest Jaccard overlap of every unit's firings with those of another of its class from the other mining."""
    if not units[1] or not others[1]:
        return [0.0] * len(units[1])
    both, own, other = (torch.zeros(()) for _ in range(3))
    for batch in loader_of(images):
        maps = _maps(source, batch)
        first, second = (
            rule.fires(maps, concepts).cpu().movedim(1, 0).flatten(1).double()
            for rule, concepts in (units, others)
        )
        both = both + first @ second.T  # (Q, R)
        own, other = own + first.sum(dim=1, keepdim=True), other + second.sum(dim=1)
    overlap = both / (own + other - both).clamp(min=1)
    of_units, of_others = (torch.tensor([it.category for it in group[1]]) for group in (units, others))
    return overlap.where(of_units[:, None] == of_others, 0.0).amax(dim=1).tolist()


def _speaking_most(
    proposed: list[Concept], labels: Tensor, quota: int, background: int | None
) -> list[Concept]:
    """Of every class the concepts most of whose exemplars, with labels (A, N), are of it; of equals the strongest."""
    counts = {concept.name: int((labels[concept.number] == concept.category).sum()) for concept in proposed}
    order = sorted(
        proposed, key=lambda concept: (concept.category, -counts[concept.name], -(concept.floor or 0.0))
    )
    return [
        concept
        for _, group in groupby(order, key=lambda concept: concept.category)
        for concept in islice(group, quota)
        if concept.category != background
    ]


def find_nodes(
    source: Source, images: Subset, rule: FiringRule, judging: Tensor, mining: Mining, background: int | None
) -> Found:
    """Of every class the strongest nodes of the explanatory graph of the proposing half."""
    halves = []
    for half in (~judging, judging):
        generator = torch.Generator().manual_seed(mining.seed)
        maps: dict[int, list[Tensor]] = {}
        for batch in loader_of(images, half.nonzero().flatten()):
            batch_maps = _maps(source, batch).cpu()
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
