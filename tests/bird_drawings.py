"""A small folder in the published layout of CUB-200-2011, drawn: for the tests of `data.cub200`."""

from pathlib import Path

import numpy as np
from PIL import Image

SPECIES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
PARTS = ("beak", "left eye", "left leg", "right eye", "right leg")
SIZE, BOX = (60, 40), (10.0, 4.0, 30.0, 20.0)  # width, height; x, y, width, height


def parts_of(number: int) -> dict[str, tuple[float, float]]:
    """Where the visible parts of a drawing are, (x, y) pixels: of even numbers one eye, of odd ones both."""
    x, y = 14.0 + number % 5, 8.0
    eyes = {"right eye": (x + 4, y)} if number % 2 == 0 else {"left eye": (x + 2, y), "right eye": (x + 4, y)}
    return {"beak": (x, y), **eyes, "left leg": (x + 8, 30.0)}  # the leg lies below the box


def drawn_birds(root: Path, *, images: int = 12) -> Path:
    """Writes drawings and the text files; every third image of a species is for training."""
    texts: dict[str, list[str]] = {
        "classes.txt": [f"{n} {name}" for n, name in enumerate(SPECIES, 1)],
        "images.txt": [],
        "image_class_labels.txt": [],
        "train_test_split.txt": [],
        "bounding_boxes.txt": [],
        "parts/parts.txt": [f"{n} {name}" for n, name in enumerate(PARTS, 1)],
        "parts/part_locs.txt": [],
    }
    for number in range(1, images + 1):
        species = SPECIES[(number - 1) % len(SPECIES)]
        name = f"{species}/{species.partition('.')[2]}_{number:04d}.jpg"
        file = root / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((SIZE[1], SIZE[0], 3), 60, dtype=np.uint8)
        left, top, width, height = (int(length) for length in BOX)
        pixels[top : top + height, left : left + width] = 40 * SPECIES.index(species) + number
        points = parts_of(number)
        x, y = (round(place) for place in points["beak"])
        pixels[y, x] = 255
        Image.fromarray(pixels).save(file, quality=100, subsampling=0)
        texts["images.txt"].append(f"{number} {name}")
        texts["image_class_labels.txt"].append(f"{number} {SPECIES.index(species) + 1}")
        texts["train_test_split.txt"].append(f"{number} {int((number - 1) // len(SPECIES) % 2 == 0)}")
        texts["bounding_boxes.txt"].append(f"{number} {' '.join(map(str, BOX))}")
        for part, part_name in enumerate(PARTS, 1):
            x, y = points.get(part_name, (0.0, 0.0))
            texts["parts/part_locs.txt"].append(f"{number} {part} {x} {y} {int(part_name in points)}")
    (root / "parts").mkdir()
    for name, lines in texts.items():
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
