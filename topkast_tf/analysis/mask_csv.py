"""The CSV of mask dynamics: its columns, its lines, and whether a file is one."""

import csv
import io
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from topkast_tf.analysis.mask_history import Measurement, OtherFiles
from topkast_tf.analysis.mask_measures import MEASURES

COLUMNS = ("step", "since", "weight", *MEASURES)
"""Columns of the CSV: a line for each weight at each measurement, and one for `ALL`."""
ALL = "(all)"
"""The name of the line for all weights together."""


def header() -> str:
    """The first line."""
    return _line(COLUMNS)


def csv_lines(paths: Sequence[str], past: Sequence[Measurement]) -> str:
    """The lines of measurements.

    Args:
      paths: of the weights, in the order of the values.
      past: the measurements.
    """
    lines = []
    for step, since, values, _ in past:
        for name, row in zip([*paths, ALL], values, strict=True):
            cells = ["" if math.isnan(value) else f"{value:.9g}" for value in row]
            lines.append(_line([step, since, name, *cells]))  # None: an empty cell
    return "".join(lines)


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def check_csv(path: pathlib.Path, is_remembered: bool) -> None:
    """Raises `ValueError` for a path that cannot be written to or a file of another kind.

    Ours may be damaged where it can be made again from what is remembered.
    """
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(
            "`csv` must be the path of a file, in a folder that exists. "
            f"Received: csv={str(path)!r}"
        )
    if not path.exists() or is_remembered:
        return
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        columns = next(csv.reader(file), [])
    if columns and tuple(columns) != COLUMNS:
        raise OtherFiles(
            f"Expected a `csv` with the columns {','.join(COLUMNS)}, or a new file. "
            f"Received: csv={str(path)!r} with the columns {','.join(columns)}"
        )
