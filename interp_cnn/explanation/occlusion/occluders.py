"""Windows and a fill together: the pixels that a batch of windows changes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_cnn.explanation.occlusion.fills import Fill
from interp_cnn.explanation.occlusion.windows import WindowGrid


@dataclass(eq=False)
class WindowList:
    """Some windows of a grid, asked for with one fill after another.

    Attributes:
        positions: (row, column) of each.
        cells: where their pixels lie, once somebody needed it; the same for all fills and images of the grid.
    """

    positions: tuple[tuple[int, int], ...]
    cells: Tensor | None = None


class Occluders:
    """What one draw of a fill puts into the windows of a grid, for some images.

    A fill that does not look at what is hidden gives one replacement image, of which every window is a view; for
    the others the replacement is computed window by window on the surroundings the fill asks for.
    """

    def __init__(self, images: Tensor, grid: WindowGrid, fill: Fill, sample: int = 0) -> None:
        self.images, self.grid, self.fill, self.sample = images, grid, fill, sample
        height, width = grid.size
        self.lead = max(-grid.row_starts[0], 0), max(-grid.column_starts[0], 0)
        if fill.reach is None:
            self.replacement = fill.replace(images, None, sample)
            below = max(grid.row_starts[-1] + height - grid.image_size[0], 0)
            behind = max(grid.column_starts[-1] + width - grid.image_size[1], 0)
            margins = (0, 0, self.lead[1], behind, self.lead[0], below)
            difference = (self.replacement - images).permute(0, 2, 3, 1)
            self.difference = F.pad(difference, margins).contiguous()  # (B, H + margins, W + margins, C)

    def changes(self, chosen: range, rows: tuple[int, ...], columns: tuple[int, ...]) -> Tensor:
        """Replacement minus image in the uncut windows rows x columns, zero where shape or image end.

        Args:
            chosen: images.
            rows: window rows, equally spaced.
            columns: window columns, equally spaced.

        Returns:
            (I, A, B, height, width, C).
        """
        shape = None if self.grid.shape is None else self.grid.shape.to(self.images)[:, :, None]
        if self.fill.reach is not None:
            windows = [(row, column) for row in rows for column in columns]
            return self._local_changes(chosen, windows).unflatten(1, (len(rows), len(columns)))
        image, row, column, _ = self.difference.stride()
        top = self.grid.row_starts[rows[0]] + self.lead[0]
        left = self.grid.column_starts[columns[0]] + self.lead[1]
        down = (rows[1] - rows[0]) * self.grid.stride[0] if len(rows) > 1 else 0
        across = (columns[1] - columns[0]) * self.grid.stride[1] if len(columns) > 1 else 0
        view = self.difference.as_strided(
            (len(chosen), len(rows), len(columns), *self.grid.size, self.difference.shape[-1]),
            (image, down * row, across * column, row, column, 1),
            chosen.start * image + top * row + left * column,
        )
        return view.contiguous() if shape is None else view * shape

    def listed_changes(self, chosen: range, windows: WindowList) -> Tensor:
        """As `changes`, but of any windows: (I, W, height, width, C)."""
        if self.fill.reach is not None:
            return self._local_changes(chosen, list(windows.positions))
        if windows.cells is None:
            windows.cells = self._cells(windows).to(self.difference.device)
        some = self.difference[chosen.start : chosen.stop].flatten(1, 2)
        changes = some.index_select(1, windows.cells)
        changes = changes.unflatten(1, (len(windows.positions), *self.grid.size))
        return changes if self.grid.shape is None else changes * self.grid.shape.to(changes)[:, :, None]

    def _cells(self, windows: WindowList) -> Tensor:
        """(W height width,) cells of `difference` in the windows."""
        rows, columns = torch.tensor(windows.positions).T
        row_starts = torch.tensor(self.grid.row_starts)[rows] + self.lead[0]
        column_starts = torch.tensor(self.grid.column_starts)[columns] + self.lead[1]
        down = row_starts[:, None] + torch.arange(self.grid.size[0])
        right = column_starts[:, None] + torch.arange(self.grid.size[1])
        return (down[:, :, None] * self.difference.shape[2] + right[:, None]).flatten()

    def strengths(self) -> Tensor:
        """How much each window changes each image, (B, rows, columns), on the CPU.

        The squared change summed over the window; for a fill that looks at what is hidden, which is computed window by
        window, the squared distance of the hidden pixels from the image's mean instead.
        """
        if self.fill.reach is None:
            change = self.replacement - self.images
        else:
            change = self.images - self.images.mean((2, 3), keepdim=True)
        return self.grid.gather(change.double().square().sum(1).cpu())

    def occluded(self, index: int, windows: list[tuple[int, int]]) -> Tensor:
        """(N, C, H, W): image `index` with one of the windows (row, column) hidden in each copy."""
        image = self.images[index]
        copies = image.expand(len(windows), *image.shape).clone()
        values = None if self.fill.reach is None else self._values(range(index, index + 1), windows)
        rows, columns = self.grid.rows, self.grid.columns
        for number, (row, column) in enumerate(windows):
            box = (slice(None), slice(*rows[row]), slice(*columns[column]))
            new = self.replacement[index][box] if values is None else values[number][0]
            if self.grid.shape is not None:
                new = torch.where(self.grid.hidden(row, column).to(image.device), new, image[box])
            copies[(number, *box)] = new
        return copies

    def _local_changes(self, chosen: range, windows: list[tuple[int, int]]) -> Tensor:
        channels = self.images.shape[1]
        changes = self.images.new_zeros(len(chosen), len(windows), *self.grid.size, channels)
        values = self._values(chosen, windows)
        for number, (row, column) in enumerate(windows):
            (top, bottom), (left, right) = self.grid.rows[row], self.grid.columns[column]
            first, second = top - self.grid.row_starts[row], left - self.grid.column_starts[column]
            old = self.images[chosen.start : chosen.stop, :, top:bottom, left:right]
            hidden = self.grid.hidden(row, column).to(old)
            change = ((values[number] - old) * hidden).permute(0, 2, 3, 1)
            changes[:, number, first : first + bottom - top, second : second + right - left] = change
        return changes

    def _values(self, chosen: range, windows: list[tuple[int, int]]) -> list[Tensor]:
        """Per window (I, C, h, w): new values of its rectangle, cut at the image's border."""
        reach, size = self.fill.reach, self.grid.image_size
        assert reach is not None  # else one replacement serves all windows
        alike: dict[tuple, list[int]] = defaultdict(list)
        for number, (row, column) in enumerate(windows):
            spans = (self.grid.rows[row], self.grid.columns[column])
            crop = tuple(
                (max(a - reach, 0), min(b + reach, n)) for (a, b), n in zip(spans, size, strict=True)
            )
            # windows whose surroundings have the same size and place in them are filled together
            place = tuple((a - c, b - c, d - c) for (a, b), (c, d) in zip(spans, crop, strict=True))
            cut = spans[0][0] - self.grid.row_starts[row], spans[1][0] - self.grid.column_starts[column]
            alike[(place, cut)].append(number)
        values: dict[int, Tensor] = {}
        for (((top, bottom, height), (left, right, width)), _), numbers in alike.items():
            crops, hidden = [], torch.zeros(height, width, dtype=torch.bool, device=self.images.device)
            hidden[top:bottom, left:right] = self.grid.hidden(*windows[numbers[0]]).to(hidden.device)
            for number in numbers:
                first = self.grid.rows[windows[number][0]][0] - top
                second = self.grid.columns[windows[number][1]][0] - left
                part = self.images[chosen.start : chosen.stop]
                crops.append(part[:, :, first : first + height, second : second + width])
            batch = torch.stack(crops).flatten(0, 1)  # (windows x I, C, h, w)
            masks = hidden[None, None].expand(len(batch), 1, height, width)
            new = self.fill.replace(batch, masks, self.sample)[:, :, top:bottom, left:right]
            for number, window_values in zip(numbers, new.unflatten(0, (len(numbers), -1)), strict=True):
                values[number] = window_values
        return [values[number] for number in range(len(windows))]
