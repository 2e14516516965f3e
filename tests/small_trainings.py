"""Trainings of one weight that counts its steps, in a second: which epoch a checkpoint is of is seen from it."""

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset

from interp_cnn.runs.folder import load_checkpoint
from interp_cnn.training.checkpoints import finished_epochs
from interp_cnn.training.fit import fit

BATCHES = 3
CPU = {"accelerator": "cpu", "enable_progress_bar": True}


class Numbers(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(BATCHES, 1)))

    def val_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(1, 1)))


class Counter(LightningModule):
    """Its one weight counts the steps; its validation losses are given."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_index):
        return -self.weight

    def validation_step(self, batch, batch_index):
        self.log("val/task_loss", torch.tensor(float(self.losses[self.current_epoch])))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def train(folder, losses, module=None, **options):
    options = {"epochs": len(losses), "seed": 0, "gradient_clip": None, "trainer": CPU, **options}
    return fit(module or Counter(losses), Numbers(), folder=folder, **options)


def epochs_in(folder) -> dict[str, int]:
    """Checkpoint -> epochs, by its weight and by what it says of itself."""
    found = {}
    for path in sorted((folder / "checkpoints").iterdir()):
        content = load_checkpoint(path)
        steps = content["state_dict"]["weight"].item()
        assert steps == BATCHES * finished_epochs(content)
        found[path.stem] = finished_epochs(content)
    return found
