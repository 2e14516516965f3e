"""What TensorBoard shows of a network's answers to the validation images, and of all its filters at once.

Counts, not lists, are kept of an epoch's answers: K x K for the confusion matrix, and for each class how often its
probability lies in each of 101 bins, for true and for other images; a precision-recall curve is their sum from the
top. Counts of several processes add up, so that the curves are those of all images.
"""

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from interp_cnn import figures
from interp_cnn.training.boards import board_of, data_of, left_out_when_it_fails
from interp_cnn.training.classification import Classification

BINS = 101
CURVES = 12  # classes with a precision-recall curve: more cannot be looked through
_LINES = {
    "answers": {
        "accuracy": ["train/accuracy", "val/accuracy"],
        "task loss": ["train/task_loss", "val/task_loss"],
    },
    "filters": {
        **{
            name.replace("_", " "): [f"train/{name}.*", f"val/{name}.*"]
            for name in ("mutual_information", "category_entropy", "spatial_entropy")
        },
        "location instability": ["filters/location_instability"],  # of images with landmarks
        "tracking gain": ["filters/tracking_gain"],
    },
    "weight of the filter loss": {
        "weight": ["train/loss_weight.*"],
        "share of the gradient": ["train/gradient_ratio.*"],
    },
}
LAYOUT = {
    title: {name: ["Multiline", tags] for name, tags in charts.items()} for title, charts in _LINES.items()
}


class Answers(Callback):
    """Layout of the scalars, precision-recall curves, confusion matrix, distributions over the filters."""

    def __init__(self) -> None:
        self.confusion = self.bins = torch.zeros(0)
        self.terms: dict[str, Tensor] = {}
        self.images = 0

    @left_out_when_it_fails
    def on_fit_start(self, trainer: Trainer, pl_module: Classification) -> None:
        """Puts curves that belong together into one chart."""
        if trainer.is_global_zero:
            board_of(trainer).add_custom_scalars(LAYOUT)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Classification) -> None:
        """Counts anew."""
        classes = pl_module.num_classes
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.bins = torch.zeros(2, classes, BINS, dtype=torch.int64)
        self.terms, self.images = {}, 0

    @left_out_when_it_fails
    def on_validation_batch_end(self, trainer: Trainer, pl_module, outputs: dict, batch, *unused) -> None:
        """Counts a batch's answers."""
        labels = outputs["labels"].cpu()
        logits = outputs["logits"].detach().float().cpu()
        self.confusion += confusion_counts(logits.argmax(1), labels, len(self.confusion))
        self.bins += probability_counts(logits.softmax(1), labels)
        for tag, values in outputs["filters"].items():
            total = self.terms.setdefault(tag, torch.zeros(len(values)))
            if len(labels):
                total += values.detach().float().cpu() * len(labels)
        self.images += len(labels)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Classification) -> None:
        """Adds this epoch's curves and distributions."""
        if trainer.sanity_checking:
            return
        images = torch.tensor(self.images)
        for counts in (self.confusion, self.bins, images, *self.terms.values()):
            counts.copy_(trainer.strategy.reduce(counts.to(pl_module.device), reduce_op="sum").cpu())
        if trainer.is_global_zero:
            self._add_epoch(trainer, images)

    @left_out_when_it_fails
    def _add_epoch(self, trainer: Trainer, images: Tensor) -> None:
        board, epoch = board_of(trainer), trainer.current_epoch + 1
        for tag, values in self.terms.items():
            board.add_histogram(f"filters/{tag}", values / images, epoch)
        for number, name in enumerate(data_of(trainer).classes[:CURVES]):
            add_curve(board, f"class/{name}", self.bins[:, number], epoch)

    @left_out_when_it_fails
    def on_fit_end(self, trainer: Trainer, pl_module: Classification) -> None:
        """Adds the confusion matrix of the last epoch."""
        if not trainer.is_global_zero or not len(self.confusion):
            return
        picture = figures.confusion_matrix(self.confusion, data_of(trainer).classes)
        board_of(trainer).add_image("confusion", picture, trainer.current_epoch, dataformats="HWC")


def confusion_counts(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(K, K) int64: rows are the labels (B,), columns the answers (B,)."""
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, classes)


def probability_counts(probabilities: Tensor, labels: Tensor) -> Tensor:
    """(2, K, BINS) int64: how many probabilities (B, K) lie in each bin, of other images and of the class's own."""
    bins = (probabilities.nan_to_num(0).clamp(0, 1) * (BINS - 1)).long()  # (B, K)
    is_class = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    counts = torch.zeros(2 * probabilities.shape[1] * BINS, dtype=torch.int64)
    columns = torch.arange(probabilities.shape[1])
    places = ((is_class * probabilities.shape[1] + columns) * BINS + bins).flatten()
    return counts.scatter_add_(0, places, torch.ones_like(places)).view(2, -1, BINS)


def add_curve(board, tag: str, bins: Tensor, epoch: int) -> None:
    """A precision-recall curve from the counts (2, BINS) of one class."""
    false, true = (counts.flip(0).cumsum(0).flip(0) for counts in bins)
    missed, rejected = true[0] - true, false[0] - false
    precision = true / (true + false).clamp(min=1)
    recall = true / true[0].clamp(min=1)
    columns = (true, false, rejected, missed, precision, recall)
    board.add_pr_curve_raw(tag, *(column.numpy() for column in columns), epoch, num_thresholds=BINS)
