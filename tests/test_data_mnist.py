"""MNIST's files: read as they are, damaged ones refused."""

import gzip
import struct

import numpy as np
import pytest
import torch

from interp_cnn.data.mnist import MnistParts, read_idx
from interp_cnn.data.parts import Draw


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def folder(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 12), ("t10k", 6)):
        scans = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(scans)))
        (raw / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_the_compressed_files_are_read_without_writing_anything(folder):
    before = sorted(folder.rglob("*"))
    train, val = MnistParts("train", root=folder), MnistParts("val", root=folder)
    assert (len(train), len(val)) == (12, 6)
    assert train.labels.tolist()[:11] == [*range(10), 0]
    assert torch.equal((train[3].image * 255).round().byte()[0], torch.from_numpy(train.scans[3].copy()))
    assert sorted(folder.rglob("*")) == before


def test_unpacked_files_do_as_well(folder):
    packed = MnistParts("val", root=folder)[0].image
    for path in list((folder / "MNIST" / "raw").iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert torch.equal(MnistParts("val", root=folder)[0].image, packed)


def test_a_larger_canvas_and_strokes_work_as_for_digits(folder):
    plain = MnistParts("val", root=folder, image_size=40)
    drawn = MnistParts("val", root=folder, image_size=40, distractors=4)
    assert drawn[0].image.shape == (1, 40, 40)
    assert torch.equal(plain[0].object_mask, drawn[0].object_mask)
    assert any(drawn[index].distractor_mask.any() for index in range(6))
    assert not torch.equal(plain[Draw(0, 0, 1)].image, plain[Draw(0, 1, 1)].image)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[: len(data) // 2], "corrupt or truncated"),
        (lambda data: b"not gzip at all", "corrupt or truncated"),
        (
            lambda data: data[:20] + bytes([data[20] ^ 255]) + data[21:],
            "corrupt or truncated|not an IDX|data than|the header promises",
        ),
        (lambda data: gzip.compress(gzip.decompress(data)[:-5]), "less data than the 4704 bytes"),
        (lambda data: gzip.compress(gzip.decompress(data) + bytes(9)), "more data than the 4704 bytes"),
        (lambda data: gzip.compress(b"\0\0\x08\x01" + bytes(50)), "not an IDX file of bytes with 3 axes"),
        (lambda data: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 50), "the header promises"),
        (lambda data: gzip.compress(b""), "not an IDX file"),
    ],
)
def test_a_damaged_file_is_refused_by_name(folder, change, sentence):
    path = folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=sentence) as caught:
        MnistParts("val", root=folder)
    assert "t10k-images-idx3-ubyte.gz" in str(caught.value)


def test_labels_that_do_not_fit_are_refused(folder):
    path = folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(5, dtype=np.uint8))))
    with pytest.raises(ValueError, match="6 images but 5 labels"):
        MnistParts("val", root=folder)
    path.write_bytes(gzip.compress(idx(np.full(6, 11, dtype=np.uint8))))
    with pytest.raises(ValueError, match="label 11"):
        MnistParts("val", root=folder)


def test_missing_files_say_what_makes_them(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"train-images-idx3-ubyte\.gz: no such file; .*download=true"
    ):
        MnistParts(root=tmp_path)
    with pytest.raises(ValueError, match="collection='KMNIST'"):
        MnistParts(root=tmp_path, collection="KMNIST")


def test_a_part_that_no_header_promises_is_not_read(tmp_path):
    (tmp_path / "x").write_bytes(idx(np.zeros((2, 3), dtype=np.uint8)))
    assert read_idx(tmp_path / "x", axes=2).shape == (2, 3)


@pytest.mark.slow
def test_the_real_collections_have_their_published_moments(data_root):
    for collection, mean, std in (("MNIST", 0.1307, 0.3081), ("FashionMNIST", 0.2860, 0.3530)):
        train = MnistParts("train", root=data_root / "mnist", collection=collection)
        assert len(train) == 60_000 and train.labels.bincount().sum() == 60_000
        pixels = train.scans / np.float32(255)
        assert pixels.mean() == pytest.approx(mean, abs=1e-4) and pixels.std() == pytest.approx(std, abs=1e-4)
        assert train.mean[0] == pytest.approx(mean, abs=0.02)  # from 512 of them
        masks = torch.stack([train[index].object_mask for index in range(200)])
        assert masks.flatten(1).any(1).all()
