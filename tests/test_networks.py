"""Networks by name: torchvision's and a user's own, their weights, and what is said when they do not fit."""

import pickle
import sys

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from interp_cnn.model.backbones import build_network
from interp_cnn.model.pixels import IMAGENET_MEAN, IMAGENET_STD
from interp_cnn.runs.networks import class_names, load_network, told_apart

NETWORK = """
import torch
from torch import nn

TABLE = {}

class Tiny(nn.Module):
    def __init__(self, num_classes=5):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images):
        return self.head(self.conv(images).relu().mean((2, 3)))

def build(num_classes=5):
    torch.manual_seed(1)
    return Tiny(num_classes)

def broken():
    return 1 / 0

def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a user's module `my_networks` in it."""
    (tmp_path / "my_networks.py").write_text(NETWORK)
    (tmp_path / "needy.py").write_text("import no_such_package_anywhere\n")
    (tmp_path / "half.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    path = list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_torchvision_network_takes_pixels_and_normalises_them_itself():
    torch.manual_seed(0)
    body = torchvision.models.resnet18(num_classes=7)
    torch.manual_seed(0)
    network = load_network("torchvision:resnet18", num_classes=7)
    images = torch.rand(2, 3, 40, 40)
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(images), body.eval()((images - mean) / std))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_weights_file_brings_its_own_number_of_classes(suffix, tmp_path):
    body = torchvision.models.squeezenet1_1(num_classes=12)  # its last layer is a convolution
    file = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(body.state_dict(), file)
    network = load_network("torchvision:squeezenet1_1", weights=str(file))
    assert torch.equal(network.body.classifier[1].weight, body.classifier[1].weight)
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 12)
    with pytest.raises(ValueError, match=r"num_classes=3, but weights=.* know 12 classes"):
        load_network("torchvision:squeezenet1_1", weights=str(file), num_classes=3)


@pytest.mark.parametrize(
    "wrap", [lambda s: {f"module.{k}": v for k, v in s.items()}, lambda s: {"state_dict": s}]
)
def test_what_a_wrapper_wrote_around_the_weights_is_taken_off(wrap, tmp_path):
    body = torchvision.models.mobilenet_v3_small(num_classes=3)
    torch.save(wrap(body.state_dict()), tmp_path / "weights.pt")
    network = load_network("torchvision:mobilenet_v3_small", weights=str(tmp_path / "weights.pt"))
    assert torch.equal(network.body.classifier[-1].weight, body.classifier[-1].weight)


def test_auxiliary_heads_in_a_weights_file_are_left_out(tmp_path):
    body = torchvision.models.googlenet(num_classes=4, init_weights=False, aux_logits=True)
    torch.save(body.state_dict(), tmp_path / "weights.pt")
    network = load_network("torchvision:googlenet", weights=str(tmp_path / "weights.pt"))
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("googlenet", 1000),
        ("inception_v3", 4),
        pytest.param("googlenet", 4, marks=pytest.mark.slow),
        pytest.param("inception_v3", 1000, marks=pytest.mark.slow),
    ],
)
def test_weights_in_a_file_see_the_pixels_that_torchvision_shows_them(name, classes, tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(
        name, num_classes=classes, transform_input=True, init_weights=False, aux_logits=False
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    images = torch.rand(1, 3, 80, 80)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = theirs((images - mean) / std)
        loaded = load_network(f"torchvision:{name}", weights=str(tmp_path / "weights.pt"))
        assert torch.allclose(loaded(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        if classes == 1000:  # a training that starts from the file, and its checkpoint
            options = {
                "num_classes": 1000,
                "channels": 3,
                "image_size": (80, 80),
                "mean": (0.1,),
                "std": (0.7,),
            }
            options |= {
                "layers": ["conv1" if name == "googlenet" else "Conv2d_1a_3x3"],
                "mask": {"enabled": False},
            }
            started = build_network(name, weights=str(tmp_path / "weights.pt"), **options).eval()
            assert torch.allclose(started(images), loaded(images), rtol=1e-4, atol=1e-5)
            again = build_network(name, **options).eval()
            again.load_state_dict(started.state_dict())
            assert torch.equal(again(images), started(images))


def test_two_classes_of_one_name_are_told_apart():
    assert told_apart(["crane", "fox", "crane"]) == ("crane (0)", "fox", "crane (2)")
    assert len(set(class_names("torchvision:resnet18", 1000, weights="DEFAULT"))) == 1000


def test_a_factory_in_the_current_folder_builds_the_network(folder):
    network = load_network("my_networks:build")
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    assert load_network("my_networks:build", num_classes=9).head.out_features == 9
    assert load_network("my_networks:Tiny").head.out_features == 5


def test_a_users_network_takes_its_weights_from_a_file(folder):
    wanted = load_network("my_networks:build").state_dict()
    wanted = {key: torch.randn_like(value) for key, value in wanted.items()}
    torch.save({"epoch": 3, "state_dict": {f"network.{k}": v for k, v in wanted.items()}}, "last.ckpt")
    network = load_network("my_networks:build", weights="last.ckpt")
    assert all(torch.equal(network.state_dict()[key], value) for key, value in wanted.items())


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "resnet18",
            "did you mean torchvision:resnet18?",
        ),
        ("torchvision:resnet19", "torchvision has no classifier 'resnet19'; did you mean resnet18"),
        ("my_network:build", "no module my_network in the current folder .*; did you mean my_networks?"),
        ("my_networks:biuld", "my_networks has no 'biuld'; did you mean build?"),
        ("my_networks:TABLE", "my_networks:TABLE is dict; expected a function that returns an nn.Module"),
        ("my_networks:number", "my_networks:number returned int; expected an nn.Module"),
        (
            "my_networks:broken",
            "my_networks:broken failed: ZeroDivisionError: division by zero .my_networks.py, line",
        ),
        ("needy:build", "needy needs the module no_such_package_anywhere, which is not installed"),
        ("half:build", "importing half failed: SyntaxError"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_in_one_sentence(spec, sentence, folder):
    with pytest.raises(ValueError, match=sentence) as refusal:
        load_network(spec)
    assert "\n" not in str(refusal.value)


def test_weights_that_do_not_fit_are_refused_with_the_first_place_that_differs(folder):
    state = load_network("my_networks:build").state_dict()
    torch.save({key: value for key, value in state.items() if key != "head.bias"}, "short.pt")
    torch.save({**state, "tail.weight": torch.ones(1)}, "long.pt")
    torch.save({**state, "head.weight": torch.ones(2, 4)}, "other.pt")
    torch.save([1, 2], "list.pt")
    (folder / "text.pt").write_text("no weights")
    torch.save(nn.Linear(2, 2), "whole.pt")
    for file, sentence in {
        "short.pt": "does not fit my_networks:build: head.bias is missing",
        "long.pt": "tail.weight is unknown",
        "other.pt": r"head.weight is \(2, 4\), expected \(5, 4\)",
        "list.pt": "holds no state dict",
        "text.pt": "cannot be read|holds more than tensors",
        "whole.pt": "could run code; save network.state_dict",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            load_network("my_networks:build", weights=file)
    with pytest.raises(FileNotFoundError, match=r"weights file none.pt does not exist"):
        load_network("my_networks:build", weights="none.pt")
    with pytest.raises(ValueError, match=r"weights=IMAGENET is no file and no weights of torch.*V1"):
        load_network("torchvision:alexnet", weights="IMAGENET")
    with pytest.raises(ValueError, match="weights=DEFAULT of torchvision:alexnet know 1000 classes"):
        load_network("torchvision:alexnet", weights="DEFAULT", num_classes=4)


class Payload:
    def __reduce__(self):
        return (open, ("was_run", "w"))


def test_code_in_a_weights_file_is_not_run(folder):
    (folder / "evil.pt").write_bytes(pickle.dumps({"weight": Payload()}))
    with pytest.raises(ValueError, match=r"evil\.pt"):
        load_network("my_networks:build", weights="evil.pt")
    assert not (folder / "was_run").exists()


def test_classes_have_imagenets_names_only_where_they_are_imagenets():
    assert class_names("torchvision:resnet18", 1000, weights="DEFAULT")[:2] == ("tench", "goldfish")
    assert class_names("torchvision:resnet18", 1000)[:2] == ("class 0", "class 1")
    assert class_names("torchvision:resnet18", 3, weights="file.pt") == ("class 0", "class 1", "class 2")
