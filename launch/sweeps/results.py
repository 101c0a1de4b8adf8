"""The CSV of a sweep: one row a run."""

import collections
import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from launch.support import files
from launch.support.errors import UserError
from launch.sweeps.runs import Run, name_of

KEY = ("variant", "sparsity", "seed")
OWN = ("wall_seconds", "peak_memory_mb", "arguments")
"""Columns that are the sweep's: time of the process, its peak of resident memory."""

Row = dict[str, str]


def read(path: pathlib.Path) -> list[Row]:
    """The rows so far; none without a file.

    Raises:
      UserError: for a file that is not the CSV of a sweep, or has a run twice.
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if rows and not {*KEY, *OWN} <= set(rows[0]):
        raise UserError(
            f"Expected {path} to be the CSV of a sweep, with the columns "
            f"{', '.join((*KEY, *OWN))}. Received: {', '.join(rows[0])}"
        )
    runs = collections.Counter(tuple(row[name] for name in KEY) for row in rows)
    twice = [name_of(key) for key, count in runs.items() if count > 1]
    if twice:
        raise UserError(
            f"Expected {path} to have one row a run. Received: several of "
            f"{', '.join(twice)}"
        )
    return rows


def missing(runs: Sequence[Run], rows: Sequence[Row]) -> list[Run]:
    """The runs that have no row.

    Raises:
      UserError: for a row of a run with other flags.
    """
    known = {tuple(row[name] for name in KEY): row["arguments"] for row in rows}
    for run in runs:
        arguments = known.get(run.key)
        if arguments is not None and arguments != run.recorded:
            raise UserError(
                f"Expected the row of {run.name} to be of a run with these flags: name "
                "another --sweep_dir, or another --csv and folder. Received: a row with "
                f"{arguments}"
            )
    return [run for run in runs if run.key not in known]


def ordered(rows: Sequence[Row], runs: Sequence[Run]) -> list[Row]:
    """The rows in the order of their runs, not of their ends; rows of no run come last."""
    place = {run.key: number for number, run in enumerate(runs)}
    return sorted(
        rows,
        key=lambda row: place.get((row[KEY[0]], row[KEY[1]], row[KEY[2]]), len(runs)),
    )


def append(
    path: pathlib.Path, run: Run, result: Mapping[str, Any], own: Sequence[str]
) -> None:
    """Adds the row of a run; the file is replaced as a whole, never half written.

    Args:
      path: the CSV.
      run: the run.
      result: of launch/train.py, by column.
      own: the values of the first two of `OWN`.
    """
    rows = read(path)
    row = dict(zip(KEY, run.key, strict=True))
    row |= {name: _text(value) for name, value in result.items() if name not in row}
    row |= dict(zip(OWN, (*own, run.recorded), strict=True))
    rows.append(row)
    names = dict.fromkeys(name for each in rows for name in each)
    columns = [name for name in names if name not in OWN] + [*OWN]
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.replacing(path) as part,
        open(part, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
