"""Do the filters together know where the parts are? Landmarks regressed on positions.

Within each category, from the positions of all filters to each landmark by ridge regression, learnt on one half of the
images that show it and tried on the other, then the halves change roles; the error is the distance between the landmark
and what is predicted, over the image's diagonal. No single filter needs to be at a part. Beside it the error of the
mean place (a constant) and that with few filters: ranked on the learning half by how well each predicts alone, as many
as cross-validation there asks for.

Thewlis, Bilen, Vedaldi, "Unsupervised Learning of Object Landmarks by Factorized Spatial Embeddings", ICCV 2017,
section 4 (linear regression without bias on one set of faces, tried on another; here with the mean place as its bias).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict
from torch import Tensor

# Images that show a landmark, at least, for halves that something can be learnt on; and of a category, at most.
FEWEST, MOST = 10, 2000
PENALTIES = np.logspace(-4, 3, 15)  # of places in image diagonals
FEW = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class LandmarkErrors:
    """Distances to the true landmark over the image's diagonal, (N, P) each, NaN where it is unknown or too rare.

    Attributes:
        every: predicted from all filters.
        few: from the few best ones.
        constant: the mean place of the learning half.
    """

    every: Tensor
    few: Tensor
    constant: Tensor


def landmark_errors(
    positions: Tensor,
    fires: Tensor,
    landmarks: Tensor,
    labels: Tensor,
    *,
    diagonal: float,
    seed: int = 0,
) -> LandmarkErrors:
    """Errors of landmarks that are regressed on positions, each image predicted by the half that it is not in.

    Args:
        positions: (N, D, 2) pixels.
        fires: (N, D) bool; where a filter is silent, its mean place in the learning half stands in.
        landmarks: (N, P, 2) pixels, NaN where unknown.
        labels: (N,) int64, categories; one regression for each category and landmark that at least 10 images show.
        diagonal: of the image, in pixels.
        seed: of the halves; the same for networks that are to be compared.
    """
    shape = landmarks.shape[:2]
    errors = {
        name: torch.full(shape, torch.nan, dtype=torch.float64) for name in LandmarkErrors.__annotations__
    }
    places = (positions.double() / diagonal).where(fires.unsqueeze(2), torch.nan).numpy()  # (N, D, 2)
    aims = (landmarks.double() / diagonal).numpy()
    for part in range(shape[1]):
        for learn, test in _halves(landmarks[:, part].isfinite().all(dim=1), labels, seed):
            target = aims[learn, part]
            inputs, unseen = _filled(places[learn], places[test])
            chosen = few_best(inputs, target)
            guesses = {
                "every": _ridge(inputs, target).predict(_flat(unseen)),
                "few": _ridge(inputs[:, chosen], target).predict(_flat(unseen[:, chosen])),
                "constant": target.mean(axis=0),
            }
            for name, guess in guesses.items():
                errors[name][test, part] = torch.from_numpy(np.linalg.norm(guess - aims[test, part], axis=1))
    return LandmarkErrors(**errors)


def images_to_learn_from(landmarks: Tensor, labels: Tensor, seed: int) -> Tensor:
    """(n,) int64, in order: the images with a landmark of `landmarks` (N, P, 2), at most 2,000 of a category."""
    annotated = landmarks.isfinite().all(dim=2).any(dim=1)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique().tolist():
        members = (annotated & (labels == label)).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:MOST]])
    return torch.cat(chosen).sort().values


def few_best(places: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The filters, best first, that predict `target` (n, 2) best in cross-validation: one of the sizes of `FEW`.

    They are ranked by how well each alone predicts, by least squares: the share of the target's variance that the
    position's two coordinates explain. `places` is (n, D, 2) without NaN.
    """
    centred = target - target.mean(axis=0)
    explained = []
    for filter_places in np.moveaxis(places, 1, 0):
        inputs = filter_places - filter_places.mean(axis=0)
        guess = inputs @ np.linalg.lstsq(inputs, centred, rcond=None)[0]
        explained.append(float((guess**2).sum()))
    order = np.argsort(-np.array(explained), kind="stable")
    folds = min(5, len(target))
    errors = {}
    for size in FEW:
        if size <= len(order):
            guess = cross_val_predict(_penalised(), _flat(places[:, order[:size]]), target, cv=folds)
            errors[size] = float(np.linalg.norm(guess - target, axis=1).mean())
    return order[: min(errors, key=lambda size: (errors[size], size))]


def _halves(known: Tensor, labels: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Image numbers to learn on and to try on, both ways, for every category with enough of them."""
    for label in labels.unique().tolist():
        members = (known & (labels == label)).nonzero().flatten()
        if len(members) < FEWEST:
            continue
        mixed = members[torch.randperm(len(members), generator=torch.Generator().manual_seed(seed))]
        first, second = mixed.tensor_split(2)
        yield first, second
        yield second, first


def _filled(learn: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a filter is silent: its mean place among the images to learn on, or 0 if it never fires there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing
        usual = np.nan_to_num(np.nanmean(learn, axis=0))
    return np.where(np.isnan(learn), usual, learn), np.where(np.isnan(test), usual, test)


def _flat(places: np.ndarray) -> np.ndarray:
    return places.reshape(len(places), -1)


def _penalised() -> RidgeCV:
    return RidgeCV(alphas=PENALTIES)


def _ridge(places: np.ndarray, target: np.ndarray) -> RidgeCV:
    return _penalised().fit(_flat(places), target)
