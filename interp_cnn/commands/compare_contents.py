"""What a report shows of trained networks: their filters, their answers, sample images with the maps of every method.

The networks of a comparison see the same images, and are asked about the same classes.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from interp_cnn.attribution.folder import Explanations
from interp_cnn.attribution.request import MapSettings
from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.decisions.sheet import Asked, decisions_about
from interp_cnn.evaluation.filters.comparison import NetworkMeasures
from interp_cnn.explanation.filters.exemplars import Exemplars, exemplars
from interp_cnn.explanation.filters.occlusion import filter_occlusion
from interp_cnn.explanation.methods.options import Options, occluder_of, window_of
from interp_cnn.explanation.network.feature_maps import feature_maps
from interp_cnn.explanation.network.placement import device_of
from interp_cnn.exports.card import DESCRIPTIONS
from interp_cnn.model.interpretable_conv import kept_feature_maps, template_masks
from interp_cnn.report import FilterPair, Network, SampleImage, Sights
from interp_cnn.report.comparison.contents import Mistaken, OnPart
from interp_cnn.report.comparison.filters import class_name
from interp_cnn.report.comparison.pair import middle_filters
from interp_cnn.report.folder import GENERATOR
from interp_cnn.report.maps.records import read_maps, read_record
from interp_cnn.runs.decoders import DecoderSettings, decoder_for
from interp_cnn.runs.folder import Run
from interp_cnn.runs.inputs import InputPicture, run_subject, set_pictures, spread

BATCH = 64
MOST_MISTAKEN = 240  # pictures of images that a network gets wrong
COARSE = Options(window=0.2, stride=0.1)  # of the occlusion of filters: every filter has its own map


def portrait(run: Run, measured: NetworkMeasures, *, decoder: DecoderSettings | None = None) -> Network:
    """A measured run as the report shows it; with settings of a decoder also what it draws of each filter."""
    layer = run.layers[-1]
    strongest = exemplars(run.network, run.data.val_dataloader(), layer=layer)
    decodes = None
    if decoder is not None:
        where = {"layer": layer, "folder": run.folder / "decoder", "label": f"decoder of {run.kind}"}
        trained = decoder_for(run.network, run.data, settings=decoder, **where)
        decodes = filter_decodes(run.network, trained, strongest)
    return Network(
        name=run.kind,
        layer=layer,
        parameters=sum(p.numel() for p in run.network.parameters()),
        summary=measured.summary,
        filters=measured.filters,
        exemplars=strongest,
        description=DESCRIPTIONS.get(run.kind, ""),
        sights=Sights(
            masks=filter_masks(run.network, strongest),
            occlusion=_filter_occlusion(run.network, strongest),
            decodes=decodes,
        ),
        confusion=confusion(measured, len(run.data.classes)),
        configuration=run.configuration,
    )


def confusion(measured: NetworkMeasures, classes: int) -> np.ndarray:
    """(K, K) counts, rows the images' classes, columns the answers."""
    observed = measured.observations
    places = observed.labels * classes + observed.predictions
    return torch.bincount(places, minlength=classes**2).view(classes, classes).numpy()


@torch.no_grad()
def filter_masks(network: nn.Module, strongest: Exemplars) -> Tensor | None:
    """What each filter's mask lets through on each of its exemplars, (D, N, h, w); None without masks."""
    mask = template_masks(network)[strongest.layer]
    if not mask.enabled:
        return None
    numbers = sorted(strongest.images)
    cells = torch.zeros(max(numbers, default=0) + 1, len(strongest), dtype=torch.long)
    height, width = strongest.maps.shape[2:]
    with kept_feature_maps(network) as maps:
        for part, images in _batches(strongest, numbers):
            network(images.to(device_of(network)))
            cells[part] = mask.positions(maps[strongest.layer]).cpu()
    positions = cells[strongest.image_numbers.clamp(min=0), torch.arange(len(strongest))[:, None]]  # (D, N)
    return mask.masks_at(positions.T.to(mask.beta.device), height, width).transpose(0, 1).cpu()


@torch.no_grad()
def filter_decodes(network: nn.Module, decoder: nn.Module, strongest: Exemplars) -> Tensor:
    """What a decoder draws from each filter's map on its strongest image alone, (D, C, H, W) in [0, 1]."""
    pictures = torch.zeros(len(strongest), *strongest.mean_image.shape)
    first = strongest.image_numbers[:, 0]
    for part, images in _batches(strongest, first[first >= 0].unique().tolist()):
        maps = feature_maps(network, images.to(device_of(network)), strongest.layer)
        for number, of_image in zip(part, maps, strict=True):
            filters = (first == number).nonzero().flatten()
            alone = of_image.new_zeros(len(filters), *of_image.shape)
            alone[torch.arange(len(filters)), filters] = of_image[filters]
            pictures[filters] = decoder(alone).cpu()
    return pictures


def sample_images(
    runs: Sequence[Run],
    networks: Sequence[Network],
    folder: Path,
    *,
    pictures: Sequence[InputPicture],
    settings: MapSettings,
) -> list[SampleImage]:
    """Validation images with every method's map of every network, and why each decides as it does.

    Args:
        runs: of one data set.
        networks: their portraits.
        folder: of the maps; those that are there already are not made again.
        pictures: the images.
        settings: methods, options and target.
    """
    images = torch.stack([picture.pixels() for picture in pictures])
    maps = Explanations(
        folder, [run_subject(run) for run in runs], settings, device=device_of(runs[0].network)
    )
    maps.add(pictures)
    peaks = {
        run.kind: feature_maps(run.network, images.to(maps.device), run.layers[-1]).amax((2, 3)).cpu()
        for run in runs
    }
    subjects = [asked_about(run, network) for run, network in zip(runs, networks, strict=True)]
    samples: list[SampleImage] = []
    for place, name in enumerate(maps.names):
        record = read_record(folder / "images" / name)
        assert record is not None  # it was written just now
        heights = {kind: of_images[place].numpy() for kind, of_images in peaks.items()}
        samples.append(
            SampleImage(
                record,
                images[place].numpy(),
                read_maps(folder / "images" / name),
                heights,
                decisions_about(subjects, images[place], pictures[place].label),
            )
        )
    return samples


def contested_first(data: PartDataModule, predictions: Sequence[Tensor], count: int) -> list[InputPicture]:
    """Validation images to look at: at most half of them are such that a network is wrong, or the networks disagree;
    these come first, others from all classes in turn.

    Args:
        data: whose images they are.
        predictions: of each network, (N,) classes.
        count: of images.
    """
    pictures = set_pictures(data)
    labels = data.val_set.labels
    contested = torch.stack([predicted != labels for predicted in predictions]).any(0).tolist()
    wrong = [picture for picture, it in zip(pictures, contested, strict=True) if it]
    first = spread(wrong, count // 2) if wrong and count > 1 else []
    right = [picture for picture, it in zip(pictures, contested, strict=True) if not it]
    left = count - len(first)
    rest = spread(right, left) if right else []
    return [*first, *rest, *(it for it in wrong if it not in first)][:count]


def mistaken(data: PartDataModule, predictions: Tensor) -> list[Mistaken]:
    """The validation images that a network, with these answers (N,), got wrong."""
    pictures = set_pictures(data)
    places = (predictions != data.val_set.labels).nonzero().flatten().tolist()
    return [
        Mistaken(picture.name, picture.label, data.classes[int(predictions[place])], picture.pixels().numpy())
        for place in places[:MOST_MISTAKEN]
        for picture in [pictures[place]]
    ]


def asked_about(run: Run, network: Network) -> Asked:
    """A run's network with its filters' exemplars, to be asked for decisions."""
    return Asked(network.name, run.network, run.data.classes, network.exemplars)


def filter_pair(
    runs: Sequence[Run], networks: Sequence[Network], measures: Sequence[NetworkMeasures], *, count: int = 6
) -> FilterPair | None:
    """Middling filters of both networks on the first validation images of the class that both fire for."""
    data = runs[0].data
    chosen = middle_filters(networks, data.classes)
    if chosen is None:
        return None
    places = (data.val_set.labels == chosen.category).nonzero().flatten().tolist()[:count]
    if not places:
        return None
    samples = [data.val_set[place] for place in places]
    images = torch.stack([sample.image for sample in samples])
    masks = [sample.part_masks for sample in samples if sample.part_masks is not None]
    maps, on_parts = {}, {}
    for run, network, measured, row in zip(runs, networks, measures, chosen.rows, strict=False):
        of_filter = feature_maps(run.network, images.to(device_of(run.network)), network.layer)[:, row]
        maps[network.name] = of_filter.cpu().numpy()
        regions = measured.regions
        if regions is None or len(masks) < len(samples) or chosen.ranking != "part_interpretability":
            continue
        part, part_masks = int(regions.part[row]), torch.stack(masks)
        seen, overlaps = regions.look(of_filter, part_masks, row)
        name = data.parts[part].replace("_", " ")
        seen, marked = seen.cpu().numpy(), part_masks[:, part].numpy()
        on_parts[network.name] = OnPart(name, seen, marked, overlaps, regions.iou)
    numbers = {
        network.name: int(network.filters["filter"].iloc[row])
        for network, row in zip(networks, chosen.rows, strict=False)
    }
    standings = dict(zip((network.name for network in networks), chosen.standings, strict=False))
    category = class_name(chosen.category, data.classes)
    return FilterPair(category, images.numpy(), numbers, maps, standings, chosen.ranking, on_parts)


def training_curves(run: Run) -> pd.DataFrame:
    """metrics.csv in long form: epoch, split, quantity, value, network."""
    table = pd.read_csv(run.folder / "metrics.csv")
    long = table.melt(id_vars="epoch", var_name="tag").dropna(subset="value")
    parts = long["tag"].str.split("/", n=1, expand=True)
    long = long.assign(split=parts[0], quantity=parts[1].str.replace("_", " "), network=run.kind)
    return long[["epoch", "split", "quantity", "value", "network"]]


def further_commands(folder: Path) -> dict[str, str]:
    """What shows more of the networks in a folder, as it is typed where this command was."""
    place = shlex.quote(os.path.relpath(folder))
    explain = f"interp-cnn explain {place}"
    return {
        "Paint over images, switch filters off, see what changes": f"interp-cnn play {place}",
        "A page of questions: can you tell a filter's patches from others'?": f"{explain} what=naming",
        "Pictures optimised for filters, and what networks see in them": f"{explain} what=feature_visualisation",
        "What changes a filter: the smallest edit that silences it, the patch that excites it": f"{explain} what=edits",
        "Patterns that layers stand for: mined, drawn, looked for again": f"{explain} what=patterns,reconstructions",
        "Maps of every validation image": explain,
        "Filters, maps and networks as files": f"interp-cnn export {place}",
    }


def pages_beside(report: Path) -> dict[str, str]:
    """Other pages of ours in the folder that the report lies in, by name: title -> address from the report."""
    pages = {}
    for page in sorted(report.parent.glob("**/index.html")):
        folder = page.parent.relative_to(report.parent)
        inside = {"report", "images"} & set(folder.parts)  # an image's page is reached from its first page
        if not inside and len(folder.parts) <= 3 and GENERATOR in page.read_text("utf-8")[:1000]:
            pages[" ".join(folder.parts).replace("_", " ").capitalize()] = (
                f"../{folder.as_posix()}/index.html"
            )
    return pages


def _batches(strongest: Exemplars, numbers: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers of exemplar images with their pixels (B, C, H, W) in [0, 1]."""
    for start in range(0, len(numbers), BATCH):
        part = list(numbers[start : start + BATCH])
        yield part, torch.stack([strongest.images[number].float() / 255 for number in part])


def _filter_occlusion(network: nn.Module, strongest: Exemplars) -> Tensor:
    _, height, width = strongest.mean_image.shape
    window, stride = window_of(COARSE, (height, width))
    return filter_occlusion(
        network, strongest, window=window, stride=stride, fill=lambda images: occluder_of(images, COARSE)
    )
