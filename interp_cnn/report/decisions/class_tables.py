"""The numbers about classes and their filters as CSV.

class_filters.csv   a row for every network, class and filter: mean share, in what part of the class's images it is
                    positive, place among the filters of the class
few_filters.csv     accuracy against filters per class: the network's own head with few filters, and scoring sheets
scoring_sheet.csv   the sparsest scoring sheet within one point of each network: a row for each weight, and one
                    without a filter for each class's bias
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from interp_cnn.report.decisions.class_contents import ClassReading


def class_tables(readings: Sequence[ClassReading]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Names of the files and their tables; none without readings."""
    if not readings:
        return
    rows = []
    for sheet in (sheet for reading in readings for sheet in reading.sheets):
        table = pd.DataFrame({"share": sheet.shares, "often": sheet.often})
        table.insert(0, "filter", range(len(table)))
        table["rank"] = table["share"].rank(ascending=False, method="first").astype(int)
        table.insert(0, "class", sheet.target)
        table.insert(0, "network", sheet.network)
        rows.append(table.assign(images=sheet.images))
    if rows:
        yield "class_filters.csv", pd.concat(rows)
    all_few = [reading.few for reading in readings]
    yield (
        "few_filters.csv",
        pd.DataFrame(
            [
                (few.network, kind, count, accuracy, few.accuracy, few.images)
                for few in all_few
                for kind, points in (("own head", few.kept), ("scoring sheet", few.sheets))
                for count, accuracy in points
            ],
            columns=["network", "head", "filters_per_class", "accuracy", "accuracy_of_network", "images"],
        ),
    )
    weights = pd.DataFrame(
        [(few.network, it.target, it.filter, it.weight) for few in all_few for it in few.scoring],
        columns=["network", "class", "filter", "weight"],
    )
    yield "scoring_sheet.csv", weights.astype({"filter": "Int64"})
