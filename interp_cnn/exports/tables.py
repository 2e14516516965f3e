"""Tables as CSV and, where pyarrow is installed, as Parquet."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO

import pandas as pd

FORMATS = ("csv", "parquet")


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that is unknown or that nothing installed can write."""
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"table_formats: no format {name!r}; there are {', '.join(FORMATS)}")
    if "parquet" in formats and importlib.util.find_spec("pyarrow") is None:
        raise ValueError("table_formats: parquet needs pyarrow: pip install 'interp-cnn[parquet]'")


def table_files(
    tables: Mapping[str, pd.DataFrame], formats: Sequence[str], *, place: str
) -> Iterator[tuple[str, bytes]]:
    """Names, inside the folder `place`, and contents of each table in each format."""
    for name, table in tables.items():
        for kind in formats:
            if kind == "csv":
                yield f"{place}/{name}.csv", table.to_csv(index=False, lineterminator="\n").encode("utf-8")
            else:
                buffer = BytesIO()
                table.to_parquet(buffer, index=False)
                yield f"{place}/{name}.parquet", buffer.getvalue()
