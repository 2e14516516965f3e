"""What a run shows of itself in a notebook: facts, and a validation image of each class."""

from collections.abc import Mapping

from interp_cnn.data.datamodule import PartDataModule

MOST = 12  # images


def run_html(facts: Mapping[str, str], data: PartDataModule) -> str:
    """A table of facts above a row of images with their classes."""
    from interp_cnn.figures.notebook import photograph, sheet_html, table_html

    labels = data.val_set.labels.tolist()
    chosen = [labels.index(label) for label in sorted(set(labels))[:MOST]]
    pictures = [photograph(data.val_set[place].image) for place in chosen]
    names = [data.classes[labels[place]] for place in chosen]
    return f"<div>{table_html([*facts.items()])}{sheet_html(pictures, names, columns=6)}</div>"
