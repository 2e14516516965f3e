"""Means over the images of all processes, and which images of a batch are this process's own."""

from pytorch_lightning import Trainer

from interp_cnn.model.distributed import world_size


def over_ranks(images: int) -> dict:
    """Arguments of `log` for a mean over the images of all processes.

    Lightning takes the mean of the processes' numbers of images in whole numbers; times their count it is exact.
    """
    return {"batch_size": images * world_size(), "sync_dist": world_size() > 1}


def own_images(trainer: Trainer, batch, batch_index: int) -> int:
    """How many images of a validation batch are this process's; those behind them are repeated."""
    loader = trainer.val_dataloaders
    count = getattr(getattr(loader, "sampler", None), "own", None)  # of the data module's sampler
    size = getattr(loader, "batch_size", None)
    return (
        len(batch) if count is None or size is None else max(0, min(count - batch_index * size, len(batch)))
    )
