"""Checkpoints on disk: whole or not there, and the one before the last stays until the next is written.

last.ckpt        the last finished epoch
previous.ckpt    the one before; a training goes on from it when last.ckpt is damaged or missing
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from interp_cnn.storage.files import replacing

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


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
