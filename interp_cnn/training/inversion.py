"""Training a decoder to draw what a layer's feature maps saw, also where only a part of them is left.

    pictures = decoder(maps o mask)
    loss = mean n (pictures - images)^2 + weight * mean over each image's kept cells of (maps' - maps)^2 / scale^2

with maps' the same layer's maps of the pictures: without this feature matching pictures have a good pixel error,
but the network does not see the class in them (Dosovitskiy and Brox, "Generating Images with Perceptual Similarity
Metrics based on Deep Networks", NIPS 2016, arXiv 1602.02644). Its mean is taken per image, or a window of nine cells
would weigh a sixteenth of a whole map of twelve by twelve. n is 1 near kept cells and `BEYOND` elsewhere, over its
mean: what lies far from everything that is kept cannot be known, and a decoder that must guess it there is not free to
leave it empty, which is what a network with masks needs to find its peak where it was. The network itself is never
trained. Tags are `<split>/<quantity>`.
"""

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from interp_cnn.model.distributed import world_size
from interp_cnn.model.shared_norms import share_batch_norms
from interp_cnn.model.upconvolution import Upconvolution, random_masks
from interp_cnn.training.ranks import over_ranks, own_images
from interp_cnn.training.schedule import one_cycle_schedule

BEYOND = 0.1  # weight of pixels that are further than a cell from all kept ones


class Inversion(LightningModule):
    """A decoder for one layer of a network.

    Args:
        network: any classifier; frozen (no gradient for its weights) and kept in evaluation mode.
        decoder: for the layer's maps.
        layer: dotted module name.
        feature_weight: of the feature matching.
        whole: share of images whose maps are not masked.
        learning_rate: peak of Adam's one-cycle schedule.
        seed: of the masks; they depend on it and the step alone.
    """

    def __init__(
        self,
        network: nn.Module,
        decoder: Upconvolution,
        *,
        layer: str,
        feature_weight: float = 1.0,
        whole: float = 0.2,
        learning_rate: float = 3e-3,
        seed: int = 0,
    ):
        super().__init__()
        if layer not in dict(network.named_modules()) or not layer:
            raise ValueError(f"layer is {layer!r}; expected the dotted name of a module of the network")
        if feature_weight < 0 or not 0 <= whole <= 1:
            raise ValueError(
                f"feature_weight is {feature_weight}, whole {whole}; expected at least 0 and a share"
            )
        self.network = network.eval()
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        self.decoder = decoder
        self.layer = layer
        self.feature_weight = feature_weight
        self.whole = whole
        self.learning_rate = learning_rate
        self.seed = seed

    def train(self, mode: bool = True) -> "Inversion":
        """Training mode, for the decoder alone."""
        super().train(mode)
        self.network.eval()
        return self

    def setup(self, stage: str) -> None:
        """Where several processes train together, each batch norm sees the images of all."""
        if world_size() > 1:
            share_batch_norms(self.decoder)

    def forward(self, feature_maps: Tensor) -> Tensor:
        """Pictures (B, C, H, W) of feature maps (B, D, h, w)."""
        return self.decoder(feature_maps)

    def feature_maps(self, images: Tensor) -> Tensor:
        """The layer's maps (B, D, h, w), with the gradient to the images if they want one."""
        kept: list[Tensor] = []
        handle = self.network.get_submodule(self.layer).register_forward_hook(
            lambda _module, _inputs, output: kept.append(output.clone())  # a ReLU in place may follow
        )
        try:
            self.network(images)
        finally:
            handle.remove()
        return kept[-1]

    def losses(self, images: Tensor, maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel error and feature error of the pictures that are drawn from masked maps."""
        pictures = self.decoder(maps * masks)
        nearness = pixel_weights(masks, (images.shape[2], images.shape[3]))
        pixel_error = (nearness * (pictures - images).square()).mean()
        difference = (self.feature_maps(pictures) - maps) / self.decoder.scale * masks
        errors = difference.square().sum(dim=(1, 2, 3)) / masks.sum(dim=(1, 2, 3)).clamp(min=1)
        return pixel_error, errors.mean()

    def training_step(self, batch, batch_index: int) -> Tensor:
        """Loss of one batch under random masks."""
        with torch.no_grad():
            maps = self.feature_maps(batch.images)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        masks = random_masks(maps / self.decoder.scale, generator=generator, whole=self.whole)
        return self._total("train", batch.images, maps, masks)

    def validation_step(self, batch, batch_index: int) -> None:
        """The same errors with the whole maps, and how often the network sees the same class in the picture."""
        images = batch.images[: own_images(self.trainer, batch, batch_index)]
        if not len(images):
            return
        maps = self.feature_maps(images)
        self._total("val", images, maps, torch.ones_like(maps))
        same = self.network(self.decoder(maps)).argmax(1) == self.network(images).argmax(1)
        self._log("val/class_agreement", same.float().mean(), len(images))

    def configure_optimizers(self):
        """Adam with a one-cycle learning rate, for the decoder."""
        optimizer = torch.optim.Adam(self.decoder.parameters(), lr=self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        return {
            "optimizer": optimizer,
            "lr_scheduler": one_cycle_schedule(optimizer, steps=steps, warmup_share=0.3),
        }

    def _total(self, split: str, images: Tensor, maps: Tensor, masks: Tensor) -> Tensor:
        pixel_error, feature_error = self.losses(images, maps, masks)
        total = pixel_error + self.feature_weight * feature_error
        for name, value in (("pixel_error", pixel_error), ("feature_error", feature_error), ("loss", total)):
            self._log(f"{split}/{name}", value, len(images))
        return total

    def _log(self, tag: str, value: Tensor, images: int) -> None:
        self.log(tag, value, on_step=False, on_epoch=True, **over_ranks(images))


def pixel_weights(masks: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(B, 1, H, W): 1 within a cell of those that masks (B, D, h, w) keep anything of, `BEYOND` elsewhere, over the
    image's mean.
    """
    near = functional.max_pool2d(masks.amax(dim=1, keepdim=True), 3, stride=1, padding=1)
    near = functional.interpolate(near, size=image_size, mode="nearest")
    weights = BEYOND + (1 - BEYOND) * near
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)
