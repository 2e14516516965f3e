import tempfile
from pathlib import Path

import pytest
import torch

from interp_cnn.evaluation.filters.answer_file import RECORD, AnswerFile


def answers(images, filters=5):
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(49, (images, filters), generator=generator)
    return cells, torch.randn(images, filters, generator=generator)


@pytest.mark.parametrize("batch", [1, 7, RECORD, 3 * RECORD + 1])
def test_what_was_appended_comes_back_by_filter_and_by_image(batch):
    cells, scores = answers(2 * RECORD + 17)
    file = AnswerFile(5)
    for some, heights in zip(cells.split(batch), scores.split(batch), strict=True):
        file.append(some, heights)
    chosen = torch.tensor([4, 0, 2])
    found = file.block(chosen)
    assert torch.equal(found[0], cells[:, chosen].int()) and torch.equal(found[1], scores[:, chosen])
    assert torch.equal(file.heights, scores.amax(dim=0)) and file.images == len(scores)
    covered = []
    for images, some, heights in file.chunks():
        covered += range(len(scores))[images]
        assert torch.equal(some, cells[images].int()) and torch.equal(heights, scores[images])
    assert covered == list(range(len(scores)))


def test_images_may_be_appended_after_a_look():
    cells, scores = answers(40)
    file = AnswerFile(5)
    for some, heights in zip(cells.split(15), scores.split(15), strict=True):
        file.append(some, heights)
        assert len(file.block(torch.tensor([1]))[1]) == file.images
    assert torch.equal(file.block(torch.arange(5))[1], scores)


def test_in_memory_stays_no_more_than_a_record_and_on_the_disk_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = AnswerFile(5)
    for _ in range(30):
        file.append(*answers(100))
        assert len(file._waiting) < RECORD
    assert file._size == 3000 // RECORD * RECORD * 5 * 8
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = AnswerFile(5)
    with open("/dev/full", "r+b", buffering=0) as full:
        monkeypatch.setattr(file, "_file", full)
        with pytest.raises(ValueError, match=r"No space left on device .* 40 bytes per image .* TMPDIR"):
            file.append(*answers(RECORD))
