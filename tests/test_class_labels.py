"""The class that a filter carries, against those of its strongest images."""

import torch

from interp_cnn.evaluation.filters.class_labels import class_purity, label_agreement


def example():
    """Thirty images of three classes; filter 0 fires for class 1 alone, 1 for classes 0 and 2 in turn, 2 never."""
    labels = torch.arange(30) % 3
    scores = torch.zeros(30, 3)
    scores[:, 0] = (labels == 1) * torch.linspace(1, 2, 30)
    scores[:, 1] = (labels != 1) * torch.linspace(1, 2, 30)
    return scores, labels


def test_purity_and_agreement_by_hand():
    scores, labels = example()
    once = torch.ones(1, 30, dtype=torch.uint8)
    purity = class_purity(scores, labels, once, 3)[0]
    assert purity[:2].tolist() == [1.0, 0.5] and purity[2].isnan()
    for categories, expected in (([1, 0, -1], [1, 1]), ([0, 1, -1], [0, 0]), ([1, 2, -1], [1, 1])):
        agrees = label_agreement(scores, labels, torch.tensor(categories), once, 3)[0]
        assert agrees[:2].tolist() == expected and agrees[2].isnan()


def test_resamplings_count_an_image_as_often_as_it_was_drawn():
    scores, labels = example()
    weights = torch.zeros(2, 30, dtype=torch.uint8)
    weights[0] = 1
    weights[1, 29], weights[1, 27] = 7, 3  # the strongest of class 2, and one of class 0
    purity = class_purity(scores, labels, weights, 3)[:, 1]
    assert purity[0] == 0.5 and purity[1] == 0.3  # the class that is kept, of the first row, is 0
    agrees = label_agreement(scores, labels, torch.tensor([1, 0, -1]), weights, 3)[:, 1]
    assert agrees.tolist() == [1, 0]
