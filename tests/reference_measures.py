"""The measures once more, as plain float64 loops written from their definitions: slow, literal, the oracle of
the tests.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from interp_cnn.explanation.network.feature_maps import feature_maps


def pixels_that_reach(network: nn.Module, layer: str, image_size: tuple[int, int]):
    """First and last image row (column) that each row (column) of cells depends on.

    A NaN in the image reaches exactly the cells whose window contains it: it survives convolutions, poolings,
    ReLU and zero weights, which gradients of a trained network do not.
    """
    height, width = image_size
    channels = next(iter(network.parameters())).shape[1]
    clean = torch.zeros(1, channels, height, width)
    ends = []
    for axis, pixels in enumerate(image_size):
        seen: list[list[int]] = []
        for pixel in range(pixels):
            image = clean.clone()
            image.select(2 + axis, pixel).fill_(float("nan"))
            touched = feature_maps(network, image, layer).isnan()[0].any(dim=0).any(dim=1 - axis)  # (cells,)
            seen = seen or [[] for _ in touched]
            for cell in touched.nonzero().flatten().tolist():
                seen[cell].append(pixel)
        ends.append([(min(pixels_of_cell), max(pixels_of_cell)) for pixels_of_cell in seen])
    return ends


def standard_deviation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def distance(one: Tensor, two: Tensor) -> float:
    return math.hypot(float(one[0]) - float(two[0]), float(one[1]) - float(two[1]))


def strongest(scores: Tensor, candidates: list[int], top_images: int) -> list[int]:
    """The candidates with the highest scores, the earlier one first among equals; a repeated candidate counts
    again.
    """
    return sorted(candidates, key=lambda image: -float(scores[image]))[:top_images]


def spread_between_images(images: list[int], values: list[float]) -> float:
    """Square root of half the mean squared difference over pairs of draws of different images."""
    squares = [
        (values[a] - values[b]) ** 2 / 2
        for a in range(len(images))
        for b in range(len(images))
        if images[a] != images[b]
    ]
    return math.sqrt(sum(squares) / len(squares))


def location_instability(
    positions: Tensor,
    scores: Tensor,
    landmarks: Tensor,
    diagonal: float,
    top_images: int,
    drawn: list[int] | None = None,
) -> list[float]:
    """Zhang, Wu, Zhu 2018, section 4.2. `drawn` lists the images of a resampling, with repetitions."""
    images, filters = scores.shape
    drawn = sorted(range(images) if drawn is None else drawn)
    result = []
    for f in range(filters):
        deviations = []
        for k in range(landmarks.shape[1]):
            having = [i for i in drawn if not torch.isnan(landmarks[i, k]).any()]
            judged = strongest(scores[:, f], having, top_images)
            distances = [distance(positions[i, f], landmarks[i, k]) / diagonal for i in judged]
            if len(set(judged)) == len(judged) >= 2:
                deviations.append(standard_deviation(distances))
            elif len(set(judged)) >= 2:
                deviations.append(spread_between_images(judged, distances))
        result.append(sum(deviations) / len(deviations) if deviations else math.nan)
    return result


def best_constant(
    scores: Tensor,
    landmarks: Tensor,
    cells: Tensor,
    diagonal: float,
    top_images: int,
    drawn: list[int] | None = None,
) -> list[float]:
    """Instability of the best fixed spot on the images on which each filter is judged."""
    answers = [
        location_instability(cell.expand(*scores.shape, 2), scores, landmarks, diagonal, top_images)
        for cell in cells
    ]
    return [min(answer[f] for answer in answers) for f in range(scores.shape[1])]


def threshold(maps: Tensor, tail: float) -> list[float]:
    """Per filter the smallest activation, or zero, that at most a share `tail` of all cells exceeds."""
    result = []
    for f in range(maps.shape[1]):
        values = sorted(maps[:, f].flatten().tolist(), reverse=True)
        result.append(max(0.0, values[int(tail * len(values))]))
    return result


def round_region(map_: Tensor, bound: float, field, radius: float) -> set[tuple[int, int]]:
    """Pixels within `radius` of the receptive-field centre of a cell above `bound`."""
    pixels = set()
    for i in range(map_.shape[0]):
        for j in range(map_.shape[1]):
            if map_[i, j] > bound:
                row, column = (field.start[a] + field.stride[a] * (i, j)[a] for a in (0, 1))
                for y in range(field.image_size[0]):
                    for x in range(field.image_size[1]):
                        if (y - row) ** 2 + (x - column) ** 2 <= radius**2:
                            pixels.add((y, x))
    return pixels


def pixels_of(mask: Tensor) -> set[tuple[int, int]]:
    return {(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]}


def part_interpretability(
    maps: Tensor,
    labels: Tensor,
    masks: Tensor,
    categories: list[int],
    field,
    radius: float,
    tail=0.005,
    iou=0.2,
) -> list[float]:
    """Zhang, Wu, Zhu 2018, section 4.2: P_f = max_k of the share of the category's images in which S_f covers
    part k.
    """
    bounds = threshold(maps, tail)
    result = []
    for f in range(maps.shape[1]):
        shares = []
        for k in range(masks.shape[1]):
            hits = []
            for i in range(maps.shape[0]):
                part = pixels_of(masks[i, k])
                if int(labels[i]) != categories[f] or not part:
                    continue
                region = round_region(maps[i, f], bounds[f], field, radius)
                hits.append(len(region & part) / len(region | part) > iou)
            if hits:
                shares.append(sum(hits) / len(hits))
        result.append(max(shares) if shares else math.nan)
    return result


def dissection_iou(maps: Tensor, masks: Tensor, image_size: tuple[int, int], tail=0.005) -> list[list[float]]:
    """Bau et al. 2017, section 3.2, for evenly spaced cells: bilinear maps, pixels counted over the whole
    data set.
    """
    bounds = threshold(maps, tail)
    upsampled = torch.nn.functional.interpolate(maps, image_size, mode="bilinear", align_corners=False)
    result = []
    for f in range(maps.shape[1]):
        row = []
        for k in range(masks.shape[1]):
            both = either = 0
            for i in range(maps.shape[0]):
                if masks[i].any():
                    above, part = upsampled[i, f] > bounds[f], masks[i, k]
                    both += int((above & part).sum())
                    either += int((above | part).sum())
            row.append(both / either if either else 0.0)
        result.append(row)
    return result


def parts_in_window(position, landmarks: Tensor, height: int, width: int, window: float) -> list[bool]:
    """Which parts lie in a window of the image's sides times `window` around a position."""
    return [
        abs(float(mark[0]) - float(position[0])) <= window * height / 2 + 1e-4
        and abs(float(mark[1]) - float(position[1])) <= window * width / 2 + 1e-4
        for mark in landmarks
    ]


def presences(positions, scores, landmarks, drawn: list[int], f: int, size, window: float) -> list[float]:
    """Huang et al. 2023: of the drawn images that show part k, the share with k in the window."""
    found = []
    for k in range(landmarks.shape[1]):
        having = [i for i in drawn if not torch.isnan(landmarks[i, k]).any()]
        hits = [
            float(scores[i, f]) > 0 and parts_in_window(positions[i, f], landmarks[i], *size, window)[k]
            for i in having
        ]
        found.append(sum(hits) / len(hits) if hits else math.nan)
    return found


def purities(
    positions, scores, landmarks, kinds: list[int], drawn: list[int], f: int, size, window: float, top: int
):
    """PIP-Net: among the strongest drawn images with any landmark, the share with each kind of part in the patch."""
    annotated = [i for i in drawn if not torch.isnan(landmarks[i]).any(dim=1).all()]
    best = [i for i in strongest(scores[:, f], annotated, top) if float(scores[i, f]) > 0]
    found = {}
    for kind in sorted(set(kinds)):
        hits = 0
        for i in best:
            inside = parts_in_window(positions[i, f], landmarks[i], *size, window)
            hits += any(inside[k] for k in range(len(kinds)) if kinds[k] == kind)
        found[kind] = hits / len(best) if best else math.nan
    return found


def grid_pointing(map_: Tensor, side: int, right: list[int]) -> float:
    """Boehle, Fritz, Schiele 2021, section 5.2: positive evidence in the right tiles over all positive evidence."""
    height, width = map_.shape
    inside = total = 0.0
    for y in range(height):
        for x in range(width):
            tile = int((y + 0.5) / height * side) * side + int((x + 0.5) / width * side)
            value = max(float(map_[y, x]), 0.0)
            total += value
            inside += value if tile in right else 0.0
    return inside / total if total else 0.0


def single_deletion(network: nn.Module, image: Tensor, target: int, map_: Tensor, colour: Tensor) -> float:
    """Hesse, Schaub-Meyer, Roth 2024, section 3: Spearman's correlation over 4 x 4 patches, one pass for each."""
    from scipy.stats import spearmanr

    height, width = (length // 4 for length in map_.shape)
    relevance, drops = [], []
    with torch.no_grad():
        whole = float(network(image[None])[0, target])
        for row in range(4):
            for column in range(4):
                rows = slice(row * height, (row + 1) * height)
                columns = slice(column * width, (column + 1) * width)
                without = image.clone()
                without[:, rows, columns] = colour[:, None, None]
                relevance.append(float(map_[rows, columns].double().sum()))
                drops.append(whole - float(network(without[None])[0, target]))
    return float(spearmanr(relevance, drops).statistic)


def exact_quantile(values, tail=0.005):
    """T_f from all `values` (D, n) at once: the smallest value, or zero, that at most a share `tail` exceeds."""
    budget = int(tail * values.shape[1])
    return values.sort(dim=1, descending=True).values[:, budget].clamp(min=0)
