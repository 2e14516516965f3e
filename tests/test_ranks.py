"""Two processes with half of the images each do what one does with all of them."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from interp_cnn.cli import errors
from interp_cnn.data.datamodule import OrderedSampler
from interp_cnn.model.auxiliary_loss import AuxiliaryLoss
from interp_cnn.model.filter_loss import FilterLoss
from interp_cnn.model.shared_norms import share_batch_norms

BETA = torch.tensor(4.0)


def norm_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4)
    )


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 2, 7, 8, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])


def step(images, labels, own):
    """Three training steps of a network with batch norms, at whose maps a filter loss pulls."""
    network, loss = norm_network(), FilterLoss(4, (5, 6), num_classes=3)
    share_batch_norms(network)
    for _ in range(3):
        maps = network(images).relu()
        pull = AuxiliaryLoss(maps)
        task = (pull.attached().mean((2, 3)) - labels[:, None]).square().mean()
        pull.join(loss(maps, labels, BETA).loss, ratio=0.5)
        network.zero_grad()
        task.backward()
    loss.eval()
    seen = loss(maps.detach()[:own], labels[:own], BETA).information
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    state = {**network.state_dict(), **loss.state_dict()}
    return {"gradients": gradients, "state": state, "weight": pull.weight, "information": seen}


def step_on_a_rank(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    images, labels = batch()
    own = 3 if rank == 0 else 0  # the second has no image left in the last validation batch
    torch.save(step(images[rank::2], labels[rank::2], own), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_batch_norms_loss_weights_and_information_are_those_of_all_images(tmp_path):
    torch.multiprocessing.spawn(step_on_a_rank, args=(tmp_path,), nprocs=2)
    images, labels = batch()
    whole = step(images, labels, 6)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, gradient in whole["gradients"].items():
        mean = (ranks[0]["gradients"][name] + ranks[1]["gradients"][name]) / 2
        torch.testing.assert_close(mean, gradient, atol=2e-5, rtol=1e-4)
    for found in ranks:
        for name, value in whole["state"].items():
            torch.testing.assert_close(found["state"][name], value, atol=1e-5, rtol=1e-4, msg=name)
        torch.testing.assert_close(found["weight"], whole["weight"])
    torch.testing.assert_close(ranks[0]["information"], ranks[1]["information"])


def test_a_shared_batch_norm_alone_is_the_layer_itself():
    images, _ = batch()
    shared, plain = norm_network(), norm_network()
    share_batch_norms(shared)
    assert torch.equal(shared(images), plain(images))
    assert list(shared.state_dict()) == list(plain.state_dict())


def test_a_rank_with_an_image_fewer_repeats_one_that_does_not_count():
    first, second = (OrderedSampler(5, rank=rank, world_size=2) for rank in range(2))
    assert (list(first), first.own) == ([0, 2, 4], 3)
    assert (list(second), second.own) == ([1, 3, 4], 2)


def test_a_lost_process_is_told_in_a_sentence():
    for words in (
        "[third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer",
        "NCCL timeout",
    ):
        said = errors.sentence(RuntimeError(words), ["train"])
        assert "another process of this training ended" in said and "goes on" in said
    assert errors.sentence(RuntimeError("a bug of ours"), ["train"]) is None


SMALL = ["model.widths=[4,6,8,8,8]", "training.epochs=2", "data.image_size=24", "data.scale=[1.5,2.0]"]
SMALL += ["training.class_weights=balanced", "training.learning_rate=0.0002"]


def trained(folder, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "interp_cnn", "train", *SMALL, *words, f"hydra.run.dir={folder}"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run folder") == 1
    return pd.read_csv(folder / "metrics.csv")


@pytest.mark.slow
def test_a_training_in_two_processes_has_the_numbers_of_one_process(tmp_path):
    # 359 validation images in batches of 358: in the last one only the first process has an image. A small learning
    # rate, because Adam turns the rounding of a gradient near zero into a whole step.
    one = trained(tmp_path / "one", "data.batch_size=358")
    two = trained(tmp_path / "two", "data.batch_size=179", "trainer=ddp_cpu")
    assert list(one) == list(two)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=2e-3, atol=2e-4, err_msg=name)
