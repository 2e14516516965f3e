"""What must not happen in evaluation mode is noticed while the network runs, whichever method asks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_cnn.explanation.gradients import gradients
from interp_cnn.explanation.methods.options import Options
from interp_cnn.explanation.methods.registry import METHODS


class Ending(nn.Module):
    """A small classifier whose logits go through one more operation."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 4, 3)
        self.operation = operation

    def forward(self, images: Tensor) -> Tensor:
        return self.operation(self.second(self.first(images).relu()).mean((2, 3)))


class MonteCarloDropout(nn.Dropout):
    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)


def asked(operation) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return Ending(operation), torch.rand(3, 3, 12, 12), torch.tensor([0, 1, 2])


def batch_statistics(logits: Tensor) -> Tensor:
    return F.batch_norm(logits, None, None, training=True)


REFUSED = {
    "batch norm without running statistics": (
        nn.BatchNorm1d(4, track_running_stats=False),
        "normalises by the batch itself .*: batch_norm in layer 'operation'",
    ),
    "functional batch norm": (
        batch_statistics,
        "normalises by the batch itself .*: batch_norm in the network's forward",
    ),
    "torch's own batch norm": (
        lambda logits: torch.batch_norm(logits, None, None, None, None, True, 0.1, 1e-5, False),
        "normalises by the batch itself .*: batch_norm in the network's forward",
    ),
    "dropout that stays on": (
        MonteCarloDropout(),
        "drops values out at random in evaluation mode: dropout in layer 'operation'",
    ),
    "functional dropout": (
        lambda logits: F.dropout(logits, 0.2),
        "at random in evaluation mode: dropout in the network's forward",
    ),
    "torch's own dropout": (
        lambda logits: torch.dropout(logits, 0.2, True),
        "at random in evaluation mode: dropout in the network's forward",
    ),
    "feature dropout": (
        lambda logits: F.dropout2d(logits[:, :, None, None], 0.2, True)[:, :, 0, 0],
        "at random in evaluation mode: dropout2d in the network's forward",
    ),
    "sigmoid": (nn.Sigmoid(), "ends in sigmoid: explain the network without its final sigmoid"),
    "functional sigmoid": (torch.sigmoid, "ends in sigmoid"),
    "method sigmoid": (lambda logits: logits.sigmoid(), "ends in sigmoid"),
    "hard sigmoid": (nn.Hardsigmoid(), "ends in hardsigmoid"),
    "softmax of a single class": (lambda logits: logits[:, :1].softmax(1), "without its final softmax"),
    "softmax in a view": (lambda logits: logits.softmax(1)[:, :], "without its final softmax"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", ["sensitivity_analysis", "grad_cam", "occlusion", "single_pixel"])
def test_every_method_refuses_it_in_one_sentence(name, method):
    operation, sentence = REFUSED[name]
    network, images, targets = asked(operation)
    with pytest.raises(ValueError, match=sentence):
        METHODS[method].maps(network, images, targets, Options(window=6, stride=6))


@pytest.mark.parametrize(
    "operation",
    [
        nn.BatchNorm1d(4),
        nn.Dropout(0.5),
        nn.Dropout(0.0),
        nn.Sequential(nn.Sigmoid(), nn.Linear(4, 4)),
        lambda logits: F.dropout(logits, 0.5, training=False),
        lambda logits: F.dropout(logits, 0.0),
        lambda logits: F.instance_norm(logits[..., None].expand(-1, -1, 3) * torch.arange(3.0))[..., 2],
    ],
)
def test_what_an_evaluated_network_may_do_is_not_refused(operation):
    gradients.saliency(*asked(operation))


def test_after_a_refusal_the_network_is_as_it_came():
    network, images, targets = asked(nn.Sigmoid())
    network.train()
    with pytest.raises(ValueError, match="ends in sigmoid"):
        gradients.saliency(network, images, targets)
    assert network.training and network.operation.training
    assert float(network(images).detach().max()) < 1  # it is watched no longer
