"""A run, measured."""

from dataclasses import replace

from interp_cnn.evaluation.filters.comparison import NetworkMeasures, measure_network
from interp_cnn.evaluation.filters.regions import RegionRule
from interp_cnn.runs.folder import Run


def measure_run(
    found: Run,
    *,
    resamples: int,
    seed: int,
    name: str | None = None,
    readout: str = "peak",
    regions: RegionRule | None = None,
    quick: bool = False,
) -> NetworkMeasures:
    """All measures of a run's top interpretable layer on its validation images; `quick` leaves out views, noise and
    masks, a third of the work.
    """
    layer = found.layers[-1]
    data = found.data
    batches = data.val_dataloader()
    return measure_network(
        found.network,
        (replace(batch, part_masks=None) for batch in batches) if quick else batches,
        layer=layer,
        name=name or found.kind,
        kind=found.kind,
        classes=data.classes,
        parts=data.parts,
        image_size=tuple(data.image_size),
        background=data.background,
        readout=readout,
        filter_categories=found.filter_categories.get(layer),
        probes=not quick,
        regions=regions,
        resamples=resamples,
        seed=seed,
    )
