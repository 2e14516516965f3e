"""What a decoder's pictures are worth, and whether patterns and filters fire again in them.

    python tests/benchmarks/pattern_table.py RUN DECODER [--images 100] [--occurrences 8]

RUN is a classifier's run folder, DECODER what `train training=inversion training.run=RUN` made of it. Patterns are
mined on validation images, half of which propose and half of which judge; drawn
occurrences lie on the judging half.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Subset

from interp_cnn.data.parts import collate
from interp_cnn.decoders import DecoderSettings, decoder_for
from interp_cnn.evaluation.reconstruction_quality import reconstruction_quality
from interp_cnn.explanation.causal_effect import causal_effects
from interp_cnn.explanation.concepts import FiringRule, concept_maps, filter_concepts, pattern_concepts
from interp_cnn.explanation.exemplars import exemplars
from interp_cnn.explanation.patterns import mine_patterns
from interp_cnn.explanation.reconstruction import MODES, Reconstructor
from interp_cnn.explanation.transactions import position_transactions
from interp_cnn.runs import load_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("decoder", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--occurrences", type=int, default=8)
    parser.add_argument("--patterns", type=int, default=5, help="per class")
    asked = parser.parse_args()
    found = load_run(asked.run, checkpoint="last")
    network, data, layer = found.network, found.data, found.layers[-1]
    training = OmegaConf.load(asked.decoder / "config.yaml").training
    names = ("epochs", "batch_size", "learning_rate", "feature_weight", "whole")
    settings = DecoderSettings(**{name: training[name] for name in names})
    decoder = decoder_for(network, data, layer=layer, folder=asked.decoder, settings=settings)
    count = min(asked.images, len(data.val_set))
    chosen = torch.linspace(0, len(data.val_set) - 1, count).round().long().tolist()
    shown = Subset(data.val_set, chosen)
    loader = DataLoader(shown, batch_size=64, collate_fn=collate)
    print(f"{found.kind}, {layer}, {count} validation images")
    scale = decoder.scale.flatten()
    quality = reconstruction_quality(network, decoder, loader, layer=layer, scale=scale)
    for name, estimate in quality.items():
        print(f"  {name:22} {estimate}")
    transactions = position_transactions(network, loader, layer=layer)
    mined = mine_patterns(transactions, generator=torch.Generator().manual_seed(0), quota=asked.patterns)
    rule = FiringRule(transactions.scale)
    concepts = pattern_concepts(mined.patterns)
    confidence = sum(one.confidence for one in mined.patterns) / max(1, len(mined.patterns))
    lift = sum(one.lift for one in mined.patterns) / max(1, len(mined.patterns))
    coverage = sum(one.coverage for one in mined.patterns) / max(1, len(mined.patterns))
    print(f"  {len(concepts)} of {mined.proposed} patterns hold on the judging half;", end=" ")
    print(f"confidence {confidence:.3f}, lift {lift:.2f}, coverage {coverage:.2f}")
    samples = [shown[number].image for number in range(count)]
    scores = torch.cat([maps.amax(dim=(2, 3)) for _, maps, _ in concept_maps(
        network, loader, concepts, layer=layer, rule=rule)])  # fmt: skip
    strongest = []
    for number, one in enumerate(concepts):
        mine = transactions.labels[one.occurrences[:, 0]] == one.category
        places = one.occurrences[mine]
        first = {int(place[0]): place for place in places.flip(0)}  # one occurrence per image
        order = sorted(first, key=lambda image, number=number: -float(scores[image, number]))
        kept = torch.stack([first[image] for image in order[: asked.occurrences]])
        strongest.append(replace(one, occurrences=kept))
    filters = filter_concepts(exemplars(network, loader, layer=layer, count=asked.occurrences), rule.scale)
    reconstructor = Reconstructor(network, decoder, layer, rule)
    for kind, units in (("patterns", strongest), ("filters", filters)):
        for mode in MODES:
            start = time.perf_counter()
            seen = reconstructor.verified(samples.__getitem__, units, mode=mode)
            seconds = time.perf_counter() - start
            print(
                f"  {kind:8} {mode:9} re-activation {seen.reactivated.mean():.3f}, "
                f"control {seen.control.nanmean():.3f}, "
                f"mean reciprocal rank {seen.rank.reciprocal().mean():.3f}, "
                f"own class {seen.own_class.mean():.3f}   {len(seen.rank)} pictures, {seconds:.0f} s",
                flush=True,
            )
    effect, other = causal_effects(
        network, samples.__getitem__, [replace(one, occurrences=one.occurrences[:3]) for one in strongest],
        layer=layer, scale=scale, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    print(f"  logit drop without a pattern's units {effect.mean():.3f}, without others {other.mean():.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
