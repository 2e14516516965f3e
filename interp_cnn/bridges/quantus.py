"""The function that metrics of Quantus call for an explanation: `metric(..., explain_func=explain_func)`.

Which method, and its options, stand in `explain_func_kwargs={"method": "lrp"}`.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.run import explain_images
from interp_cnn.explanation.network.placement import device_of


def explain_func(
    model: nn.Module,
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    method: str = "lrp",
    device: Any = None,
    **options: Any,
) -> NDArray[np.float32]:
    """Relevance maps as Quantus wants them.

    Args:
        model: images (B, C, H, W) -> logits (B, K).
        inputs: (B, C, H, W); Quantus keeps them as NumPy arrays.
        targets: (B,) classes.
        method: as in `interp-cnn explain methods=`, see `interp_cnn.explanation.methods.registry.METHODS`.
        device: as Quantus gives it; None: where the model lies.
        options: of `interp_cnn.explanation.methods.options.Options`, such as `window`, `baseline`, `layer`.

    Returns:
        (B, 1, H, W), colour channels added up.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        >>> explain_func(network, np.random.rand(2, 3, 8, 8), np.array([0, 3]), method="saliency").shape
        (2, 1, 8, 8)
    """
    known = [*Options.__dataclass_fields__]
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"{unknown[0]} is no option of explain_func; there are method, {', '.join(known)}")
    place = device_of(model) if device is None else torch.device(device)
    parameter = next(model.parameters(), torch.zeros(0))
    images = torch.as_tensor(np.asarray(inputs)).to(device=place, dtype=parameter.dtype)
    classes = torch.as_tensor(np.asarray(targets)).to(place).long().reshape(-1)
    if len(classes) != len(images):
        raise ValueError(
            f"targets has {len(classes)} classes for {len(images)} images; expected one for each"
        )
    return explain_images(method, model, images, classes, Options(**options)).maps[:, None].numpy()
