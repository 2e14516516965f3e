"""Checkpoints on disk: whole or not there, and the one before the last stays until the next is written.

last.ckpt        the last finished epoch, whatever its loss
previous.ckpt    the one before; a training goes on from it when last.ckpt is damaged or missing
best.ckpt        the epoch with the lowest validation loss
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from interp_cnn.storage.files import replacing

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the file and moves it into place.

    Lightning writes into the system's temporary folder first; from there to another disk the move is a copy, which a
    kill can cut in two.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Writes a checkpoint; an earlier last.ckpt becomes previous.ckpt."""
        place, content = Path(path), BytesIO()
        # Into memory: on a full disk torch's own writer fails without saying why.
        torch.save(checkpoint, content)
        with replacing(place, lasting=True) as draft:
            draft.write_bytes(content.getbuffer())
            if place.name == LAST and place.is_file():
                place.replace(place.with_name(PREVIOUS))


class BestEpoch(ModelCheckpoint):
    """Saves best.ckpt after every epoch whose validation loss is the lowest so far, of a training gone on from too.

    Args:
        folder: of the checkpoints.
        monitor: tag of the loss.
    """

    def __init__(self, folder: Path, monitor: str):
        super().__init__(
            folder, filename=BEST.removesuffix(".ckpt"), monitor=monitor, enable_version_counter=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The lowest loss so far, also when the training goes on in another folder, where Lightning would forget it."""
        assert self.dirpath is not None  # the folder given above
        here = str(Path(self.dirpath) / BEST)
        if not Path(here).is_file():
            return  # that epoch is lost: the best one from here on
        moved = {
            "dirpath": self.dirpath,
            "best_model_path": here,
            "kth_best_model_path": here,
            "last_model_path": "",
        }
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": {here: state_dict["best_model_score"]}}
        )


class LastEpoch(Checkpoint):
    """Saves last.ckpt after every epoch.

    Lightning 2.6's `ModelCheckpoint(monitor=..., save_last=True)` saves it only after epochs that were the best so far.

    Args:
        folder: of the checkpoints. Among the trainer's callbacks this one stands behind those whose state it is to
            hold, the best one's above all.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the epoch; on every rank, because collecting the state may take all of them."""
        trainer.save_checkpoint(self.folder / LAST)


class Patience(EarlyStopping):
    """Stops after so many epochs without a lower loss; a training killed after its stop does not go on from there."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes up a stop that the checkpoint knows of."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def finished_epochs(checkpoint: dict[str, Any]) -> int:
    """How many epochs the weights of a checkpoint were trained.

    Raises:
        ValueError: it is not the checkpoint of a training.
    """
    epoch = checkpoint.get("epoch")
    if not isinstance(epoch, int):
        raise ValueError(f"epoch is {epoch!r}; expected the number of the last one, as a training writes it")
    return epoch + 1


def is_over(checkpoint: dict[str, Any], epochs: int) -> bool:
    """Whether a training of so many epochs has ended with this checkpoint, by their number or by its patience."""
    waits = (
        state for name, state in checkpoint["callbacks"].items() if name.startswith(Patience.__qualname__)
    )
    return finished_epochs(checkpoint) >= epochs or any(
        state["wait_count"] >= state["patience"] for state in waits
    )
