"""Whether a network sees in a picture what it was drawn for, and what a pattern is worth: one stage after the other.

measures   part purity, instability, gain, concentration on the judging half (`concept_measures`), mean maps
effects    what a class's logit loses without the pattern's channels, against others of the same energy
decoder    trained, or read from its folder
quality    of the decoder, on whole maps
pictures   of each occurrence in each mode, with re-activation, control, rank, and what other networks see in them
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.identity import identity_of
from interp_cnn.discovery.images import loader_of, pixels_of, spread_images
from interp_cnn.discovery.mining import Units, mine_concepts, units_in
from interp_cnn.discovery.settings import Drawing, Mining
from interp_cnn.discovery.sources import Source
from interp_cnn.discovery.stages import Arrays, cached
from interp_cnn.evaluation.concepts import concept_measures
from interp_cnn.evaluation.reconstructions import reconstruction_quality
from interp_cnn.evaluation.statistics import Estimate
from interp_cnn.explanation.concepts.ablation import causal_effects
from interp_cnn.explanation.concepts.cross_network import Witness
from interp_cnn.explanation.concepts.reconstruction import Reconstructor
from interp_cnn.model.upconvolution import Upconvolution
from interp_cnn.runs.decoders import decoder_for, decoder_in
from interp_cnn.storage.fingerprints import fingerprint
from interp_cnn.storage.progress import progress_bar

EFFECT_OCCURRENCES = 3  # of each unit whose channels are taken out
REACH = 1  # cells around an occurrence that are kept, taken out, or count as beside it


@dataclass(frozen=True, eq=False)
class VerifiedConcepts:
    """Units of one kind of one source with everything that was found out about them.

    Attributes:
        source: where they were mined.
        units: of one kind.
        measures: a row per unit.
        mean_maps: (Q, h, w).
        effects: (Q, 2) logit drop without the unit's channels, and without others.
        pictures: mode -> arrays of `Verification`; empty where none were asked for.
        quality: measure -> estimate, of the decoder.
    """

    source: Source
    units: Units
    measures: pd.DataFrame
    mean_maps: Tensor
    effects: Tensor
    pictures: dict[str, Arrays]
    quality: dict[str, Estimate]


def verify_concepts(
    folder: Path,
    sources: list[Source],
    data: PartDataModule,
    mining: Mining,
    drawing: Drawing | None,
) -> list[VerifiedConcepts]:
    """All sources and kinds; what is in the folder already is only read.

    Args:
        folder: of the stages.
        sources: of networks of the same classes.
        data: on whose validation images patterns are mined and judged; decoders learn from its training images.
        mining: how.
        drawing: how pictures are drawn; None: none are.
    """
    modes = drawing.modes if drawing is not None else ()
    total = len(sources) * (1 + 2 * bool(modes) + len(mining.kinds) * (1 + len(modes)))
    with progress_bar(transient=True) as bar:
        task = bar.add_task("", total=total, seen="")
        tell = partial(bar.update, task, advance=1)
        return _verify_concepts(folder, sources, data, mining, drawing, lambda text: tell(description=text))


def _verify_concepts(
    folder: Path,
    sources: list[Source],
    data: PartDataModule,
    mining: Mining,
    drawing: Drawing | None,
    step: Callable[[str], None],
) -> list[VerifiedConcepts]:
    images = spread_images(data, mining.images)
    questions, everything = [], []
    for source in sources:
        question = {**source.question, "mining": asdict(mining), "images": identity_of(images)}
        step(f"{source.name}: mining")
        stored = cached(
            folder / source.slug / "mined.npz",
            question,
            lambda s=source: mine_concepts(s, images, mining, background=data.background),
        )
        questions.append(question)
        everything.append({kind: units_in(stored, kind, mining) for kind in mining.kinds})
    verified = []
    for source, question, units_of in zip(sources, questions, everything, strict=True):
        place = folder / source.slug
        decoder: Upconvolution | None = None
        drawn: dict = question
        quality: dict[str, Estimate] = {}
        if drawing is not None:
            step(f"{source.name}: decoder")
            decoder = _decoder(source, data, drawing, place / "decoder")
            drawn = {**question, "decoder": fingerprint(decoder)}
            step(f"{source.name}: quality of the decoder")
            quality = _quality(
                cached(
                    place / "quality.npz", drawn, lambda s=source, d=decoder: _decoder_quality(s, d, images)
                )
            )
        for kind, units in units_of.items():
            if not units.concepts:
                continue
            step(f"{source.name}: measures of {kind}")
            measured = cached(
                place / f"{kind}-measures.npz",
                question,
                lambda s=source, u=units: _concept_measures(s, u, images, data),
            )
            pictures = {}
            for mode in drawing.modes if drawing is not None else ():
                assert decoder is not None  # who draws has one
                step(f"{source.name}: {kind}, {mode}")
                others = _witnesses(source, sources, [mined[kind] for mined in everything])
                pictures[mode] = cached(
                    place / f"{kind}-{mode}.npz",
                    {**drawn, "others": [other.question for other in sources]},
                    lambda s=source, u=units, d=decoder, m=mode, o=others: _verified_pictures(
                        s, u, d, images, m, o
                    ),
                )
            table = pd.read_json(StringIO(str(measured["table"])), orient="records", dtype=False)
            maps, effects = (torch.from_numpy(measured[name]) for name in ("maps", "effects"))
            verified.append(VerifiedConcepts(source, units, table, maps, effects, pictures, quality))
    return verified


def _decoder(source: Source, data: PartDataModule, drawing: Drawing, folder: Path) -> Upconvolution:
    """The decoder of a source: one that was trained before, or a new one."""
    for known in map(Path, drawing.decoders):
        decoder = decoder_in(known, source.network, data, layer=source.layer)
        if decoder is not None:
            return decoder
    return decoder_for(
        source.network,
        data,
        layer=source.layer,
        folder=folder,
        settings=drawing.decoder,
        trainer=dict(drawing.trainer or {}),
        label=f"decoder of {source.name}",
    )


def _witnesses(source: Source, sources: list[Source], units: list[Units]) -> dict[str, Witness]:
    """Of every other network its first source, with what was mined there."""
    first = {}
    for other, other_units in zip(sources, units, strict=True):
        if other.subject != source.subject:
            first.setdefault(
                other.subject, Witness(other.network, other.layer, other_units.rule, other_units.concepts)
            )
    return first


def _concept_measures(source: Source, units: Units, images: Subset, data: PartDataModule) -> dict:
    radius = (REACH + 0.5) * sum(value**2 for value in source.field.stride) ** 0.5  # to a window's corner
    table, maps = concept_measures(
        source.network,
        loader_of(images, units.judging),
        units.concepts,
        layer=source.layer,
        rule=units.rule,
        field=source.field,
        parts=data.parts,
        radius=radius,
    )
    few = [
        replace(concept, occurrences=concept.occurrences[:EFFECT_OCCURRENCES]) for concept in units.concepts
    ]
    effect, effect_of_others = causal_effects(
        source.network,
        pixels_of(images),
        few,
        layer=source.layer,
        rule=units.rule,
        generator=torch.Generator().manual_seed(0),
        reach=REACH,
    )
    owners = torch.tensor([number for number, concept in enumerate(few) for _ in concept.occurrences])
    effects = [
        [float(values[owners == number].mean()) for values in (effect, effect_of_others)]
        for number in range(len(few))
    ]
    return {
        "table": np.array(table.to_json(orient="records", double_precision=12)),
        "maps": maps.numpy(),
        "effects": np.array(effects),
    }


def _verified_pictures(
    source: Source, units: Units, decoder: nn.Module, images: Subset, mode: str, others: dict[str, Witness]
) -> dict:
    reconstructor = Reconstructor(
        source.network, decoder, source.layer, units.rule, reach=REACH, others=others
    )
    seen = reconstructor.verified(pixels_of(images), units.concepts, mode=mode)
    return {
        "concepts": seen.concepts.numpy(),
        "reactivation": seen.reactivated.numpy(),
        "control": seen.control.numpy(),
        "reciprocal_rank": seen.rank.reciprocal().numpy(),
        "own_class": seen.own_class.numpy(),
        "witnessed": seen.witnessed.numpy(),
        "witnessed_control": seen.witnessed_control.numpy(),
        "pictures": seen.pictures.numpy(),
        **{f"class_of.{name}": values.numpy() for name, values in seen.other_class.items()},
    }


def _decoder_quality(source: Source, decoder: Upconvolution, images: Subset) -> dict:
    scale = decoder.scale.flatten()
    quality = reconstruction_quality(
        source.network, decoder, loader_of(images), layer=source.layer, scale=scale
    )
    return {
        name: np.array([estimate.value, estimate.low, estimate.high, estimate.n])
        for name, estimate in quality.items()
    }


def _quality(stored: Arrays) -> dict[str, Estimate]:
    return {name: Estimate(*map(float, values[:3]), n=int(values[3])) for name, values in stored.items()}
