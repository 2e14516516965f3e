"""A network that takes its images apart: crops that pass its body as one batch of another size."""

import pytest
import torch
from relevance_networks import images_and_targets
from torch import Tensor, nn

from interp_cnn.explanation.gradients.grad_cam import grad_cam
from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.explanation.propagation.deeplift import deeplift
from interp_cnn.explanation.propagation.lrp import lrp


class Crops(nn.Module):
    """The mean over crops, one beside the other in the batch."""

    def __init__(self, starts: tuple[int, ...]) -> None:
        super().__init__()
        self.starts = starts
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(150, 5)
        )

    def forward(self, images: Tensor) -> Tensor:
        crops = torch.cat([images[..., k : k + 12, k : k + 12] for k in self.starts])
        return self.body(crops).view(len(self.starts), len(images), -1).mean(0)


@pytest.mark.parametrize("starts", [(0, 4), (0, 2, 4), (3,)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_relevance_of_crops_sums_to_the_logit_alone_and_in_a_batch(starts, count):
    torch.manual_seed(0)
    network = Crops(starts).eval()
    images, targets = images_and_targets(count, 16)
    with torch.no_grad():
        logits, before = (network(x).gather(1, targets[:, None])[:, 0] for x in (images, 0 * images))
    for method, expected in ((lrp, logits), (deeplift, logits - before)):
        together = method(network, images, targets)
        torch.testing.assert_close(together.sum((1, 2, 3)), expected, rtol=1e-5, atol=1e-6)
        alone = method(network, images[-1:], targets[-1:])
        torch.testing.assert_close(alone[0], together[-1], rtol=1e-4, atol=1e-6)


def test_a_layer_that_sees_crops_has_no_map_of_the_image():
    torch.manual_seed(0)
    network = Crops((0, 4)).eval()
    with pytest.raises(Refusal, match="returns maps of 4 images for 2: the network takes them apart"):
        grad_cam(network, *images_and_targets(2, 16), layer="body.1")
