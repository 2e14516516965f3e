"""What TensorBoard shows beside the curves: where the filters look, epoch after epoch, on the same images.

The tags do not name the kind of network, so the runs of a comparison overlay.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional

from interp_cnn import figures
from interp_cnn.model.interpretable_conv import TemplateMask, kept_feature_maps
from interp_cnn.training.boards import board_of, data_of, left_out_when_it_fails
from interp_cnn.training.classification import Classification

MAPS_IN_TIME = 4  # how often in a training maps are drawn, beside the first epoch: they cost a second each
LABELLED = 56  # pixels that a column needs for its words
SPRITE = 48  # pixels of a filter's picture in the projector
FINAL = "whole_run"  # single numbers, for the table of hyperparameters; their name puts them below all curves
MEASURED_LATER = (
    f"{FINAL}/location_instability",
    f"{FINAL}/tracking_gain",
)  # by `compare`; until then not a number


Strongest = Callable[[nn.Module, Iterable, str], Tensor]


class Dashboard(Callback):
    """Mask grids, maps over epochs, the filters in the projector, hyperparameters and a text card.

    Args:
        kind: of network, for the card.
        maps: name -> (network, images (B, C, H, W), classes (B,)) -> maps (B, H, W) over the same images.
        strongest: (network, loader, layer) -> (D, C, H, W) the strongest image of each filter, for the projector.
        images: how many validation images are shown, spread over the classes.
        filters: how many filters of each layer, spread over the layer.
    """

    def __init__(
        self,
        kind: str,
        *,
        maps: Mapping[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] | None = None,
        strongest: Strongest | None = None,
        images: int = 8,
        filters: int = 8,
    ):
        self.kind = kind
        self.maps = dict(maps or {})
        self.strongest = strongest
        self.images = images
        self.filters = filters
        self.fixed = self.labels = torch.zeros(0)  # chosen by the first process

    @left_out_when_it_fails
    def on_fit_start(self, trainer: Trainer, pl_module: Classification) -> None:
        """Chooses the images and writes the card."""
        if not trainer.is_global_zero:
            return
        val_set = data_of(trainer).val_set
        labels = torch.as_tensor(val_set.labels)
        order = torch.argsort(labels, stable=True)
        chosen = order[torch.linspace(0, len(order) - 1, min(self.images, len(order))).long()]
        self.fixed = torch.stack([val_set[int(index)].image for index in chosen])
        self.labels = labels[chosen]
        classes = ", ".join(data_of(trainer).classes)
        layers = ", ".join(pl_module.masks)
        board_of(trainer).add_text(
            "run", f"**{self.kind}** network, layers {layers}; classes: {classes}", trainer.current_epoch
        )

    @left_out_when_it_fails
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Classification) -> None:
        """Adds the grids of this epoch."""
        if not len(self.fixed) or trainer.sanity_checking:
            return
        self._add_masks(trainer, pl_module)
        assert trainer.max_epochs is not None  # `fit` gives it
        turn = max(1, trainer.max_epochs // MAPS_IN_TIME)
        if trainer.current_epoch == 0 or (trainer.current_epoch + 1) % turn == 0:
            self._add_maps(trainer, pl_module)

    @left_out_when_it_fails
    def _add_masks(self, trainer: Trainer, pl_module: Classification) -> None:
        for layer, mask in pl_module.masks.items():
            maps = _maps(pl_module, layer, self.fixed.to(pl_module.device))
            count = min(self.filters, maps.shape[1])
            chosen = torch.linspace(0, maps.shape[1] - 1, count).long()
            words = [f"filter {number}" for number in chosen.tolist()]
            picture = mask_grid(self.fixed, _light(maps, mask, chosen), words)
            board_of(trainer).add_image(
                f"masks/{layer}", picture, trainer.current_epoch + 1, dataformats="HWC"
            )

    @left_out_when_it_fails
    def _add_maps(self, trainer: Trainer, pl_module: Classification) -> None:
        for name, explain in self.maps.items():
            few, labels = self.fixed[::2], self.labels[::2].to(pl_module.device)
            images = few.to(pl_module.device)
            relevance = explain(pl_module.network, images, labels).float().cpu()
            board_of(trainer).add_image(
                f"maps/{name}", map_grid(few, relevance), trainer.current_epoch + 1, dataformats="HWC"
            )

    @left_out_when_it_fails
    def on_fit_end(self, trainer: Trainer, pl_module: Classification) -> None:
        """The filters in the projector; hyperparameters with the final measures."""
        if not trainer.is_global_zero:
            return
        if self.strongest is not None:
            self._add_filters(
                trainer, pl_module, self.strongest
            )  # the hyperparameters follow, also where it fails
        measures = dict.fromkeys(MEASURED_LATER, math.nan) | {
            f"{FINAL}/{name.removeprefix('val/')}": float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        weight = pl_module.loss_weight
        settings = {
            "kind": self.kind,
            "ratio": weight.ratio,
            "schedule": weight.schedule,
            "learning_rate": pl_module.learning_rate,
            "weight_decay": pl_module.weight_decay,
            "epochs": trainer.max_epochs,
        }
        board_of(trainer).add_hparams(settings, measures, run_name=".", global_step=trainer.current_epoch)

    @left_out_when_it_fails
    def _add_filters(self, trainer: Trainer, module: Classification, strongest: Strongest) -> None:
        """Each filter as a point, by how strongly it answers each class; its strongest image is its picture."""
        for layer in module.masks:
            loss = module.filter_loss(layer)
            responses = loss.categories.response.detach().float().cpu()  # (D, K)
            categories = loss.categories.assigned.tolist()
            names = [data_of(trainer).classes[number] for number in categories]
            images = strongest(module.network, data_of(trainer).val_dataloader(), layer)
            images = functional.interpolate(images, size=(SPRITE, SPRITE), mode="bilinear")
            images = images.expand(-1, 3, -1, -1)
            board_of(trainer).add_embedding(
                functional.normalize(responses),
                metadata=[[str(number), name] for number, name in enumerate(names)],
                metadata_header=["filter", "category"],
                label_img=images,
                global_step=trainer.current_epoch,
                tag=f"filters_{layer}",
            )
            picture = figures.montage([figures.to_rgb(image) for image in images])
            board_of(trainer).add_image(
                f"exemplars/{layer}", picture, trainer.current_epoch, dataformats="HWC"
            )


def add_measures(folder: Path, measures: Mapping[str, float], *, step: int, verdict: str = "") -> None:
    """What was measured after the training, into the same run's hyperparameter table; a verdict in words as a card.

    Of a run whose logger was not TensorBoard nothing is written.
    """
    if not any(folder.glob("events.out.tfevents.*")):
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as board:
        if verdict:
            board.add_text("verdict", verdict, step)
        for name, value in measures.items():
            board.add_scalar(f"{FINAL}/{name}", value, step)


def map_grid(images: Tensor, maps: Tensor):
    """Images (N, C, H, W) in one row, each with its map (N, H, W) below: green supports, red opposes."""
    rows = [figures.to_rgb(image) for image in images]
    for row, values in zip(list(rows), maps.numpy(), strict=True):
        limits = figures.common_limits([values], colours="green-red")
        rows.append(figures.overlay(row, values, limits=limits, colours="green-red", smooth=False))
    return figures.montage(rows, columns=len(images))


def mask_grid(images: Tensor, light: Tensor, words: Sequence[str]):
    """Images (N, C, H, W) under masks (N, D, h, w) in [0, 1]: RGB, a row per image, a column per filter.

    What a filter lets through is bright; the first column is the image itself. `words` (D) stand below the columns.
    """
    size = images.shape[2:]
    bright = functional.interpolate(light, size=size, mode="bilinear").clamp(0, 1)
    rows = []
    for image, masks in zip(images, bright, strict=True):
        rows += [figures.to_rgb(image), *(figures.to_rgb(image * (0.2 + 0.8 * mask)) for mask in masks)]
    columns = light.shape[1] + 1
    strips = [figures.montage(rows[place::columns], columns=1) for place in range(columns)]
    strips = [figures.enlarge(strip, max(1, -(-LABELLED // strip.shape[1]))) for strip in strips]
    return figures.contact_sheet(strips, ["image", *words], columns=columns)


@torch.no_grad()
def _maps(module: Classification, layer: str, images: Tensor) -> Tensor:
    was_training = module.training
    module.eval()
    try:
        with kept_feature_maps(module.network) as maps:
            module.network(images)
            kept = maps[layer]
    finally:
        module.train(was_training)
    return kept.float().cpu()


def _light(maps: Tensor, mask: TemplateMask, chosen: Tensor) -> Tensor:
    """Of the chosen filters the masks where the network has them, else the maps as a share of their maximum."""
    shown = maps[:, chosen]
    peak = shown.amax((2, 3), keepdim=True)
    if not mask.enabled:
        return shown / peak.clamp(min=1e-12)
    positions = mask.positions(maps.to(mask.beta.device))
    masks = mask.masks_at(positions, *maps.shape[2:])
    return masks[:, chosen].cpu() * (peak > 0)
