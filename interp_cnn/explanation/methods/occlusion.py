"""The ways to ask by hiding pixels, as methods of `methods.METHODS`.

    occlusion              one window after the other, exact; several sizes are averaged per pixel of the window
    occlusion_window_0.1   the same with a window of this size alone
    occlusion_refined      from coarse to fine: small windows only where large ones matter, with a bound on the rest
    occlusion_class        which class the image becomes
    occlusion_pairs        what a window does together with the most important one that it does not do alone
    occlusion_random       several windows at once, at random
    rise                   smooth random masks

What they share (windows, fill) and what each can be asked is in `options`.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from interp_cnn.explanation.methods.method import Method, MethodResult, with_sums
from interp_cnn.explanation.methods.options import Options, each_window, occluder_of, window_of
from interp_cnn.explanation.network.contrast import LogitDifferences
from interp_cnn.explanation.occlusion.job import OcclusionJob
from interp_cnn.explanation.occlusion.maps import becomes_class
from interp_cnn.explanation.occlusion.masks import MaskSource, random_windows, rise_masks
from interp_cnn.explanation.occlusion.pairs import pair_interactions
from interp_cnn.explanation.occlusion.refinement import refined_drops
from interp_cnn.explanation.occlusion.sampling import SampledOcclusion
from interp_cnn.explanation.occlusion.windows import map_of_drops, window_grid

UNITS = {
    "mean_drop": "logit drop",
    "contribution": "logit drop per pixel of the window",
    "additive": "share of the logit drops",
}
MEANINGS = {
    "mean_drop": "how far the logit falls, on average, when a window over the pixel is hidden",
    "contribution": "how far the logit falls when a window over the pixel is hidden, divided by the window's pixels",
    "additive": "shares of the logit drops that add up, in every window, to that window's drop as well as possible",
}


def occlusion_job(network: nn.Module, images: Tensor, options: Options) -> OcclusionJob:
    """The job that these options, of one window, ask for; nothing is computed yet but the plan."""
    window, stride = window_of(options, (images.shape[2], images.shape[3]))
    return OcclusionJob(
        network,
        images,
        window=window,
        stride=stride,
        fill=occluder_of(images, options),
        overhang=options.occlusion.overhang,
        precision=options.occlusion.precision,
    )


def occlusion(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
    """Maps of every window size, averaged; their sums are those of the drops per pixel of the window."""
    maps, sums, passes = [], [], 0.0
    for window_options in each_window(options):
        job = _done(occlusion_job(network, images, window_options))
        target_drops = _own(job.drops, targets)
        maps.append(map_of_drops(job.grid, target_drops, unit_of(options)))
        sums.append(map_of_drops(job.grid, target_drops, "contribution").double().sum((1, 2)))
        passes += _passes(job)
    return MethodResult(torch.stack(maps).mean(0), torch.stack(sums).mean(0), passes)


def unit_of(options: Options) -> str:
    """The unit of occlusion maps; several sizes can only be compared per pixel of the window."""
    several = len(each_window(options)) > 1
    return options.occlusion.unit or ("contribution" if several else "mean_drop")


def window_method(method: Method, options: Options, window: int | float | None = None) -> Method:
    """The method `occlusion` in the unit that the options ask for, of one window size if it is given."""
    unit = unit_of(options)
    in_unit = replace(method, unit=UNITS[unit], meaning=MEANINGS[unit])
    if window is None:
        return in_unit
    sizes = each_window(options)
    stride = next(
        (window_options.stride for window_options in sizes if window_options.window == window),
        sizes[0].stride,
    )

    def alone(given: Options) -> Options:
        occlusion_options = replace(given.occlusion, unit=unit)
        return replace(given, window=window, stride=stride, occlusion=occlusion_options)

    return replace(
        in_unit,
        maps=lambda network, images, targets, given: occlusion(network, images, targets, alone(given)),
        cost=lambda size, given: windows_of(size, alone(given)),
        worth=lambda network, images, given: worth(network, images, alone(given)),
    )


def windows_of(size: tuple[int, int], options: Options) -> float:
    """How many windows hide an image."""
    overhang = options.occlusion.overhang
    return float(
        sum(
            len(window_grid(size, *window_of(window_options, size), overhang))
            for window_options in each_window(options)
        )
    )


def _refined(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
    size, window_options, how = (images.shape[2], images.shape[3]), each_window(options)[0], options.occlusion
    window, stride = window_of(window_options, size)
    refined = refined_drops(
        network,
        images,
        targets,
        window=window,
        stride=stride,
        fill=occluder_of(images, options),
        levels=how.levels,
        matters=how.matters,
        audit=how.audit,
        generator=torch.Generator().manual_seed(options.seed),
    )
    grid = window_grid(size, window, stride)
    notes = [
        f"{computed} windows of several sizes computed instead of {len(grid)}; with {refined.confidence:.0%} "
        f"confidence at most {share:.0%} of the windows that were estimated err by more than {error:.2g}"
        for computed, error, share in zip(
            refined.computed.tolist(), refined.error.tolist(), refined.share.tolist(), strict=True
        )
    ]
    passes = worth(network, images, window_options) * float(refined.computed.sum()) / len(grid)
    return with_sums(map_of_drops(grid, refined.drops), tuple(notes), passes)


def _becomes(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
    """Numbers of the classes that the mean logits of the windows over each pixel make the image."""
    if isinstance(network, LogitDifferences):
        raise ValueError("occlusion_class shows which class wins, not a difference of two; leave out against")
    job = _done(occlusion_job(network, images, each_window(options)[0]))
    turned = becomes_class(job.logits, job.drops)
    maps = []
    for logits, drops, cells in zip(job.logits, job.drops, turned, strict=True):
        classes = torch.cat([cells.unique(), logits.argmax()[None]]).unique()
        left = logits[classes, None, None] - map_of_drops(job.grid, drops[classes])
        maps.append(classes[left.argmax(0)])
    return with_sums(torch.stack(maps).to(images), passes=_passes(job))


def _pairs(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
    """Interaction with the window whose drop is largest; windows that overlap it share pixels and are left at 0."""
    job = _done(occlusion_job(network, images, each_window(options)[0]))
    target_drops, grid = _own(job.drops, targets), job.grid
    maps, notes = [], []
    for index, drops in enumerate(target_drops):
        row, column = divmod(int(drops.argmax()), drops.shape[1])
        image = images[index : index + 1]
        together = pair_interactions(
            network,
            image,
            [(row, column)],
            window=grid.size,
            stride=grid.stride,
            fill=occluder_of(image, options),
            overhang=options.occlusion.overhang,
        )[0, targets[index], 0]
        clear = ~_meet(grid.rows, row)[:, None] | ~_meet(grid.columns, column)
        maps.append(map_of_drops(grid, (together * clear.to(together))[None])[0])
        (top, bottom), (left, right) = grid.rows[row], grid.columns[column]
        notes.append(
            f"together with the window over rows {top} to {bottom - 1}, columns {left} to {right - 1}, which "
            f"lowers the logit most, by {float(drops[row, column]):.3g}"
        )
    return with_sums(torch.stack(maps), tuple(notes), 3 * _passes(job))


def _sampled(
    network: nn.Module, images: Tensor, targets: Tensor, options: Options, masks: MaskSource
) -> MethodResult:
    how = options.occlusion
    job = SampledOcclusion(
        network,
        images,
        targets,
        masks=masks,
        fill=occluder_of(images, options),
        generator=torch.Generator().manual_seed(options.seed),
    )
    for _ in job.run(how.samples, tolerance=how.tolerance):
        pass
    errors = job.standard_error().flatten(1).median(1).values
    notes = [
        f"{number} masks, standard error {error:.2g} (median)"
        for number, error in zip(job.samples.tolist(), errors.tolist(), strict=True)
    ]
    return with_sums(job.map(), tuple(notes))


def _random(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
    size = (images.shape[2], images.shape[3])
    window, _ = window_of(each_window(options)[0], size)
    masks = random_windows(size, window=window, number=options.occlusion.occluders)
    return _sampled(network, images, targets, options, masks)


def _rise(network: nn.Module, images: Tensor, targets: Tensor, options: Options) -> MethodResult:
    how = options.occlusion
    masks = rise_masks((images.shape[2], images.shape[3]), cells=how.cells, shown=how.shown)
    return _sampled(network, images, targets, options, masks)


def worth(network: nn.Module, images: Tensor, options: Options) -> float:
    """Forward passes that the windows of an image are worth, by the plan of what has to be computed."""
    return sum(
        _passes(occlusion_job(network, images[:1], window_options)) for window_options in each_window(options)
    )


def _first_worth(network: nn.Module, images: Tensor, options: Options) -> float:
    return worth(network, images, each_window(options)[0])


def _samples(size: tuple[int, int], options: Options) -> float:
    return float(options.occlusion.samples)


def _first_windows(size: tuple[int, int], options: Options) -> float:
    return windows_of(size, each_window(options)[0])


def _done(job: OcclusionJob) -> OcclusionJob:
    for _ in job.run():
        pass
    return job


def _own(drops: Tensor, targets: Tensor) -> Tensor:
    """(B, rows, columns) of the targets."""
    return drops[torch.arange(len(drops)), targets.to(drops.device)]


def _passes(job: OcclusionJob) -> float:
    """Forward passes that the job was worth."""
    cost = job.cost()
    return float(cost.forward_passes if cost.forward_equivalents is None else cost.forward_equivalents)


def _meet(intervals: tuple[tuple[int, int], ...], chosen: int) -> Tensor:
    """Which intervals share a pixel with one of them."""
    start, stop = intervals[chosen]
    return torch.tensor([first < stop and start < last for first, last in intervals])


OCCLUSION_METHODS = {
    "occlusion_refined": Method(
        _refined,
        "how far the logit falls, on average, when a window over the pixel is hidden; small windows are computed only "
        "where large ones matter",
        "logit drop",
        cost=lambda size, options: 0.5 * _first_windows(size, options),
        worth=lambda network, images, options: 0.5 * _first_worth(network, images, options),
        cells="",
    ),
    "occlusion_class": Method(
        _becomes,
        "which class the image becomes when windows over the pixel are hidden",
        "class",
        signed=False,
        cost=_first_windows,
        worth=_first_worth,
        cells="",
        classes=True,
    ),
    "occlusion_pairs": Method(
        _pairs,
        "what hiding a window over the pixel does beyond its own drop while the most important window is hidden too: "
        "above zero one of the two is enough, below zero each needs the other",
        "logit drop of both beyond those of each",
        cost=lambda size, options: 3 * _first_windows(size, options),
        worth=lambda network, images, options: 3 * _first_worth(network, images, options),
        cells="",
    ),
    "occlusion_random": Method(
        _random,
        "how much further the logit falls where random windows, several at once, hide the pixel than where they "
        "show it",
        "logit drop",
        cost=_samples,
        cells="",
    ),
    "rise": Method(
        _rise,
        "how much further the logit falls where smooth random masks hide the pixel than where they show it",
        "logit drop",
        cost=_samples,
        cells="",
    ),
}
