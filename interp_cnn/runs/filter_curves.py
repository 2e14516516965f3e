"""How steadily filters follow parts while a network learns: curves in TensorBoard, on the same images every epoch."""

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from interp_cnn.evaluation.filters.location_instability import location_instability
from interp_cnn.evaluation.filters.tracking import tracking_gain
from interp_cnn.explanation.network.feature_maps import feature_maps, peaks
from interp_cnn.explanation.receptive_field.field import receptive_field
from interp_cnn.training.boards import data_of, left_out_when_it_fails
from interp_cnn.training.classification import Classification

IMAGES = 200  # validation images, of all classes; fewer than the report measures on, so its numbers differ
BATCH = 50


class FilterCurves(Callback):
    """Location instability and tracking gain of the top masked layer, means over its filters, after every epoch.

    Where images have no landmarks there is no curve.
    """

    def __init__(self, images: int = IMAGES) -> None:
        self.count = images
        self.images = self.landmarks = torch.zeros(0)

    @left_out_when_it_fails
    def on_fit_start(self, trainer: Trainer, pl_module: Classification) -> None:
        """Chooses the images."""
        data = data_of(trainer)
        if not trainer.is_global_zero or not data.parts:
            return
        order = torch.as_tensor(data.val_set.labels).argsort(stable=True)
        places = order[torch.linspace(0, len(order) - 1, min(self.count, len(order))).long()].tolist()
        samples = [data.val_set[place] for place in places]
        self.landmarks = torch.stack([sample.landmarks for sample in samples])
        if self.landmarks.isfinite().any():
            self.images = torch.stack([sample.image for sample in samples])

    @left_out_when_it_fails
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Classification) -> None:
        """Measures the epoch."""
        if not len(self.images) or trainer.sanity_checking or trainer.logger is None:
            return
        measured = self.measured(pl_module, list(pl_module.masks)[-1])
        named = {f"filters/{name}": value for name, value in measured.items()}
        trainer.logger.log_metrics({**named, "epoch": trainer.current_epoch}, step=trainer.global_step)

    def measured(self, module: Classification, layer: str) -> dict[str, float]:
        """Means over the filters that can be judged; NaN where none can."""
        _, channels, height, width = self.images.shape
        field = receptive_field(module.network, layer, (height, width), channels)
        cells: list[Tensor] = []
        scores: list[Tensor] = []
        for images in self.images.split(BATCH):
            where, value = peaks(feature_maps(module.network, images.to(module.device), layer))
            cells.append(where.cpu())
            scores.append(value.float().cpu())
        positions, heights = field.centres(torch.cat(cells)), torch.cat(scores)
        diagonal = float(torch.tensor([height, width]).double().norm())
        judged = (positions, heights, self.landmarks)
        gain = tracking_gain(*judged, field.cell_centres(), diagonal=diagonal)
        return {
            "location_instability": float(location_instability(*judged, diagonal=diagonal).nanmean()),
            "tracking_gain": float(gain.nanmean()),
        }
