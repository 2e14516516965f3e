"""Records Quantus's pixel-flipping curve for a small network of known weights; the test compares ours with it.

    uv run --no-project --with quantus --with torch --with "numpy<2.4" python tests/quantus_pixel_flipping.py

writes quantus_pixel_flipping.json beside this file. Made with Quantus 0.6.0.
"""

import json
from pathlib import Path

import torch
from torch import nn

RECORD = Path(__file__).with_suffix(".json")
STEP = 4  # pixels that are flipped at once


def example() -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A network, images (3, 1, 8, 8), classes and maps (3, 8, 8), all from sines, so that nothing is drawn."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    )
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_((0.6 * torch.sin(3.7 * values + number)).view_as(parameter))
    places = torch.arange(3 * 64, dtype=torch.float64)
    images = (0.5 + 0.5 * torch.sin(1.3 * places + 0.01 * places**2)).float().view(3, 1, 8, 8)
    images -= images.amin((1, 2, 3), keepdim=True)  # Quantus's "black" is the darkest value of the image
    maps = torch.sin(2.1 * places + 0.003 * places**2).float().view(3, 8, 8)
    return network.eval(), images, torch.tensor([0, 1, 2]), maps


def record() -> None:
    """Ask Quantus and write its curves."""
    import quantus

    network, images, targets, maps = example()
    metric = quantus.PixelFlipping(
        features_in_step=STEP,
        perturb_baseline="black",
        abs=False,
        normalise=False,
        disable_warnings=True,
        display_progressbar=False,
    )
    curves = metric(
        model=network,
        x_batch=images.numpy(),
        y_batch=targets.numpy(),
        a_batch=maps[:, None].numpy(),
        device="cpu",
        softmax=True,
    )
    found = {"quantus": quantus.__version__, "curves": [[float(v) for v in curve] for curve in curves]}
    RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
