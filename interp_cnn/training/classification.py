"""Training a classifier with interpretable layers: task loss plus the weighted filter losses.

The same module trains the interpretable network, its plain twin and the two ablations; they differ in the switch
of the masks and in the ratio of the filter loss:

    model            mask   ratio and equivariance
    interpretable    on     > 0
    mask_only        on     0
    loss_only        off    > 0
    plain            off    0

With `deleted_patches` some of the images of a step lose one of their 4 x 4 patches (`deleted_patches`). With two views
the second is a random view of the first (`equivariance`): another image for the task, for every model alike, and with
a weight for the position of each filter. With `presence` filters are dealt out evenly among the classes (`presence`).
Tags are `<split>/<quantity>`, the same for all, so that runs overlay in TensorBoard.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from interp_cnn.model.auxiliary_loss import AuxiliaryLoss
from interp_cnn.model.distributed import world_size
from interp_cnn.model.filter_loss import FilterLoss
from interp_cnn.model.interpretable_conv import kept_feature_maps, template_masks
from interp_cnn.model.layer_shapes import layer_shapes
from interp_cnn.model.shared_norms import share_batch_norms
from interp_cnn.model.templates import position_posterior
from interp_cnn.training.deleted_patches import delete_patches
from interp_cnn.training.equivariance import View, crowding_loss, equivariance_loss, random_view
from interp_cnn.training.finetuning import FineTuning
from interp_cnn.training.loss_weight import LossWeight
from interp_cnn.training.presence import dealt_evenly, presence_loss
from interp_cnn.training.ranks import over_ranks, own_images
from interp_cnn.training.schedule import one_cycle_schedule
from interp_cnn.training.trunk_maps import TrunkMaps, own_generators

OBJECTIVES = ("softmax", "logistic")


class Classification(LightningModule):
    """One network, its filter losses and how both are optimised.

    Args:
        network: classifier with `TemplateMask`s; images (B, C, H, W) in [0, 1] to logits (B, K).
        num_classes: number of categories K.
        image_size: (H, W) of the training images.
        channels: image channels C.
        background: class that gets no filters, or None.
        objective: "softmax" (cross-entropy) or "logistic" (one sigmoid per category), the paper's two.
        class_weights: (K,) weight of every class in the softmax objective, 1 in the mean over images; None: 1.
        filter_loss: arguments of `FilterLoss`.
        loss_weight: arguments of `LossWeight`.
        equivariance: weight of the equivariance loss after its first epoch, in which it rises; no effect with one view.
        diversity: weight of the crowding loss, likewise.
        presence: weight of the presence loss, from the second epoch on.
        views: 1, or 2: every image and a random view of it in each step.
        learning_rate: peak of AdamW's one-cycle schedule.
        weight_decay: of the weights of convolutions and linear layers; biases and norms have none.
        warmup_share: part of the steps in which the learning rate rises.
        mask_growth: part of the steps in which the masks grow from nothing to their full strength.
        label_smoothing: of the softmax objective.
        deleted_patches: probability that an image of a step loses one of its 4 x 4 patches.
        mean: colour that takes the patch's place, one value a channel; needed with `deleted_patches`.
        channels_last: keep images and weights channels-last in memory: the same numbers, about 1.3 times as fast.
        compile_network: run the network through torch.compile.
        fine_tuning: how pretrained parameters are trained; by default there are none.
        trunk_maps: of the network's frozen `trunk`, computed once for each picture; None: anew in every step.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int,
        image_size: tuple[int, int],
        channels: int,
        background: int | None = None,
        objective: str = "softmax",
        class_weights: Tensor | None = None,
        filter_loss: dict | None = None,
        loss_weight: dict | None = None,
        equivariance: float = 0.0,
        diversity: float = 0.0,
        presence: float = 0.0,
        views: int = 1,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.05,
        warmup_share: float = 0.2,
        mask_growth: float = 0.0,
        label_smoothing: float = 0.0,
        deleted_patches: float = 0.0,
        mean: Sequence[float] = (0.5,),
        channels_last: bool = True,
        compile_network: bool = False,
        fine_tuning: FineTuning | None = None,
        trunk_maps: TrunkMaps | None = None,
    ):
        super().__init__()
        self.trunk_maps = trunk_maps
        if objective not in OBJECTIVES:
            raise ValueError(f"objective is {objective!r}; expected one of {', '.join(OBJECTIVES)}")
        if views not in (1, 2):
            raise ValueError(f"views is {views}; expected 1 or 2")
        for name, weight in (
            ("equivariance", equivariance),
            ("diversity", diversity),
            ("presence", presence),
        ):
            if not weight >= 0:
                raise ValueError(f"{name} is {weight}; expected 0 (off) or more")
        if not 0 <= mask_growth <= 1:
            raise ValueError(f"mask_growth is {mask_growth}; expected a share from 0 to 1")
        if not 0 <= deleted_patches <= 1:
            raise ValueError(
                f"training.deleted_patches is {deleted_patches}; expected a share of the images, from 0 to 1"
            )
        self.deleted_patches, self.mean = deleted_patches, tuple(mean)
        self.equivariance = equivariance
        self.diversity, self.presence = diversity, presence
        self.views = views
        self.network = network
        self.num_classes = num_classes
        self.objective = objective
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_share = warmup_share
        self.mask_growth = mask_growth
        self.label_smoothing = label_smoothing
        self.fine_tuning = fine_tuning or FineTuning()
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.masks = template_masks(network)  # a plain dict: the modules belong to the network
        shapes = layer_shapes(network, list(self.masks), image_size=image_size, channels=channels)
        self.filter_losses = nn.ModuleDict()
        self.loss_weight = LossWeight(**{"ratio": 0.0, **(loss_weight or {})})
        for name, mask in self.masks.items():
            filters, rows, columns = shapes[name]
            options = {"norm": mask.norm, "position": mask.position, **(filter_loss or {})}
            self.filter_losses[_key(name)] = FilterLoss(
                filters, (rows, columns), num_classes=num_classes, background=background, **options
            )
        self._classes_dealt: dict[str, Tensor] = {}  # of the filters of each layer, anew before every epoch
        self._pulls: dict[str, tuple[AuxiliaryLoss, int]] = {}
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        network.to(memory_format=self.memory_format)
        self._run = torch.compile(network) if compile_network else network
        self._batches_seen = 0

    def setup(self, stage: str) -> None:
        """Where several processes train together, each batch norm sees the images of all."""
        if world_size() > 1:
            share_batch_norms(self.network)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(images)

    def on_train_epoch_start(self) -> None:
        """The filters are dealt out among the classes by all that is known of them so far."""
        if self.presence > 0 and self.current_epoch > 0:
            known = {name: self.filter_loss(name).categories for name in self.masks}
            self._classes_dealt = {
                name: dealt_evenly(it.response, it.background) for name, it in known.items()
            }

    def training_step(self, batch, batch_index: int) -> Tensor:
        """Loss of the task and of the positions on one batch; the filter losses join in the backward pass."""
        self._grow_masks()
        images, labels, view = batch.images, batch.labels, None
        # not `global_step`, which counts several batches as one where gradients are accumulated
        self._batches_seen = self.current_epoch * self.trainer.num_training_batches + batch_index
        if self.views == 2:
            view = random_view(images, self._generators(images))
            images, labels = torch.cat([images, view.images]), labels.repeat(2)
        if self.deleted_patches > 0:
            drawn = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
            images = delete_patches(images, self.deleted_patches, self.mean, drawn)
        with self._known_trunk(), kept_feature_maps(self.network) as maps:
            logits = self._run(images.contiguous(memory_format=self.memory_format))
            total = task_loss = self.task_loss(logits, labels)
            for name, mask in self.masks.items():
                self._pull(name, mask, maps[name], labels)
                if view is not None and self.equivariance + self.diversity > 0:
                    total = total + self._position_loss(name, mask, maps[name], view)
                if name in self._classes_dealt:
                    total = total + self._presence_loss(name, maps[name], labels)
        self._log_task("train", task_loss, logits, labels)
        return total

    def on_after_backward(self) -> None:
        """The weights of the filter losses are known now; where one could not pull, its ratio is 0."""
        for name, (pull, images) in self._pulls.items():
            self._log(f"train/loss_weight{self._suffix(name)}", pull.weight, images)
            self._log(f"train/gradient_ratio{self._suffix(name)}", pull.ratio * (pull.weight > 0), images)
        self._pulls.clear()

    def validation_step(self, batch, batch_index: int) -> dict:
        """Task loss, accuracy and the information of every layer; for all networks alike.

        Returns:
            `logits` (B, K), `labels` (B,) and `filters`: tag -> (D,) of every layer.
        """
        filters, count = {}, own_images(self.trainer, batch, batch_index)
        labels = batch.labels[:count]
        with self._known_trunk(), kept_feature_maps(self.network) as maps:
            logits = self.network(batch.images.contiguous(memory_format=self.memory_format))[:count]
            self._log_task("val", self.task_loss(logits, labels), logits, labels)
            for name, mask in self.masks.items():
                terms = self.filter_losses[_key(name)](maps[name][:count], labels, mask.beta)
                self._log_terms("val", name, terms, count)
                filters[f"mutual_information{self._suffix(name)}"] = terms.information
                filters[f"spatial_entropy{self._suffix(name)}"] = terms.spatial_entropy
        return {"logits": logits, "labels": labels, "filters": filters}

    def task_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch in nats."""
        if self.objective == "logistic":
            truth = (labels[:, None] == torch.arange(self.num_classes, device=labels.device)).to(logits.dtype)
            return functional.binary_cross_entropy_with_logits(logits, truth) * self.num_classes
        total = functional.cross_entropy(
            logits,
            labels,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return total / len(labels)  # not by the weights of the batch: a batch cut in pieces has the same loss

    def configure_optimizers(self):
        """AdamW with a one-cycle learning rate over the whole training."""
        groups = self.fine_tuning.groups(
            self.network,
            list(self.filter_losses.parameters()),
            rate=self.learning_rate,
            decay=self.weight_decay,
        )
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        schedule = one_cycle_schedule(
            optimizer, steps=int(self.trainer.estimated_stepping_batches), warmup_share=self.warmup_share
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def filter_categories(self) -> dict[str, Tensor]:
        """(D,) category of every filter, by layer."""
        return {name: self.filter_loss(name).categories.assigned for name in self.masks}

    def filter_loss(self, layer: str) -> FilterLoss:
        """The loss of a layer's filters."""
        loss = self.filter_losses[_key(layer)]
        assert isinstance(loss, FilterLoss)  # nothing else is put there
        return loss

    def _known_trunk(self) -> AbstractContextManager[None]:
        if self.trunk_maps is None:
            return nullcontext()
        return self.trunk_maps.instead_of(self.network.get_submodule("trunk"))

    def _generators(self, images: Tensor) -> torch.Generator | list[torch.Generator]:
        """Of second views: of the epoch's own stream, so that a resumed run draws the same; or such as come again."""
        seed = int(torch.randint(2**62, ()))
        if self.trunk_maps is None:
            return torch.Generator().manual_seed(seed)
        return own_generators(images, self.current_epoch % self.trunk_maps.views)

    def _grow_masks(self) -> None:
        if self.mask_growth > 0:
            steps = self.mask_growth * int(self.trainer.estimated_stepping_batches)
            for mask in self.masks.values():
                mask.growth = min(1.0, self.global_step / max(1.0, steps))

    def _pull(self, name, mask, maps: Tensor, labels: Tensor) -> None:
        loss = self.filter_loss(name)
        if mask.beta_rule == "spread":
            mask.match_spread(maps.detach())
        if self.loss_weight.ratio == 0:
            loss.observe(maps.detach(), labels)
            return
        terms = loss(maps, labels, mask.beta)
        mask.auxiliary_loss.join(terms.loss, self.loss_weight.target(self._epoch))
        self._pulls[name] = mask.auxiliary_loss, len(labels)
        self._log_terms("train", name, terms, len(labels))

    def _position_loss(self, name, mask, maps: Tensor, view: View) -> Tensor:
        """Equivariance and diversity of the places of the filters, in nobody's precision but float32."""
        filter_loss = self.filter_loss(name)
        posterior = position_posterior(
            maps.float(),
            gain=filter_loss.temperature / filter_loss.scale,
            beta=mask.beta.detach(),
            norm=mask.norm,
        )
        heights = maps.detach().float().amax((2, 3)) / filter_loss.scale
        loss = equivariance_loss(posterior, heights, view, (maps.shape[2], maps.shape[3]))
        self._log(f"train/equivariance_loss{self._suffix(name)}", loss.detach(), len(maps))
        total = self.equivariance * loss
        if self.diversity > 0:
            crowding = crowding_loss(posterior, heights)
            self._log(f"train/crowding_loss{self._suffix(name)}", crowding.detach(), len(maps))
            total = total + self.diversity * crowding
        return min(1.0, self._epoch) * total

    def _presence_loss(self, name: str, maps: Tensor, labels: Tensor) -> Tensor:
        heights = maps.float().amax((2, 3)) / self.filter_loss(name).scale
        loss = presence_loss(heights, labels, self._classes_dealt[name], self.num_classes)
        self._log(f"train/presence_loss{self._suffix(name)}", loss.detach(), len(maps))
        return self.presence * loss

    @property
    def _epoch(self) -> float:
        """Epochs so far, with a fraction."""
        return self._batches_seen / max(1, self.trainer.num_training_batches)

    def _log_task(self, split: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        accuracy = (logits.argmax(1) == labels).float().mean()
        self._log(f"{split}/task_loss", loss, len(labels))
        self._log(f"{split}/accuracy", accuracy, len(labels), prog_bar=True)

    def _log_terms(self, split: str, name: str, terms, images: int) -> None:
        suffix = self._suffix(name)
        self._log(f"{split}/mutual_information{suffix}", terms.information.mean(), images)
        self._log(f"{split}/category_entropy{suffix}", terms.category_entropy.mean(), images)
        self._log(f"{split}/spatial_entropy{suffix}", terms.spatial_entropy.mean(), images)

    def _log(self, tag: str, value: Tensor, images: int, *, prog_bar: bool = False) -> None:
        if not images:  # this rank has none left in the last round
            return
        self.log(tag, value, on_step=False, on_epoch=True, prog_bar=prog_bar, **over_ranks(images))

    def _suffix(self, name: str) -> str:
        return "" if len(self.masks) == 1 else f"_{name}"


def _key(layer: str) -> str:
    """Module dictionaries do not take dots."""
    return layer.replace(".", "_")
