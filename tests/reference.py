"""The papers' equations as plain loops in float64: the oracle of the tests, slow and literal."""

import math

import numpy as np


def distance(a: tuple[int, int], b: tuple[int, int], norm: str) -> float:
    """Distance of two cells in cells."""
    down, right = a[0] - b[0], a[1] - b[1]
    return math.hypot(down, right) if norm == "l2" else abs(down) + abs(right)


def templates(height: int, width: int, beta: float, norm: str) -> np.ndarray:
    """Section 3 of the CVPR paper with tau = 1."""
    side = max(height, width)
    result = np.empty((height * width + 1, height, width))
    for row in range(height):
        for column in range(width):
            for i in range(height):
                for j in range(width):
                    d = distance((i, j), (row, column), norm)
                    result[row * width + column, i, j] = max(1 - beta * d / side, -1)
    result[-1] = -1
    return result


def mask(feature_map: np.ndarray, beta: float, norm: str) -> np.ndarray:
    """One map (h, w) times the positive part of the template at its first maximum."""
    height, width = feature_map.shape
    best = (0, 0)
    for i in range(height):
        for j in range(width):
            if feature_map[i, j] > feature_map[best]:
                best = (i, j)
    result = np.zeros_like(feature_map)
    for i in range(height):
        for j in range(width):
            value = 1 - beta * distance((i, j), best, norm) / max(height, width)
            result[i, j] = max(feature_map[i, j] * max(value, 0), 0)
    return result


class Likelihoods:
    """All probabilities of one filter's maps (B, h, w), by the definitions below Eq. (1)."""

    def __init__(self, maps: np.ndarray, bank: np.ndarray, prior: np.ndarray | None = None, partition=None):
        images, count = len(maps), len(bank)
        self.score = [[float((maps[x] * bank[t]).sum()) for t in range(count)] for x in range(images)]
        self.prior = [1 / count] * count if prior is None else list(prior)
        own = [sum(math.exp(self.score[x][t]) for x in range(images)) for t in range(count)]
        self.partition = own if partition is None else partition
        self.given = [
            [math.exp(self.score[x][t]) / self.partition[t] for t in range(count)] for x in range(images)
        ]
        self.image = [sum(self.prior[t] * self.given[x][t] for t in range(count)) for x in range(images)]
        self.posterior = [
            [self.prior[t] * self.given[x][t] / self.image[x] for t in range(count)] for x in range(images)
        ]


def mutual_information(maps: np.ndarray, bank: np.ndarray, prior: np.ndarray | None = None) -> float:
    """Eq. (1) without the minus, in nats."""
    p = Likelihoods(maps, bank, prior)
    return sum(
        p.prior[t] * p.given[x][t] * math.log(p.given[x][t] / p.image[x])
        for t in range(len(bank))
        for x in range(len(maps))
    )


def entropy_terms(maps: np.ndarray, bank: np.ndarray) -> tuple[float, float, float]:
    """H(T), H({T-, T+} | X) and sum_x p(T+, x) H(T+ | X = x) of Eq. (5)."""
    p = Likelihoods(maps, bank)
    prior = -sum(q * math.log(q) for q in p.prior)
    category = spatial = 0.0
    for x in range(len(maps)):
        negative = p.posterior[x][-1]
        positive = sum(p.posterior[x][:-1])
        category -= p.image[x] * sum(q * math.log(q) for q in (negative, positive))
        within = [q / positive for q in p.posterior[x][:-1]]
        spatial -= p.image[x] * positive * sum(q * math.log(q) for q in within)
    return prior, category, spatial


def eq4_gradient(maps: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """dMI/dx with Z_T held fixed, term by term: Eq. (4) with the right sign."""
    p = Likelihoods(maps, bank)
    result = np.zeros_like(maps)
    for x in range(len(maps)):
        for t in range(len(bank)):
            factor = p.prior[t] * p.given[x][t]
            factor *= p.score[x][t] - math.log(p.partition[t] * p.image[x])
            result[x] += factor * bank[t]
    return result
