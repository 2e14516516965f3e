"""A run, measured."""

from contextlib import nullcontext
from dataclasses import replace

from torch import nn

from interp_cnn.evaluation.filters.comparison import NetworkMeasures, measure_network
from interp_cnn.evaluation.filters.observations import Readout
from interp_cnn.evaluation.filters.regions import RegionRule
from interp_cnn.model.interpretable_conv import TemplateMask, template_masks
from interp_cnn.runs.folder import Run
from interp_cnn.storage.progress import stage


def measure_run(
    run: Run,
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
    layer = run.layers[-1]
    data = run.data
    batches = data.val_dataloader()
    return measure_network(
        run.network,
        (replace(batch, part_masks=None) for batch in batches) if quick else batches,
        layer=layer,
        name=name or run.kind,
        kind=run.kind,
        classes=data.classes,
        parts=data.parts,
        image_size=data.image_size,
        background=data.background,
        readout=readout_of(run.network, layer, readout),
        filter_categories=run.filter_categories.get(layer),
        probes=not quick,
        regions=regions,
        resamples=resamples,
        seed=seed,
        stage=nullcontext if quick else stage,
    )


def readout_of(network: nn.Module, layer: str, name: str) -> Readout | None:
    """Where the maps of `layer` say that their parts are.

    "peak", at their maximum (None); "template", at the cell whose template fits best: a template of the layer's own
    steepness and distance, or the publication's where the layer has none.
    """
    if name == "peak":
        return None
    if name != "template":
        raise ValueError(f"readout is {name!r}; expected peak or template")
    return template_masks(network).get(layer, TemplateMask(1)).fitted_cells
