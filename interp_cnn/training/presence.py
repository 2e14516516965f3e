"""Every class has filters of its own: who is given which filter, and the loss that asks it to fire there.

Left alone, filters go to the classes that are loudest in the picture: of 128 filters on photographs of eight animals 39
went to the panda and none to the cat. So filters are dealt out evenly,

    max over assignments  sum_d log p(c_d | d)       p(c | d) = h_dc / sum_k h_dk       each class at most ceil(D / K)

with h_dc the running mean of filter d's peak on images of class c, each class first brought to the same mean over
filters: a class in which all filters are loud is no filter's own. The loss of a filter is how little of its peak it
keeps for its class,

    loss = -mean_d log( h_dc / sum_k h_dk )                                            of the batch's own means

over the classes that the batch has: 0 when filters fire on their classes alone, log K when they do not care.

Source: balanced assignment as in Asano, Rupprecht, Vedaldi, Self-labelling via simultaneous clustering, ICLR 2020
(there by Sinkhorn, here exact); presence of parts in images as a loss: van der Klis et al., PDiscoNet, ICCV 2023.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

LEAST = 1e-6


def dealt_evenly(response: Tensor, background: int | None = None) -> Tensor:
    """(D,) the class of every filter, none with more than ceil(D / classes) filters.

    Args:
        response: (D, K) mean peak of every filter on images of every class, not negative.
        background: class that gets no filters, or None.

    Example:
        >>> dealt_evenly(torch.tensor([[9.0, 8.0], [9.0, 2.0], [1.0, 0.5], [5.0, 4.0]])).tolist()
        [1, 0, 0, 1]
    """
    filters, classes = response.shape
    given = [index for index in range(classes) if index != background]
    heights = response.double().clamp(min=LEAST)[:, given].cpu().numpy()
    heights = heights / heights.mean(axis=0)
    shares = np.log(heights / heights.sum(axis=1, keepdims=True))
    room = -(-filters // len(given))
    _, places = linear_sum_assignment(np.repeat(shares, room, axis=1), maximize=True)
    return torch.tensor(given, device=response.device)[
        torch.as_tensor(places // room, device=response.device)
    ]


def presence_loss(heights: Tensor, labels: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """How little of their peaks filters keep for their classes; () nats, 0 where the batch shows none of the classes.

    Args:
        heights: (B, D) peaks of the maps, 1 where they are as high as usual.
        labels: (B,) class of every image.
        classes: (D,) class of every filter, `dealt_evenly`.
        num_classes: K.
    """
    members = (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(heights.dtype)  # (B, K)
    count = members.sum(0)
    means = (members.T @ heights) / count.clamp(min=1)[:, None]  # (K, D)
    kept = (means.gather(0, classes[None])[0] + LEAST) / (means.sum(0) + LEAST * num_classes)  # (D,)
    there = count[classes] > 0
    return -(kept.log() * there).sum() / there.sum().clamp(min=1)
