"""Annotation tables: CSV files read with pandas, every complaint with the file and the line."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def read_table(path: str | os.PathLike[str], columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file with a header, every value as text, an empty one as "".

    Args:
        path: of the file.
        columns: those that it must have; it may have more.

    Returns:
        A frame whose index is the line number in the file (the header is line 1); blank lines are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a table, lacks a column or has no row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,
                index_col=False,
                skip_blank_lines=False,
                encoding="utf-8-sig",
            )
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' parser errors are ValueErrors
        raise ValueError(f"{path}: not a CSV table ({' '.join(str(error).split())})") from error
    table = table.fillna("")
    table.index = pd.RangeIndex(2, len(table) + 2)
    table = table.set_axis([str(column).strip() for column in table.columns], axis=1)
    for column in columns:
        if column not in table.columns:
            near = difflib.get_close_matches(column, table.columns, 1, 0.5)
            hint = f"; nearest: {repr(near[0])[1:-1]}" if near else ""
            known = ", ".join(repr(name)[1:-1] for name in table.columns)
            raise ValueError(f"{path}, line 1: no column {column!r}{hint}; the table has {known}")
    for column in table.columns:
        # such text ends up in messages, file names and reports
        odd = table.index[[not text.isprintable() for text in table[column]]]
        if len(odd):
            text = table.loc[odd[0], column]
            raise ValueError(f"{path}, line {odd[0]}: {text!r} has characters that cannot be printed")
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise ValueError(f"{path}: the table has a header and no row")
    return table


def numbers(table: pd.DataFrame, column: str, path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """A column as numbers, NaN where it is empty.

    Raises:
        ValueError: for text that is not a finite number, naming file and line.
    """
    text = table[column].str.strip()
    values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero((text != "").to_numpy() & ~np.isfinite(values))
    if len(bad):
        row = table.index[bad[0]]
        raise ValueError(f"{path}, line {row}: {column} is {text[row]!r}, expected a number")
    return values


def file_below(root: Path, name: str, where: str) -> Path:
    """The path of a file that a table names relative to `root`.

    Raises:
        ValueError: if the name is empty or leads out of `root`.
    """
    parts = PurePosixPath(name).parts
    if (
        not name
        or "\0" in name
        or ".." in parts
        or PurePosixPath(name).is_absolute()
        or PureWindowsPath(name).drive
    ):
        raise ValueError(f"{where}: file {name!r} is not a path below {root}")
    return root / name
