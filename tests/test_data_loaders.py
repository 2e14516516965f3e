"""Order, sharding and exact repetition of what a training sees."""

import csv
import time

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer

from interp_cnn.data.datamodule import PartDataModule
from interp_cnn.data.digits import DigitsParts
from interp_cnn.data.image_files import Skipped
from interp_cnn.data.image_folder import ImageFolderParts
from interp_cnn.data.parts import Draw, PartBatch, PartSample, PartSet, RawBatch
from interp_cnn.data.samplers import EpochSampler, OrderedSampler
from interp_cnn.training.throughput import Throughput


class Numbers(PartSet):
    """Image i is the number i, plus noise in random views; class 1 is rare."""

    classes, parts, channels, image_size = ("many", "few"), ("p",), 1, (1, 1)

    def __init__(self, split: str = "train", *, count: int = 23):
        self.labels = (torch.arange(count) % 5 == 0).long()
        self.names = [f"{split} {index}" for index in range(count)]

    def view(self, index, generator):
        noise = 0.0 if generator is None else torch.rand((), generator=generator).item()
        return PartSample(
            torch.tensor([[[index + noise / 2]]]), int(self.labels[index]), torch.zeros(1, 2), name=str(index)
        )


def module(**options) -> PartDataModule:
    data = PartDataModule(Numbers, **({"batch_size": 4, "seed": 3} | options))
    data.setup()
    return data


def passes(data: PartDataModule, epochs: int) -> list[torch.Tensor]:
    loader = data.train_dataloader()
    seen = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        seen.append(torch.cat([batch.images.flatten() for batch in loader]))
    return seen


def test_a_training_epoch_visits_every_image_once_in_a_new_order():
    data = module(count=24)
    first, second = passes(data, 2)
    assert first.floor().sort().values.tolist() == list(range(24))
    assert second.floor().sort().values.tolist() == list(range(24))
    assert first.floor().tolist() != second.floor().tolist()
    assert first.tolist() != first.floor().tolist()  # random views


def test_order_and_pixels_depend_on_seed_and_epoch_only():
    once, again, other = (passes(module(seed=seed), 3) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], other[0])
    loader = module().train_dataloader()
    loader.sampler.set_epoch(2)  # as a resumed training does
    assert torch.equal(torch.cat([batch.images.flatten() for batch in loader]), once[2])


def test_workers_change_no_bit():
    alone, helped = passes(module(), 3), passes(module(workers=2), 3)
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_a_pass_over_the_data_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    passes(module(), 2)
    for _ in module().val_dataloader():
        pass
    assert torch.equal(before, torch.get_rng_state())


def test_training_batches_are_full_and_validation_batches_complete():
    data = module()
    assert [len(batch) for batch in data.train_dataloader()] == [4] * 5
    batches = list(data.val_dataloader())
    assert [len(batch) for batch in batches] == [4] * 5 + [3]
    assert torch.cat([batch.images.flatten() for batch in batches]).tolist() == list(range(23))
    assert isinstance(batches[0], PartBatch)
    few = module(batch_size=100).train_dataloader()
    assert [len(batch) for batch in few] == [23]


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_an_epoch_without_gaps_and_in_equal_steps(world_size):
    labels = torch.zeros(23, dtype=torch.int64)
    whole = [draw.index for draw in EpochSampler(labels, seed=1)]
    shares = []
    for rank in range(world_size):
        sampler = EpochSampler(labels, seed=1, rank=rank, world_size=world_size)
        shares.append([draw.index for draw in sampler])
        assert len(shares[-1]) == len(sampler)
    assert len({len(share) for share in shares}) == 1
    woven = [index for step in zip(*shares, strict=True) for index in step]
    assert woven[:23] == whole and woven[23:] == whole[: len(woven) - 23]


@pytest.mark.parametrize("world_size", [1, 2, 3, 30])
def test_ranks_share_the_validation_images_without_repeats(world_size):
    samplers = [OrderedSampler(23, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(index for sampler in samplers for index in [*sampler][: sampler.own]) == list(range(23))
    assert {len(list(sampler)) for sampler in samplers} == {len(sampler) for sampler in samplers}
    assert len({len(sampler) for sampler in samplers}) == 1, "a rank would wait for another's batch for ever"


def test_a_wrong_rank_is_refused():
    with pytest.raises(ValueError, match="rank=2, world_size=2"):
        OrderedSampler(4, rank=2, world_size=2)
    with pytest.raises(ValueError, match="rank=1, world_size=None"):
        OrderedSampler(4, rank=1)


def test_a_balanced_epoch_shows_every_class_equally_often():
    labels = torch.tensor([0] * 90 + [1] * 9 + [2] * 2)
    sampler = EpochSampler(labels, seed=0, balance=True)
    order = [draw.index for draw in sampler]
    counts = labels[torch.tensor(order)].bincount()
    assert len(order) == len(sampler) == 101
    assert counts.max() - counts.min() <= 1
    assert sorted(set(order))[-11:] == list(range(90, 101))  # all of the small classes
    assert len({index for index in order if index < 90}) == counts[0]  # none of the large class twice


def test_the_module_answers_for_its_training_set(digits):
    data = PartDataModule(DigitsParts, distractors=1)
    with pytest.raises(RuntimeError, match="setup"):
        _ = data.classes
    data.setup("fit")
    train = data.train_set
    data.setup("validate")
    assert data.train_set is train
    assert (data.classes, data.parts, data.background) == (digits.classes, digits.parts, None)
    assert (data.channels, data.image_size) == (1, (48, 48))
    assert data.mean == train.mean and data.std == train.std


def test_augmentation_is_for_training_draws_only():
    data = PartDataModule(DigitsParts, augmentation={"flip": True, "shift": 0.1}, redraw=False)
    data.setup()
    plain = DigitsParts("train", redraw=False)
    assert torch.equal(data.train_set[0].image, plain[0].image)
    assert data.val_set.augmentation is None
    changed = [not torch.equal(data.train_set[Draw(0, 0, i)].image, plain[i].image) for i in range(10)]
    assert all(changed)


def test_no_object_is_in_training_and_validation_neither_as_it_is_nor_mirrored():
    data = PartDataModule(DigitsParts, augmentation={"flip": True})
    data.setup()
    train, val = data.train_set, data.val_set
    assert not set(train.names) & set(val.names)
    assert len(train) + len(val) == 1797  # mirror images are drawn, never added to the list
    known = {scan.tobytes() for scan in (*train.scans, *train.scans[:, :, ::-1])}
    assert not [name for name, scan in zip(val.names, val.scans, strict=True) if scan.tobytes() in known]
    assert all(torch.equal(val[index].image, DigitsParts("val")[index].image) for index in range(3))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"workers": -1}, "workers=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"distractor": 3}, "distractor: the data set has no such option; nearest: distractors"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        PartDataModule(DigitsParts, **options)


class Lacking(Numbers):
    def __init__(self, split: str = "train", *, split_lacking: str = "val", skipped: int = 0):
        super().__init__(count=0 if split == split_lacking else 10)
        self.skipped = [Skipped(f"{split}-{i}.png", 'is, in short, "bad"') for i in range(skipped)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_refused(split):
    with pytest.raises(ValueError, match=f"split '{split}' has no image"):
        PartDataModule(Lacking, split_lacking=split).setup()


def test_a_class_without_training_images_is_refused():
    data = PartDataModule(_one_class)
    with pytest.raises(ValueError, match="no training image of class 'few'"):
        data.setup()


def _one_class(split: str) -> Numbers:
    numbers = Numbers(count=10)
    if split == "train":
        numbers.labels = torch.zeros(10, dtype=torch.int64)
    return numbers


def test_images_left_out_are_written_to_the_quarantine_list(tmp_path, caplog):
    path = tmp_path / "new" / "quarantine.csv"
    PartDataModule(Lacking, split_lacking="", skipped=2, quarantine=path).setup()
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "reason"]
    assert [row[0] for row in rows[1:]] == ["train-0.png", "train-1.png", "val-0.png", "val-1.png"]
    assert rows[1][1] == 'is, in short, "bad"'
    assert "4 images left out" in caplog.text
    assert [p.name for p in path.parent.iterdir()] == ["quarantine.csv"]


class Recorder(LightningModule):
    """Remembers what it was trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[int, list[float]] = {}

    def training_step(self, batch, _):
        self.seen.setdefault(self.current_epoch, []).extend(batch.images.flatten().tolist())
        return (self.weight * batch.images.mean()).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore::Warning")
def test_lightning_sets_the_epoch_and_a_resumed_training_goes_on_with_the_same_images(tmp_path):
    def trainer(epochs):
        return Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False,
        )  # fmt: skip

    straight = Recorder()
    trainer(4).fit(straight, datamodule=module())
    expected = passes(module(), 4)
    assert [straight.seen[epoch] for epoch in range(4)] == [seen.tolist() for seen in expected]

    first = Recorder()
    half = trainer(2)
    half.fit(first, datamodule=module())
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = Recorder()
    trainer(4).fit(resumed, datamodule=module(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert resumed.seen == {epoch: straight.seen[epoch] for epoch in (2, 3)}
    assert torch.equal(resumed.weight, straight.weight)


def test_loaders_take_rank_and_world_size_from_torch_distributed(monkeypatch):
    data = module()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        loader = data.val_dataloader()
        seen.append([name for batch in loader for name in batch.names][: loader.sampler.own])
        assert len(data.train_dataloader()) == 3  # 12 images a rank
    assert seen == [[str(i) for i in range(rank, 23, 2)] for rank in range(2)]


class OnADevice(PartDataModule):
    """Takes the CPU for a GPU: batches travel as bytes and are finished after the transfer."""

    def _device(self):
        return torch.device("meta")


@pytest.mark.parametrize("augmentation", [None, {"flip": True, "shift": 0.1, "scale": 0.1, "colour": 0.3}])
def test_a_batch_that_is_finished_on_the_device_is_the_same(tmp_path, augmentation):
    rng = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / ("disc", "bar")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    options = {
        "root": tmp_path,
        "image_size": 9,
        "batch_size": 4,
        "augmentation": augmentation,
        "pin_memory": False,
    }
    here, there = PartDataModule(ImageFolderParts, **options), OnADevice(ImageFolderParts, **options)
    for data in (here, there):
        data.setup()
    for finished, raw in zip(here.train_dataloader(), there.train_dataloader(), strict=True):
        assert isinstance(raw, RawBatch) and raw.batch.images.dtype == torch.uint8
        sent = there.transfer_batch_to_device(raw, torch.device("cpu"), 0)
        found = there.on_after_batch_transfer(sent, 0)
        assert torch.equal(found.images, finished.images) and found.names == finished.names
        assert here.on_after_batch_transfer(finished, 0) is finished
    assert isinstance(
        next(iter(there.val_dataloader())), PartBatch
    )  # pages and measures iterate over it themselves


def test_workers_are_capped_at_the_cores_and_chosen_where_they_pay(monkeypatch, caplog):
    monkeypatch.setattr("interp_cnn.hardware.memory.cores", lambda: 2)
    monkeypatch.setattr("interp_cnn.data.datamodule.cores", lambda: 2)
    assert PartDataModule(Numbers, workers=1000).workers == 2
    assert "data.workers=1000: this process has 2 cores; 2 workers are taken" in caplog.text
    assert (
        module(workers="auto").train_dataloader().num_workers == 0
    )  # on the CPU the network needs the cores
    drawn = OnADevice(Numbers, batch_size=4)
    drawn.setup()
    assert drawn.train_dataloader().num_workers == 1
    drawn.train_set.in_memory = True
    assert drawn.train_dataloader().num_workers == 0
    for wrong in (2.5, True, "many", None):
        with pytest.raises(ValueError, match=f"workers={wrong}: expected auto, or 0 or more"):
            PartDataModule(Numbers, workers=wrong)
    with pytest.raises(ValueError, match="pin_memory=often: expected auto, true or false"):
        PartDataModule(Numbers, pin_memory="often")


def test_a_batch_that_no_memory_holds_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr("interp_cnn.hardware.memory.free_memory", lambda: 8)
    with pytest.raises(
        ValueError, match=r"batch_size=4 images of 1 x 1 pixels, 1 batches .* take .* are free"
    ):
        module()


class SlowRecorder(Recorder):
    def training_step(self, batch, number):
        time.sleep(0.03)
        return super().training_step(batch, number)


class Slow(Numbers):
    def view(self, index, generator):
        time.sleep(0.01)
        return super().view(index, generator)


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(
    ("images", "bound"), [(Slow, "bound by the images"), (Numbers, "bound by the network")]
)
def test_a_training_says_how_fast_it_was_and_what_it_waited_for(images, bound, caplog):
    data = PartDataModule(images, batch_size=4)
    network = Recorder() if images is Slow else SlowRecorder()
    speed = Throughput()
    with caplog.at_level("INFO"):
        Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[speed],
            enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False,
        ).fit(network, datamodule=data)  # fmt: skip
    assert speed.batches == 5 and 0 < speed.waiting <= speed.seconds
    assert bound in caplog.text and "batches a second" in caplog.text
